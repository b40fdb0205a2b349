"""An account for agents of the system: created once, taken away only if it was us who created it."""

from __future__ import annotations

from pathlib import Path

import pytest

from swarmbus.errors import StorageError, UsageError
from swarmbus.provision.carry_out import carry_out
from swarmbus.provision.outcome import Outcome
from swarmbus.provision.prepare import prepare
from swarmbus.provision.resources.account import Account
from swarmbus.provision.resources.base import Verb
from swarmbus.provision.service_account import is_ours, prepare_account, remove_empty_folders
from swarmbus.provision.system import User
from swarmbus.provision.uninstall import prepare_uninstall
from tests.provision.fake_system import FakeSystem
from tests.provision.installing import LAYOUT, inspector
from tests.provision.sandbox import tree
from tests.provision.test_init import Host

PASSWD = Path("/etc/passwd")
HOME = Path("/var/lib/swarmbus")


@pytest.fixture
def host(tmp_path: Path) -> Host:
    made = Host(tmp_path / "root")
    made.write(PASSWD, "root:x:0:0:root:/root:/bin/bash\n")
    return made


def _run(host: Host, *, gone: bool = False) -> Outcome:
    prepared = prepare_account(host.system(), "swarmbus", gone=gone, layout=LAYOUT, inspector=inspector())
    return carry_out(prepared)


def _uninstall(host: Host) -> Outcome:
    prepared = prepare_uninstall(host.system(), everything=True, layout=LAYOUT, inspector=inspector())
    assert prepared is not None
    outcome = carry_out(prepared)
    assert not outcome.failed
    return outcome


def test_it_is_created_with_a_home_and_without_a_shell(host: Host) -> None:
    outcome = _run(host)
    assert outcome.changed
    assert "swarmbus:x:999:999::/var/lib/swarmbus:/usr/sbin/nologin" in host.read(PASSWD)
    assert host.at(HOME).stat().st_mode & 0o777 == 0o700
    assert not _run(host).changed


def test_it_goes_with_an_empty_home(host: Host) -> None:
    before = host.read(PASSWD)
    _run(host)
    assert _run(host, gone=True).changed
    assert host.read(PASSWD) == before
    assert not host.at(HOME).exists()


def test_one_that_was_there_before_stays(host: Host) -> None:
    host.write(PASSWD, "swarmbus:x:990:990::/srv/bus:/bin/bash\n")
    assert not _run(host).changed
    assert not _run(host, gone=True).changed
    assert host.read(PASSWD) == "swarmbus:x:990:990::/srv/bus:/bin/bash\n"


def test_what_is_set_up_for_root_himself_is_kept_apart(host: Host) -> None:
    host.init(agent_id="planner")
    _run(host)
    assert not host.prepare().plan.changed
    assert _run(host, gone=True).changed
    assert not host.prepare().plan.changed


def test_root_uninstalls_his_own_and_leaves_an_account_that_is_in_use(host: Host) -> None:
    before = tree(host.root)
    host.init(agent_id="planner")
    _run(host)
    host.write(HOME / "sync/coder-inbox.md", "of an agent there")
    said = _uninstall(host)
    assert any("the account swarmbus stays" in note for note in said.notes)
    assert "swarmbus:" in host.read(PASSWD)
    assert is_ours(host.system(), LAYOUT, "swarmbus")
    host.at(HOME / "sync/coder-inbox.md").unlink()
    remove_empty_folders(host.system(), HOME)
    _run(host, gone=True)
    assert host.read(PASSWD) == "root:x:0:0:root:/root:/bin/bash\n"
    assert not host.at(LAYOUT.state).exists(), "nothing is ours any more"
    assert not {name for name in set(tree(host.root)) - set(before) if "swarmbus" in name}


def test_root_takes_an_account_along_that_nobody_uses(host: Host) -> None:
    _run(host)
    _uninstall(host)
    assert host.read(PASSWD) == "root:x:0:0:root:/root:/bin/bash\n"
    assert not host.at(LAYOUT.state).exists()


@pytest.mark.parametrize("name", ["", "-r", "a b", "../x", "a:b", "Upper", "x" * 33])
def test_a_name_that_is_none_reaches_no_command(name: str) -> None:
    account = Account.from_record("account:x", {"name": name})
    with pytest.raises(StorageError, match="not the name of an account"):
        account.commands(FakeSystem())
    with pytest.raises(StorageError, match="not the name of an account"):
        account.undo_commands(FakeSystem(), {"present": False}, None)


def test_agents_of_the_system_do_not_run_as_root() -> None:
    system = FakeSystem(user=User("root", 0, 0, Path("/root")), root="root")
    with pytest.raises(UsageError, match="do not run as root") as caught:
        prepare(system, {"scope": "system"}, layout=LAYOUT, inspector=inspector())
    assert "--user swarmbus" in (caught.value.hint or "")


def test_the_plan_says_what_is_created(host: Host) -> None:
    plan = prepare_account(host.system(), "swarmbus", layout=LAYOUT, inspector=inspector()).plan
    assert [(action.verb, action.scope) for action in plan.actions] == [(Verb.CREATE, "root")]
    assert "/usr/sbin/useradd --system" in (plan.root_script or "")
