"""What an upgrade decides before it begins, what it leaves on the disk, and how a mailbox comes back."""

from __future__ import annotations

import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from swarmbus.errors import CannotRun, Conflict, ExitStatus, StorageError, UsageError
from swarmbus.mailbox.store import SCHEMA_VERSION, Mailbox
from swarmbus.provision.environments import Kept
from swarmbus.provision.installation import Installation, Interpreter, detect
from swarmbus.provision.journal import Journal
from swarmbus.provision.layout import Layout
from swarmbus.provision.mailbox_copy import back_up, bring_back, schema_of
from swarmbus.provision.system import Result
from swarmbus.provision.upgrade import Upgrade
from swarmbus.provision.upgrade_plan import Wish, look
from swarmbus.provision.upgrade_record import Record, load_record, save
from tests.provision.fake_system import FakeSystem

RESCUE = Path(__file__).resolve().parents[2] / "templates/rescue/swarmbus-rescue.sh"
PREFIX = Path("/home/pi/.local/share/swarmbus/venv")
LAYOUT = Layout.under(Path("/home/pi"))
HERE = Installation("linked-venv", PREFIX, "1.0.0", "/home/pi/swarmbus")


def _system(*, free_kb: int = 10_000_000) -> FakeSystem:
    def programs(_: FakeSystem, argv: tuple[str, ...], root: bool) -> Result | None:
        match argv[0]:
            case "du":
                return Result(argv, 0, f"60000\t{argv[-1]}\n")
            case "df":
                head = "Filesystem 1024-blocks Used Available Capacity Mounted on"
                return Result(argv, 0, f"{head}\n/dev/sda1 20000000 1 {free_kb} 1% /\n")
        return None

    system = FakeSystem(programs=programs)
    system.put("/home/pi/swarmbus/swarmbus/version.py", '__version__ = "1.1.0"\n')
    system.put(str(LAYOUT.provision / "lock"))
    return system


def test_without_a_word_it_comes_from_where_the_installed_one_came() -> None:
    plan = look(_system(), LAYOUT, HERE, Wish())
    assert (plan.target, plan.requirement) == ("1.1.0", "/home/pi/swarmbus")


def test_wheel_says_its_version_by_its_name() -> None:
    system = _system()
    system.put("/tmp/swarmbus-2.0.0-py3-none-any.whl")
    plan = look(system, LAYOUT, HERE, Wish(source=Path("/tmp/swarmbus-2.0.0-py3-none-any.whl")))
    assert plan.target == "2.0.0"


@pytest.mark.parametrize("source", ["/tmp/swarmbus-2.0.0-py3-none-any.whl", "/home/pi/elsewhere"])
def test_source_that_is_none_is_refused(source: str) -> None:
    with pytest.raises(UsageError):
        look(_system(), LAYOUT, HERE, Wish(source=Path(source)))


def test_extras_are_asked_for_again() -> None:
    here = Installation("pipx", PREFIX, "1.0.0", None, ("mcp",))
    assert look(_system(), LAYOUT, here, Wish("1.2.0")).requirement == "swarmbus[mcp]==1.2.0"
    there = look(_system(), LAYOUT, here, Wish(source=Path("/home/pi/swarmbus")))
    assert there.requirement == "swarmbus[mcp] @ file:///home/pi/swarmbus"


@pytest.mark.parametrize("wish", [Wish(), Wish("1.2.0"), Wish(source=Path("/home/pi/swarmbus"))])
def test_extra_that_install_sh_has_recorded_is_asked_for_whatever_comes(wish: Wish) -> None:
    site = PREFIX / "lib/python3.11/site-packages"
    system = _system()
    system.put(str(site / "swarmbus-1.0.0.dist-info/METADATA"))
    system.put(str(site / "swarmbus-1.0.0.dist-info/direct_url.json"), '{"url": "file:///home/pi/swarmbus"}')
    system.put(str(PREFIX / ".extras"), "mcp\n")
    system.link(str(PREFIX), "venv-20260101000000-1")
    interpreter = Interpreter(PREFIX, Path("/usr"), Path("/usr/lib/python3.11"), site, Path("/nowhere"))
    plan = look(system, LAYOUT, detect(system, interpreter), wish)
    assert plan.requirement.startswith("swarmbus[mcp]")


@pytest.mark.parametrize(("version", "needless"), [("1.0.0", True), ("1.0.1", False)])
def test_release_that_is_installed_is_not_installed_again(version: str, needless: bool) -> None:
    assert look(_system(), LAYOUT, HERE, Wish(version)).is_needless is needless


def test_looking_changes_nothing() -> None:
    system = _system()
    look(system, LAYOUT, HERE, Wish())
    assert system.writes == []


def test_installation_of_somebody_else_is_refused_with_the_command() -> None:
    here = Installation("editable", PREFIX, "1.0.0", owner="/home/pi/src")
    with pytest.raises(CannotRun) as refused:
        look(_system(), LAYOUT, here, Wish())
    assert refused.value.hint == "git -C /home/pi/src pull && swarmbus restart --all"


def test_full_disk_is_seen_before_anything_is_done() -> None:
    with pytest.raises(StorageError, match="MB free"):
        look(_system(free_kb=100_000), LAYOUT, HERE, Wish())


def test_interrupted_init_has_to_be_finished_first() -> None:
    system = _system()
    Journal(system, LAYOUT.provision).begin({"schema": "swarmbus.spec/1"}, None)
    with pytest.raises(Conflict, match="interrupted"):
        look(system, LAYOUT, HERE, Wish())


def test_record_comes_back_from_the_disk_as_it_was() -> None:
    system = _system()
    kept = Kept(
        PREFIX.with_name("venv-1"), (Path("/home/pi/.local/bin/swarmbus"), str(PREFIX / "bin/swarmbus"))
    )
    record = Record(HERE, "swarmbus==2", ("planner", "coder"), kept, "20260101000000", "switched")
    save(system, LAYOUT, record)
    assert load_record(system, LAYOUT) == record


def test_damaged_record_is_an_error_that_names_it() -> None:
    system = _system()
    system.put(str(LAYOUT.provision / "upgrade.json"), "{")
    with pytest.raises(CannotRun, match=r"upgrade\.json is damaged"):
        load_record(system, LAYOUT)


def test_old_version_that_does_not_run_is_no_ground_to_stand_on() -> None:
    system = _system()
    record = Record(HERE, "swarmbus==2", (), Kept(PREFIX.with_name("venv-1")), "1")
    with pytest.raises(CannotRun):
        Upgrade(system, LAYOUT, record).run()
    assert system.writes == []


# the mailbox


def _with_messages(path: Path, *ids: str) -> None:
    Mailbox.open(path).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.executemany(
            "INSERT INTO inbound"
            " (id, sender, recipient, ts, subject, body, content_type, priority, verified, received)"
            " VALUES (?, 'a', 'b', '2026-01-01T00:00:00+00:00', 's', 'b', 'text/plain', 'normal', 0, 0)",
            [(one,) for one in ids],
        )
        connection.commit()


def test_mailbox_comes_back_with_what_arrived_after_the_copy(tmp_path: Path) -> None:
    path, copy = tmp_path / "mailbox.db", tmp_path / "mailbox.db.schema-1"
    _with_messages(path, "one", "two")
    back_up(path, copy)
    assert copy.stat().st_mode & 0o777 == 0o600
    _with_messages(path, "three")
    # As a newer release would leave it: one more column, a higher number.
    with closing(sqlite3.connect(path)) as newer:
        newer.execute("ALTER TABLE inbound ADD COLUMN colour TEXT")
        newer.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
        newer.commit()

    assert bring_back(copy, path) == 1
    assert schema_of(path) == SCHEMA_VERSION
    with closing(sqlite3.connect(path)) as again:
        rows = [row[0] for row in again.execute("SELECT id FROM inbound ORDER BY seq")]
    assert rows == ["one", "two", "three"]
    assert schema_of(tmp_path / "mailbox.db.newer") == SCHEMA_VERSION + 1
    Mailbox.open(path).close()


def test_schema_of_no_mailbox_is_none(tmp_path: Path) -> None:
    assert schema_of(tmp_path / "mailbox.db") is None


# the rescue script


def _rescue(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {"HOME": str(home), "PATH": "/usr/local/bin:/usr/bin:/bin"}
    return subprocess.run(
        ["sh", str(RESCUE), *words], env=environment, capture_output=True, text=True, check=False
    )


def _process_record(home: Path, python: Path) -> None:
    folder = home / ".local/state/swarmbus/.provision/processes"
    folder.mkdir(parents=True)
    (folder / "agent.planner.json").write_text(
        f'{{"argv": ["{python}", "-I", "-m", "swarmbus"], "env": {{}}}}'
    )


def test_rescue_finds_a_python_that_is_gone(tmp_path: Path) -> None:
    environment = tmp_path / ".local/share/pipx/venvs/swarmbus"
    (environment / "bin").mkdir(parents=True)
    (environment / "bin/python").symlink_to("/usr/bin/python3.2")
    (environment / "pipx_metadata.json").write_text("{}")
    _process_record(tmp_path, environment / "bin/python")
    told = _rescue(tmp_path)
    assert told.returncode == 1
    assert f"the Python of {environment} is gone (/usr/bin/python3.2)" in told.stdout
    assert "mend: pipx reinstall swarmbus && swarmbus restart --all" in told.stdout


def test_rescue_finds_a_package_that_is_gone(tmp_path: Path) -> None:
    python = tmp_path / "env/bin/python"
    subprocess.run(
        ["/usr/bin/env", "python3", "-m", "venv", "--without-pip", str(tmp_path / "env")], check=True
    )
    _process_record(tmp_path, python)
    told = _rescue(tmp_path, "planner")
    assert (told.returncode, "No module named 'swarmbus'" in told.stdout) == (1, True)


def test_rescue_without_an_agent_says_so(tmp_path: Path) -> None:
    told = _rescue(tmp_path)
    assert (told.returncode, "mend: swarmbus init" in told.stdout) == (1, True)


def test_rescue_takes_no_other_word_for_an_agent_id(tmp_path: Path) -> None:
    assert _rescue(tmp_path, "$(id)").returncode == ExitStatus.CANNOT_RUN
