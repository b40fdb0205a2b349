"""`swarmbus init` on booted hosts: rights that are missing, brokers that are there, runs that are killed."""

from __future__ import annotations

import json
import shlex
import subprocess
import time
from typing import Any

import pytest

from tests.hosts.conftest import MakeContainer, MakeHost
from tests.lab.hosts import Container, Host
from tests.lab.snapshot import LEFT_BY_DEBIAN, changed, snapshot

SWARMBUS = ".local/bin/swarmbus"
PYTHON = ".local/share/swarmbus/venv/bin/python"
CONF = "/etc/mosquitto/conf.d"
OUR_FILE = f"{CONF}/50-swarmbus.conf"

_LEFT_BY_THE_LISTENER = {"/home/pi/.local/state", "/home/pi/sync", "/home/pi/sync/planner-inbox.md"}

_CANARY_THAT_DIES = """
import json, sys
from swarmbus.provision.carry_out import carry_out
from swarmbus.provision.outcome import GateReport
from swarmbus.provision.prepare import prepare
from swarmbus.provision.local_system import LocalSystem
prepared = prepare(LocalSystem(), json.loads(sys.argv[1]))
outcome = carry_out(prepared, gate=lambda _: GateReport(ok=False, summary="no answer"))
print(json.dumps(outcome.as_json()))
"""


def _install(host: Host, user: str = "pi") -> None:
    host.copy_checkout(f"/home/{user}/swarmbus", owner=user)
    host.ssh("./swarmbus/install.sh --no-init", user=user)


def _talks(host: Host | Container, agent: str, user: str) -> None:
    """A message to itself gets there."""
    run = host.ssh if isinstance(host, Host) else host.run
    told = run(
        f"{SWARMBUS} send --agent-id {agent} --to {agent} --subject s --body b --wait stored", user=user
    )
    assert told.stdout.startswith("stored")


def _plan(host: Host | Container, user: str = "pi", options: str = "") -> dict[str, Any]:
    run = host.ssh if isinstance(host, Host) else host.run
    plan: dict[str, Any] = json.loads(run(f"{SWARMBUS} init {options} --dry-run --json", user=user).stdout)
    return plan


@pytest.mark.parametrize("suite", ["bookworm", "trixie"])
def test_a_user_without_root_gets_a_broker_of_his_own(make_host: MakeHost, suite: str) -> None:
    host = make_host(suite)
    _install(host, "guest")
    done = host.ssh(f"{SWARMBUS} init --agent-id gast --yes", user="guest")
    assert "sudo loginctl enable-linger guest" in done.stderr
    _talks(host, "gast", "guest")
    assert not _plan(host, "guest")["changed"]
    host.ssh(
        f"{SWARMBUS} send --agent-id gast --to nobody-yet --subject s --body b", user="guest", check=False
    )
    host.reboot()
    _talks(host, "gast", "guest")
    assert not _plan(host, "guest")["changed"]
    assert host.run_as_root("ls /etc/mosquitto", check=False).returncode != 0


def test_a_dying_canary_leaves_a_bare_host_as_it_was(make_host: MakeHost) -> None:
    host = make_host("bookworm")
    _install(host)
    before = snapshot(host)
    ran = host.ssh([PYTHON, "-I", "-c", _CANARY_THAT_DIES, json.dumps({"agent_id": "planner"})])
    outcome = json.loads(ran.stdout)
    assert (outcome["failed"], outcome["rolled_back"]) == (True, True), outcome["notes"]
    assert "system:restart:mosquitto.service" in outcome["handlers"], "it had really been set up"
    assert changed(before, snapshot(host)) - LEFT_BY_DEBIAN - _LEFT_BY_THE_LISTENER == set()
    assert host.ssh("systemctl --user list-units 'swarmbus*' --no-legend").stdout == ""


def test_a_dying_canary_leaves_the_broker_that_ran_running(make_host: MakeHost) -> None:
    host = make_host("bookworm")
    _install(host)
    host.run_as_root("apt-get -q -y install mosquitto")
    host.write(f"{CONF}/own.conf", "listener 1883\nallow_anonymous true\nmax_inflight_messages 7\n")
    host.run_as_root("systemctl restart mosquitto")
    before = snapshot(host)
    ran = host.ssh([PYTHON, "-I", "-c", _CANARY_THAT_DIES, json.dumps({"agent_id": "planner"})])
    assert json.loads(ran.stdout)["rolled_back"]
    assert changed(before, snapshot(host)) - _LEFT_BY_THE_LISTENER == set()
    assert host.run_as_root("systemctl is-active mosquitto").stdout == "active\n"
    assert "0.0.0.0:1883" in host.run_as_root("ss -ltn").stdout


def test_a_broken_mosquitto_configuration_is_left_alone(make_host: MakeHost) -> None:
    host = make_host("bookworm")
    _install(host)
    host.run_as_root("apt-get -q -y install mosquitto")
    host.write(f"{CONF}/own.conf", "# mine\npersistence_location /tmp/\n")
    before = snapshot(host)
    ran = host.ssh(f"{SWARMBUS} init --agent-id planner --yes", check=False)
    assert ran.returncode == 2
    assert f"{CONF}/own.conf:2: Duplicate persistence_location" in ran.stderr
    assert changed(before, snapshot(host)) == set()
    assert host.run_as_root("systemctl is-active mosquitto").stdout == "active\n"


def test_sudo_that_needs_a_password_and_has_no_terminal(make_host: MakeHost) -> None:
    host = make_host("bookworm")
    _install(host)
    host.run_as_root("rm -f /etc/sudoers.d/*; echo 'pi ALL=(ALL) ALL' > /etc/sudoers.d/pi")
    before = snapshot(host)
    host.run_as_root("rm -rf /var/lib/apt/lists/*_Packages*; mv /usr/bin/apt-get /usr/bin/apt-get.away")
    ran = host.ssh(f"{SWARMBUS} init --agent-id planner --yes", check=False)
    host.run_as_root("mv /usr/bin/apt-get.away /usr/bin/apt-get")
    assert ran.returncode == 4
    assert "sudo apt-get install -y mosquitto" in ran.stderr
    assert changed(before, snapshot(host)) == set()


def test_an_administrator_runs_the_script_and_the_user_goes_on(make_host: MakeHost) -> None:
    host = make_host("trixie")
    _install(host)
    host.ssh(f"{SWARMBUS} init --agent-id planner --yes")
    host.run_as_root("rm -f /etc/sudoers.d/*")
    before = snapshot(host)
    spec = 'port = 1999\n[[agents]]\nid = "planner"\n[[agents]]\nid = "coder"\n'
    ran = host.ssh(f"{SWARMBUS} apply --spec -", input=spec, check=False)
    assert ran.returncode == 4
    assert "swarmbus init --resume" in ran.stderr
    assert changed(before, snapshot(host)) == set()
    host.run_as_root("sh", input=ran.stdout)
    host.ssh(f"{SWARMBUS} init --resume --yes")
    assert not _plan(host)["changed"]
    _talks(host, "coder", "pi")
    assert "1999" in host.run_as_root("ss -ltn").stdout


def _on_a_terminal(host: Host, command: str, prompt: str, answer: str) -> tuple[int, str]:
    """Run it on a terminal of its own, and give the same answer each time that it asks."""
    ssh = [*host.ssh_command(), "-tt", command]
    said = ""
    with subprocess.Popen(ssh, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        while character := process.stdout.read(1):
            said += character.decode(errors="replace")
            if said.endswith(prompt):
                process.stdin.write(f"{answer}\n".encode())
    return process.returncode, said


def test_sudo_asks_for_the_password_once(make_host: MakeHost) -> None:
    host = make_host("bookworm")
    _install(host)
    # 0: a password is good for one call of sudo and no more.
    rule = "pi ALL=(ALL) ALL\\nDefaults timestamp_timeout=0\\n"
    sudoers = f"rm -f /etc/sudoers.d/*; printf '{rule}' > /etc/sudoers.d/pi; usermod -aG sudo pi"
    host.run_as_root(f"{sudoers}; echo pi:secret | chpasswd")
    init, prompt = f"{SWARMBUS} init --agent-id planner --yes", "password of pi: "
    status, said = _on_a_terminal(host, init, prompt, "wrong")
    assert (status, host.ssh("ls .config/swarmbus", check=False).stdout) == (4, ""), said
    status, said = _on_a_terminal(host, init, prompt, "secret")
    assert (status, said.count(prompt)) == (0, 1), said
    _talks(host, "planner", "pi")


def test_a_broker_that_is_not_there_does_not_take_healthy_agents_down(make_host: MakeHost) -> None:
    host = make_host("bookworm")
    _install(host)
    for agent in ("planner", "coder"):
        host.ssh(f"{SWARMBUS} init --agent-id {agent} --yes")
    nobody = "lladdr 02:00:00:00:00:99 nud permanent"  # what is sent there is lost without an answer
    host.run_as_root("ip route add 10.255.255.1 dev host0")
    host.run_as_root(f"ip neighbour add 10.255.255.1 dev host0 {nobody}")
    pids = "systemctl --user show --property MainPID swarmbus-planner swarmbus-coder"
    before = (host.ssh(pids).stdout, host.ssh("cat .config/swarmbus/config.toml").stdout)
    for broker in ("10.255.255.1", "nowhere.invalid"):
        began = time.monotonic()
        ran = host.ssh(f"{SWARMBUS} init --agent-id remote --broker {broker} --yes", check=False)
        assert (ran.returncode, time.monotonic() - began < 15) == (2, True), ran.stderr
        assert broker in ran.stderr
        assert "nothing was changed" in ran.stderr
    told = host.ssh(f"{SWARMBUS} init --agent-id remote --broker 10.255.255.1 --dry-run").stdout
    assert "init would stop here" in told
    assert "planner, coder will use 10.255.255.1" in told
    assert (host.ssh(pids).stdout, host.ssh("cat .config/swarmbus/config.toml").stdout) == before
    _talks(host, "planner", "pi")


def test_a_signal_in_the_middle_takes_everything_back(make_host: MakeHost) -> None:
    host = make_host("bookworm")
    _install(host)
    host.ssh(f"{SWARMBUS} init --agent-id planner --yes")
    before = host.ssh("cat .config/swarmbus/config.toml").stdout
    init = f"{SWARMBUS} init --agent-id coder --port 1999 --yes"
    written = "until grep -q 1999 .config/swarmbus/config.toml; do sleep 0.02; done"
    ended = host.ssh(f"bash -c {shlex.quote(f'{init} & {written}; kill -TERM $!; wait $!')}", check=False)
    assert ended.returncode == 143, ended.stderr
    assert "taken back" in ended.stderr, "it had begun"
    assert host.ssh("cat .config/swarmbus/config.toml").stdout == before
    assert host.ssh("ls .local/state/swarmbus/.provision/journal.jsonl", check=False).returncode != 0
    assert "not-found" not in host.ssh("systemctl --user list-units --all 'swarmbus*'").stdout

    host.ssh(f"bash -c {shlex.quote(f'{init} & {written}; kill -KILL $!; wait $!')}", check=False)
    assert "was interrupted" in host.ssh(f"{SWARMBUS} init --dry-run").stdout
    host.ssh(f"{SWARMBUS} init --rollback --yes")
    assert host.ssh("cat .config/swarmbus/config.toml").stdout == before
    assert "nothing to take back" in host.ssh(f"{SWARMBUS} init --rollback --yes").stderr
    _talks(host, "planner", "pi")


def test_killed_again_and_again_and_healed(make_host: MakeHost) -> None:
    host = make_host("bookworm")
    _install(host)
    init = f"{SWARMBUS} init --agent-id planner --yes --json"
    resumed = 0
    for tenths in (2, 3, 4, 5, 6, 8, 10, 13, 16, 20):
        killed = host.ssh(f"timeout -s KILL {tenths / 10} {init}", check=False)
        unfinished = host.ssh("test -e .local/state/swarmbus/.provision/journal.jsonl", check=False)
        resumed += unfinished.returncode == 0
        if killed.returncode == 0:
            break
    assert resumed > 1
    done = json.loads(host.ssh(init).stdout)
    assert (done["failed"], done["gate"]["ok"]) == (False, True)
    assert not _plan(host)["changed"]
    _talks(host, "planner", "pi")
    host.reboot()
    _talks(host, "planner", "pi")


def test_two_at_once(make_host: MakeHost) -> None:
    host = make_host("bookworm")
    _install(host)
    init = f"{SWARMBUS} init --agent-id planner --yes --json"
    host.ssh(f"bash -c {shlex.quote(f'{init} > 1 & {init} > 2; wait')}")
    ends = [json.loads(host.ssh(f"cat {number}").stdout) for number in (1, 2)]
    assert [end["failed"] for end in ends] == [False, False]
    assert not _plan(host)["changed"]


def test_twenty_agents_in_one_spec(make_host: MakeHost) -> None:
    host = make_host("trixie")
    _install(host)
    spec = json.dumps({"agents": [{"id": f"agent{number}"} for number in range(1, 21)]})
    done = json.loads(host.ssh(f"{SWARMBUS} apply --spec - --json", input=spec).stdout)
    assert not done["failed"]
    assert [canary["ok"] for canary in done["gate"]["canaries"]] == [True] * 20
    active = host.ssh("systemctl --user list-units --state=active 'swarmbus-*' --no-legend | wc -l")
    assert active.stdout.strip() == "20"
    again = json.loads(host.ssh(f"{SWARMBUS} plan --spec - --json", input=spec).stdout)
    assert not again["changed"]


@pytest.fixture
def container(make_container: MakeContainer) -> Container:
    """A machine on which systemctl exists and systemd does not run, with swarmbus for pi."""
    made = make_container("bookworm")
    made.copy_checkout()
    made.run("./swarmbus/install.sh --no-init")
    return made


def test_without_systemd_there_are_background_processes(container: Container) -> None:
    done = container.run(f"{SWARMBUS} init --agent-id planner --yes")
    assert "background processes" in done.stderr
    _talks(container, "planner", "pi")
    before = container.run("pgrep -a -u pi 'mosquitto|python'").stdout
    assert container.run(f"{SWARMBUS} init --yes --json").returncode == 0
    assert container.run("pgrep -a -u pi 'mosquitto|python'").stdout == before
    container.run("pkill -KILL -u pi mosquitto")
    healed = json.loads(container.run(f"{SWARMBUS} init --yes --json").stdout)
    assert [action["id"] for action in healed["actions"] if action["verb"] == "create"] == ["process:broker"]
    _talks(container, "planner", "pi")


def test_without_systemd_root_sudo_and_lists_of_packages(make_container: MakeContainer) -> None:
    container = make_container("bookworm")
    container.copy_checkout("/home/guest/swarmbus", owner="guest")
    container.run("./swarmbus/install.sh --no-init", user="guest")
    container.run_as_root("rm -rf /var/lib/apt/lists/*")
    container.run(f"{SWARMBUS} init --agent-id gast --yes", user="guest")
    _talks(container, "gast", "guest")
    assert not _plan(container, "guest")["changed"]


def test_root_in_a_container(make_container: MakeContainer) -> None:
    container = make_container("trixie")
    container.copy_checkout("/root/swarmbus", owner="root")
    container.run("/root/swarmbus/install.sh --no-init", user="root")
    container.run("swarmbus init --agent-id planner --yes", user="root")
    told = container.run(
        "swarmbus send --agent-id planner --to planner --subject s --body b --wait stored", user="root"
    )
    assert told.stdout.startswith("stored")
    assert container.run("pgrep -u mosquitto -c mosquitto", user="root").stdout == "1\n"
    assert json.loads(container.run("swarmbus init --json --dry-run", user="root").stdout)["changed"] is False
