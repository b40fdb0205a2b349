"""mosquitto's configuration: read as mosquitto reads it, extended without breaking it, judged by itself."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from swarmbus.errors import CannotRun
from swarmbus.provision import mosquitto
from swarmbus.provision.local_system import LocalSystem
from swarmbus.provision.mosquitto import Additions, Configuration, Listener, additions, load, parse
from swarmbus.provision.mosquitto_trial import try_out
from swarmbus.provision.render import render
from tests.lab.mosquitto_program import Program, program
from tests.provision.fake_system import FakeSystem

MAIN = Path("/etc/mosquitto/mosquitto.conf")


def configuration(**files: str) -> Configuration:
    system = FakeSystem()
    system.put(str(MAIN), "persistence true\ninclude_dir /etc/mosquitto/conf.d\n")
    for name, text in files.items():
        system.put(f"/etc/mosquitto/conf.d/{name}.conf", text)
    return load(system)


def test_a_hash_within_a_line_belongs_to_the_value() -> None:
    (line,) = parse(MAIN, "# comment\n\nmax_queued_messages 5 # five\n")
    assert (line.number, line.option, line.value) == (3, "max_queued_messages", "5 # five")


def test_files_are_read_in_mosquittos_own_order() -> None:
    # the example of mosquitto.conf(5), include_dir
    names = ["b.conf", "A.conf", "01.conf", "a.conf", "B.conf", "00.conf"]
    wanted = ["00.conf", "01.conf", "A.conf", "a.conf", "B.conf", "b.conf"]
    assert sorted(names, key=mosquitto.load_order) == wanted


def test_only_conf_files_of_the_main_files_folder_are_read() -> None:
    found = configuration(a="listener 1\ninclude_dir /elsewhere\n")
    assert [line.option for line in found.lines] == ["persistence", "listener"]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("listener 1883\n", [Listener(1883, None)]),
        ("listener 1883 127.0.0.1\n", [Listener(1883, "127.0.0.1")]),
        ("listener 1883\nbind_interface lo\n", [Listener(1883, None, "lo")]),
        ("listener 0 /run/mosquitto.sock\n", [Listener(0, "/run/mosquitto.sock")]),
        ("port 1884\nbind_address 10.0.0.1\n", [Listener(1884, "10.0.0.1")]),
        ("listener 1 10.0.0.1\nlistener 2\n", [Listener(1, "10.0.0.1"), Listener(2, None)]),
    ],
)
def test_listeners(text: str, wanted: list[Listener]) -> None:
    assert list(configuration(a=text).listeners) == wanted


@pytest.mark.parametrize(
    ("listener", "loopback", "covers"),
    [
        (Listener(1883, None), False, True),
        (Listener(1883, None, "lo"), True, True),
        (Listener(1883, None, "eth0"), False, False),
        (Listener(1883, "localhost"), True, True),
        (Listener(1883, "::1"), True, True),
        (Listener(1883, "100.64.0.7"), False, False),
        (Listener(1883, "0.0.0.0"), False, True),
        (Listener(0, "/run/x.sock"), True, True),
    ],
)
def test_what_a_listener_reaches(listener: Listener, loopback: bool, covers: bool) -> None:
    assert (listener.loopback, listener.covers_loopback) == (loopback, covers)


ALL = tuple(mosquitto.SETTINGS.items())


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", Additions((1883,), True, ALL)),
        ("listener 1883\n", Additions((), False, ALL)),
        ("listener 1884 127.0.0.1\n", Additions((1883,), True, ALL)),
        ("listener 1884\n", Additions((1883,), False, ALL)),
        ("allow_anonymous false\n", Additions((1883,), False, ALL)),
        ("autosave_interval 9\n", Additions((1883,), True, ALL[2:])),
        ("max_queued_messages 0\n", Additions((1883,), True, (*ALL[:2], ALL[3]))),
    ],
)
def test_only_what_is_missing_is_added(text: str, wanted: Additions) -> None:
    assert additions(configuration(a=text), 1883) == wanted


@pytest.fixture
def broker() -> Program:
    return program()


def _try(broker: Program, found: Configuration) -> None:
    try_out(LocalSystem(), Path(broker.argv[-1]), found, dict(broker.environment))


def _stock(tmp_path: Path, ours: str, *others: str) -> Configuration:
    """Debian's configuration as it comes, in a folder of ours, with our file in conf.d."""
    conf_d = tmp_path / "conf.d"
    conf_d.mkdir()
    main = tmp_path / "mosquitto.conf"
    main.write_text(
        f"pid_file {tmp_path}/pid\n\npersistence true\npersistence_location {tmp_path}/\n\n"
        f"log_dest file {tmp_path}/log\n\ninclude_dir {conf_d}\n"
    )
    (conf_d / "50-swarmbus.conf").write_text(ours)
    for number, text in enumerate(others):
        (conf_d / f"other{number}.conf").write_text(text)
    return load(LocalSystem(), main)


@pytest.mark.broker
@pytest.mark.parametrize("others", ["", "listener 18830\n", "allow_anonymous false\nautosave_interval 5\n"])
def test_mosquitto_itself_accepts_what_we_render(tmp_path: Path, broker: Program, others: str) -> None:
    added = additions(configuration(a=others), 1883)
    ours = render("mosquitto/50-swarmbus.conf.j2", additions=added)
    _try(broker, _stock(tmp_path, ours, others))


@pytest.mark.broker
@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("nonsense 7", 'Unknown configuration variable "nonsense"'),
        ("persistence_location /tmp/", "Duplicate persistence_location value in configuration"),
    ],
)
def test_what_mosquitto_does_not_accept_is_told_with_its_line(
    tmp_path: Path, broker: Program, line: str, wanted: str
) -> None:
    found = _stock(tmp_path, "# ours\n", f"# first\n{line}\n")
    with pytest.raises(CannotRun) as caught:
        _try(broker, found)
    assert wanted in caught.value.message
    assert f"{tmp_path}/conf.d/other0.conf:2: " in caught.value.message


@pytest.mark.broker
def test_a_trial_disturbs_nobody(tmp_path: Path, broker: Program) -> None:
    """No port is opened, no bridge connects, no file outside of the scratch folder is written."""
    found = _stock(
        tmp_path,
        "listener 18831\n",
        "connection hub\naddress 127.0.0.1:18831\ntopic # both 1\n",
        "user nobody\n",
    )
    _try(broker, found)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["conf.d", "mosquitto.conf"]


@pytest.mark.broker
def test_the_rendered_listener_is_on_loopback_only(tmp_path: Path, broker: Program) -> None:
    text = render(
        "mosquitto/private.conf.j2",
        user="pi",
        port=18833,
        interface="lo",
        run_as="root" if LocalSystem().user.uid == 0 else None,
        state=tmp_path,
        settings=ALL,
    )
    (tmp_path / "m.conf").write_text(text)
    process = subprocess.Popen(
        [*broker.argv, "-c", tmp_path / "m.conf"],
        env=os.environ | broker.environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stderr is not None
        for line in process.stderr:
            if "running" in line:
                break
        listening = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
        process.terminate()
    addresses = {
        line.split()[1] for line in listening.splitlines() if f":{18833:04X} " in line.split("rem")[0]
    }
    addresses = {address.partition(":")[0] for address in addresses}
    assert addresses <= {"0100007F", "00000000000000000000000001000000"}
    assert "0100007F" in addresses
