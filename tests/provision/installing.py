"""What the tests of the installer share: a layout, facts, an observer that remembers."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from swarmbus.provision.host import Distribution
from swarmbus.provision.layout import Layout
from swarmbus.provision.run import Event

HOME = Path("/home/pi")
LAYOUT = Layout.under(HOME)
PYTHON = "/home/pi/.local/share/pipx/venvs/swarmbus/bin/python"


@dataclass
class inspector:  # noqa: N801  # reads like the function it stands for
    """An `Inspector` of a Raspberry Pi."""

    python: str = PYTHON
    machine: str = "aarch64"
    on_port: str | None = None
    old_code: tuple[str, ...] = ()

    def distribution(self) -> Distribution:
        return Distribution("debian", "12", "bookworm", ())

    def program_on_port(self, port: int) -> str | None:
        return self.on_port

    def runs_old_code(self, agent_id: str) -> bool:
        return agent_id in self.old_code


@dataclass
class Remembering:
    """An observer that keeps what it is told."""

    events: list[Event] = field(default_factory=list)

    def tell(self, event: Event) -> None:
        self.events.append(event)

    def hush(self) -> None:
        pass

    def stages(self, stage: str) -> list[str]:
        return [event.step for event in self.events if event.stage == stage]
