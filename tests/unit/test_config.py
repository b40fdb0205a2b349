"""Where a setting comes from, and what is said of one that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from swarmbus.broker import Broker
from swarmbus.config import Settings, load_settings
from swarmbus.errors import ConfigError, ExitStatus, InvalidAgentId, SwarmbusError, UsageError


@pytest.fixture
def config(home: Path) -> Path:
    path = home / ".config" / "swarmbus" / "config.toml"
    path.parent.mkdir(parents=True)
    return path


def refused(flags: dict[str, object] | None = None) -> SwarmbusError:
    with pytest.raises((ConfigError, InvalidAgentId)) as error:
        load_settings(flags)
    assert error.value.exit_status == ExitStatus.CANNOT_RUN
    return error.value


def test_defaults() -> None:
    settings = load_settings()
    assert (settings.broker, settings.port, settings.agent_id) == ("localhost", 1883, None)
    assert (settings.tls, settings.persistent, settings.inbox_keep) == (None, True, 5)
    assert (settings.inbox_max_bytes, settings.invoke_timeout, settings.spool_days) == (
        50 * 2**20,
        600.0,
        7.0,
    )
    assert settings.sources == {}


def test_flag_wins_over_environment_over_agent_over_file_over_default(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told() -> tuple[str, str | None]:
        settings = load_settings({"agent_id": "planner", **flags})
        return settings.broker, settings.sources.get("broker")

    flags: dict[str, object] = {"broker": None}
    assert told() == ("localhost", None)
    config.write_text('broker = "top"\n')
    assert told() == ("top", "config.toml")
    config.write_text('broker = "top"\n[agents.planner]\nbroker = "own"\n[agents.coder]\nbroker = "others"\n')
    assert told() == ("own", "config.toml")
    monkeypatch.setenv("SWARMBUS_BROKER", "variable")
    assert told() == ("variable", "environment")
    flags["broker"] = "flag"
    assert told() == ("flag", "flag")


def test_agent_id_comes_from_flag_environment_or_file(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_text('agent_id = "third"\n[agents.third]\nport = 3\n[agents.first]\nport = 1\n')
    assert (load_settings().agent_id, load_settings().port) == ("third", 3)
    monkeypatch.setenv("SWARMBUS_AGENT_ID", "second")
    assert (load_settings().agent_id, load_settings().port) == ("second", 1883)
    first = load_settings({"agent_id": "first"})
    assert (first.agent_id, first.port, first.sources["agent_id"]) == ("first", 1, "flag")


@pytest.mark.parametrize(
    ("variable", "text", "name", "value"),
    [
        ("SWARMBUS_PORT", "8883", "port", 8883),
        ("SWARMBUS_BROKER_USERNAME", "u", "username", "u"),
        ("SWARMBUS_BROKER_PASSWORD", "p", "password", "p"),
        ("SWARMBUS_BROKER_PASSWORD_FILE", "/p", "password_file", "/p"),
        ("SWARMBUS_BROKER_CA_CERT", "ca", "ca_cert", "ca"),
        ("SWARMBUS_BROKER_CLIENT_CERT", "c", "client_cert", "c"),
        ("SWARMBUS_BROKER_CLIENT_KEY", "k", "client_key", "k"),
        ("SWARMBUS_BROKER_TLS", "yes", "tls", True),
        ("SWARMBUS_BROKER_TLS", "0", "tls", False),
        ("SWARMBUS_INBOX", "~/x", "inbox", "~/x"),
        ("SWARMBUS_INVOKE", "wake it", "invoke", "wake it"),
        ("SWARMBUS_PERSISTENT", "off", "persistent", False),
        ("SWARMBUS_INBOX_MAX_BYTES", "0", "inbox_max_bytes", 0),
        ("SWARMBUS_SPOOL_DAYS", "0.5", "spool_days", 0.5),
        ("SWARMBUS_PORT", "", "port", 1883),
    ],
)
def test_environment(
    monkeypatch: pytest.MonkeyPatch, variable: str, text: str, name: str, value: object
) -> None:
    monkeypatch.setenv(variable, text)
    assert getattr(load_settings(), name) == value


@pytest.mark.parametrize(
    ("variable", "text", "wanted"),
    [
        ("SWARMBUS_PORT", "many", "1 to 65535"),
        ("SWARMBUS_PORT", "-1", "1 to 65535"),
        ("SWARMBUS_PORT", "0", "1 to 65535"),
        ("SWARMBUS_PORT", "65536", "1 to 65535"),
        ("SWARMBUS_BROKER_TLS", "perhaps", "yes or no"),
        ("SWARMBUS_SPOOL_DAYS", "0", "above 0"),
        ("SWARMBUS_SPOOL_DAYS", "inf", "above 0"),
        ("SWARMBUS_SPOOL_DAYS", "nan", "above 0"),
    ],
)
def test_variable_of_the_wrong_type_is_named(
    monkeypatch: pytest.MonkeyPatch, variable: str, text: str, wanted: str
) -> None:
    monkeypatch.setenv(variable, text)
    error = refused()
    assert variable in error.message
    assert repr(text) in error.message
    assert wanted in error.message


def test_outbox_of_the_agent_wins_over_that_of_all(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setenv("SWARMBUS_OUTBOX", "~/{agent_id}/out.md")
    assert load_settings({"agent_id": "my-planner"}).outbox_path == home / "my-planner" / "out.md"
    monkeypatch.setenv("SWARMBUS_OUTBOX_MY_PLANNER", "/own.md")
    assert load_settings({"agent_id": "my-planner"}).outbox_path == Path("/own.md")
    assert load_settings({"agent_id": "coder"}).outbox_path == home / "coder" / "out.md"
    flag = {"agent_id": "my-planner", "outbox": "/flag-{agent_id}.md"}
    assert load_settings(flag).outbox_path == Path("/flag-my-planner.md")


def test_inbox_has_a_default_place(home: Path) -> None:
    assert load_settings({"agent_id": "planner"}).inbox_path == home / "sync" / "planner-inbox.md"
    assert load_settings({"agent_id": "planner", "inbox": "~/x.md"}).inbox_path == home / "x.md"
    assert load_settings({"agent_id": "planner"}).outbox_path is None


def test_what_needs_an_agent_says_so() -> None:
    with pytest.raises(UsageError, match="no agent id") as error:
        load_settings().require_agent_id()
    assert "SWARMBUS_AGENT_ID" in (error.value.hint or "")


# --- the file ------------------------------------------------------------------------------------------


def test_broken_file_is_told_with_its_line(config: Path) -> None:
    config.write_text('broker = "localhost"\nport = = 1\n')
    error = refused()
    assert str(config) in error.message
    assert "line 2" in error.message


@pytest.mark.parametrize(
    ("text", "line", "key", "near"),
    [
        ('brokr = "x"\n', 1, "brokr", "broker"),
        ("port = 1\npor = 2\n", 2, "por", "port"),
        ('# por\n\n"por" = 2\n', 3, "por", "port"),
        ('[agents.planner]\ninbx = "x"\n', 2, "inbx", "inbox"),
        ('agent_id = "a"\n[agents.planner]\nagent_id = "b"\n', 3, "agent_id", None),
        ("[agents.a]\nport = 1\n[agents.b]\n\nprt = 1\n", 5, "prt", "port"),
        ('agents.planner.inbx = "x"\n', 1, "inbx", "inbox"),
        ('broker = "x"\n[ "elsewhere" ]\nport = 1\n', 2, "elsewhere", None),
    ],
)
def test_unknown_key_is_told_with_its_line_and_a_near_one(
    config: Path, text: str, line: int, key: str, near: str | None
) -> None:
    config.write_text(text)
    error = refused()
    assert f"{config}:{line}:" in error.message
    assert repr(key) in error.message
    if near is not None:
        assert repr(near) in (error.hint or "")


@pytest.mark.parametrize(
    "text",
    ['port = "many"', "port = true", "port = 1.5", "port = 70000", "broker = 7", 'broker = ""', "broker = []",
     "tls = 2", "persistent = 'perhaps'", "spool_days = -1", "spool_days = false", "inbox_keep = -1",
     "agent_id = 5", 'broker = "a\\u0000b"'],
)  # fmt: skip
def test_value_of_the_wrong_type_is_told_with_file_and_key(config: Path, text: str) -> None:
    config.write_text(f"{text}\n")
    error = refused()
    assert str(config) in error.message
    assert f"{config}:1: {text.partition(' ')[0]}" in error.message or text.startswith("agent_id")
    assert error.hint


def test_value_of_the_wrong_type_is_told_with_the_line_of_its_table(config: Path) -> None:
    config.write_text('port = 1\n[agents.planner]\n\nport = "abc"\n')
    error = refused({"agent_id": "planner"})
    assert error.message == f"{config}:4: port: 'abc' is not a TCP port (1 to 65535)"
    assert "mend that line" in (error.hint or "")


def test_wrong_password_is_not_shown(config: Path) -> None:
    config.write_text("password = 12345\n")
    error = refused()
    assert "12345" not in f"{error.message} {error.hint}"
    assert "12345" not in repr(Settings(password="12345"))


@pytest.mark.parametrize("text", ["agents = 5", "agents = []", "[agents]\nplanner = 5"])
def test_agents_have_to_be_tables(config: Path, text: str) -> None:
    config.write_text(f"{text}\n")
    assert "[agents.planner]" in (refused().hint or "")


def test_agent_that_cannot_be_called_so_is_told_with_the_file(config: Path) -> None:
    config.write_text("[agents.Planner]\nport = 1\n")
    error = refused()
    assert str(config) in error.message
    assert "'Planner'" in error.message


def test_file_that_cannot_be_read_is_told(config: Path) -> None:
    config.write_bytes(b'broker = "\xff"\n')
    assert "UTF-8" in refused().message
    config.unlink()
    config.mkdir()
    assert str(config) in refused().message


def test_file_may_be_elsewhere(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "other.toml").write_text('broker = "elsewhere"\n')
    monkeypatch.setenv("SWARMBUS_CONFIG", "~/other.toml")
    assert load_settings().broker == "elsewhere"
    monkeypatch.delenv("SWARMBUS_CONFIG")
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")  # to be ignored, says the specification
    assert load_settings().broker == "localhost"


def test_agent_id_is_checked_wherever_it_comes_from(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "'A B'" in refused({"agent_id": "A B"}).message
    monkeypatch.setenv("SWARMBUS_AGENT_ID", "Broadcast")
    assert "'Broadcast'" in refused().message
    monkeypatch.delenv("SWARMBUS_AGENT_ID")
    config.write_text('agent_id = "system"\n')
    assert "'system'" in refused().message


def test_password_comes_from_its_file(home: Path) -> None:
    (home / "password").write_text("secret\nnot this\n")
    broker = Broker.from_settings(load_settings({"password_file": "~/password", "username": "u"}))
    assert (broker.username, broker.password) == ("u", "secret")
    assert Broker.from_settings(Settings(password="direct", password_file="/nowhere")).password == "direct"
    with pytest.raises(ConfigError, match="nowhere: No such file") as error:
        Broker.from_settings(Settings(password_file="/nowhere"))
    assert "first line" in (error.value.hint or "")


def test_flag_that_is_no_setting_is_a_fault_of_ours() -> None:
    with pytest.raises(TypeError, match="brokr"):
        load_settings({"brokr": "x"})
