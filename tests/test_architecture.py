"""Who may import whom, and what a command may load: what keeps the bus small and `send` cheap."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.listener import Listener
from tests.lab.mosquitto import Broker

CHECKOUT = Path(__file__).resolve().parents[1]

#: The only modules that may import an outside package: their majors rename things, and each is slow to load.
IMPORTERS = {
    "aiomqtt": ["swarmbus.connection"],
    "click": ["swarmbus.cli"],
    "distro": ["swarmbus.provision.host"],
    "jinja2": ["swarmbus.provision.render"],
    "mcp": ["swarmbus.mcp.server", "swarmbus.mcp.tools"],
    "paho": ["swarmbus.connection"],
    "psutil": ["swarmbus.provision.host"],
    "pydantic": ["swarmbus.mcp.tools"],
    "pydantic_core": ["swarmbus.envelope"],
    "rich": ["swarmbus.cli"],
    "tomlkit": ["swarmbus.provision.resources.toml_key"],
    "typing_extensions": ["swarmbus.mcp.results"],
}

#: What provision may know of the bus: names, paths, settings, the listener's socket.
SMALL_MODULES = ["agent_id", "config", "control", "errors", "fingerprint", "paths", "topics", "version"]

#: The doctor's eyes look at a broker, a message's way and a mailbox, and so know the bus as a user does.
LOOKERS = [f"swarmbus.provision.{name}" for name in ("bus", "canary", "mailbox_look", "tls_look")]

#: What is imported under another name than that of the dependency that brings it.
BROUGHT_BY = {"paho": "aiomqtt", "pydantic_core": "pydantic", "typing_extensions": "pydantic"}

#: Modules that take long to load (5 to 100 ms each on a Raspberry Pi 4).
HEAVY = [
    "aiomqtt",
    "asyncio",
    "distro",
    "jinja2",
    "mcp",
    "paho",
    "psutil",
    "pydantic",
    "pydantic_core",
    "rich",
    "sqlite3",
    "ssl",
    "tomlkit",
    "tomllib",
]


def _modules() -> Iterator[tuple[str, Path]]:
    for folder in ("swarmbus", "swarmbus/provision"):
        for file in sorted((CHECKOUT / folder).resolve().rglob("*.py")):
            inside = file.relative_to((CHECKOUT / folder).resolve()).with_suffix("")
            parts = [*folder.split("/"), *inside.parts]
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), file


def _imports(file: Path) -> Iterator[str]:
    """All modules a file imports, also inside functions; those for type checkers only count as well."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            assert node.module is not None
            # `from swarmbus import control` names a module too, `from swarmbus.errors import X` does not.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


MODULES = dict(_modules())
IMPORTS = {module: sorted(set(_imports(file))) for module, file in MODULES.items()}


def _is_in(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def test_every_module_is_seen() -> None:
    assert {"swarmbus.errors", "swarmbus.cli", "swarmbus.provision"} <= set(MODULES)


@pytest.mark.parametrize("module", MODULES)
def test_outside_packages_have_one_importer(module: str) -> None:
    for name in IMPORTS[module]:
        package = name.split(".")[0]
        if package in sys.stdlib_module_names or package in ("swarmbus", "__future__"):
            continue
        assert package in IMPORTERS, (
            f"{module} imports {package}, which nobody may yet: enter its importer here"
        )
        assert any(_is_in(module, allowed) for allowed in IMPORTERS[package]), (
            f"{module} imports {package}, which only {IMPORTERS[package]} may"
        )


@pytest.mark.parametrize("module", [name for name in MODULES if not _is_in(name, "swarmbus.cli")])
def test_nobody_imports_the_command_line(module: str) -> None:
    if module != "swarmbus.__main__":
        assert not [name for name in IMPORTS[module] if _is_in(name, "swarmbus.cli")]


@pytest.mark.parametrize(
    "module",
    [name for name in MODULES if not _is_in(name, "swarmbus.cli") and not _is_in(name, "swarmbus.provision")],
)
def test_bus_does_not_import_provision(module: str) -> None:
    assert not [name for name in IMPORTS[module] if _is_in(name, "swarmbus.provision")]


@pytest.mark.parametrize(
    "module", [name for name in MODULES if _is_in(name, "swarmbus.provision") and name not in LOOKERS]
)
def test_provision_imports_only_small_modules_of_the_bus(module: str) -> None:
    allowed = ["swarmbus.provision", *(f"swarmbus.{name}" for name in SMALL_MODULES)]
    ours = [name for name in IMPORTS[module] if _is_in(name, "swarmbus")]
    assert [name for name in ours if not any(_is_in(name, package) for package in allowed)] == []


def test_dependencies_are_what_is_imported() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    extras = {_bare(name) for extra in project["optional-dependencies"].values() for name in extra}
    imported = {name.split(".")[0] for names in IMPORTS.values() for name in names} & set(IMPORTERS)
    needed = {BROUGHT_BY.get(name, name) for name in imported}
    assert {_bare(name) for name in project["dependencies"]} == needed - extras


def _bare(requirement: str) -> str:
    """``mcp`` of ``mcp>=2.3,<3``."""
    return re.split(r"[^\w-]", requirement)[0]


def _loaded_by(*arguments: str, status: int = 0) -> set[str]:
    """The heavy modules that are loaded after ``swarmbus ARGUMENTS`` has run in a process of its own."""
    program = (
        "import json, sys; from swarmbus.cli import main; status = main();"
        "print('\\n' + json.dumps([status, *sys.modules]))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=60
    )
    found, *names = json.loads(ran.stdout.splitlines()[-1])
    assert found == status, ran.stderr
    return {name for name in names if name in HEAVY}


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["send", "--help"], ["init", "--help"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    assert _loaded_by(*arguments) == set()


def test_send_through_a_running_listener_loads_nothing_heavy(broker: Broker) -> None:
    with Listener("planner", broker):
        arguments = ["send", "--agent-id=planner", f"--port={broker.port}", "--to=planner", "--subject=s"]
        assert _loaded_by(*arguments, "--body=b") == set()


def test_send_without_a_listener_loads_only_what_a_connection_needs(broker: Broker) -> None:
    arguments = ["send", "--agent-id=planner", f"--port={broker.port}", "--to=planner", "--subject=s"]
    unneeded = {"distro", "jinja2", "mcp", "psutil", "rich", "tomlkit", "tomllib"}
    assert _loaded_by(*arguments, "--body=b", status=1) & unneeded == set()


def test_wrong_usage_is_told_without_loading_anything(home: Path) -> None:
    assert _loaded_by("send", "--agent-id=planner", status=2) == set()
