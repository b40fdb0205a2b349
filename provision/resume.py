"""Resume: what an earlier run was for that did not come to its end."""

from __future__ import annotations

from swarmbus.errors import UsageError
from swarmbus.provision import handed_out
from swarmbus.provision.journal import Journal
from swarmbus.provision.layout import Layout
from swarmbus.provision.request import Request
from swarmbus.provision.spec import InstallSpec
from swarmbus.provision.system import System


def request_to_resume(system: System, layout: Layout, take: frozenset[str] = frozenset()) -> Request:
    """The request of the run that was killed, or that waits for what root was to do.

    Raises:
        UsageError: If there is none.
    """
    folder = layout.provision
    if Journal(system, folder).interrupted() is not None:
        return Request(take=take)  # the journal says what it was for
    handed = handed_out.load(system, folder)
    if handed is None:
        raise UsageError("no run of init waits to be resumed", hint="swarmbus init, without --resume")
    spec = InstallSpec.from_json(handed.spec)
    return Request(
        agents=spec.agents,
        broker=spec.broker,
        port=spec.port,
        scope=spec.scope,
        host_types=spec.host_types,
        skip_broker=spec.skip_broker,
        take=take,
    )
