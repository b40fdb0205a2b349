"""Everything that swarmbus raises on purpose, and the exit status each becomes.

::

    SwarmbusError                       1  the answer is no
    ├── UsageError                      2  the call was wrong, or could not be run
    │   ├── InvalidAgentId
    │   ├── InvalidMessage                 subject, body, content type, priority
    │   └── ConfigError                    config.toml, environment or flag
    ├── CannotRun                       2
    │   ├── BrokerUnreachable              no connection, or it was lost and did not come back in time
    │   ├── BrokerRefused                  credentials or client id refused by CONNACK
    │   ├── StorageError                   state directory, inbox, outbox: unwritable or full
    │   └── MailboxError                   the mailbox file is damaged or of a newer schema
    ├── NotDelivered                    1  the broker or the receiver said no
    │   ├── NoSubscriber                   MQTT 5 reason code 0x10
    │   ├── NotAuthorized                  MQTT 5 reason code 0x87
    │   └── Rejected                       any other reason code of 0x80 and above
    ├── TimedOut                        1  waited for as long as was asked
    ├── Conflict                        3  something else already holds what we need
    │   ├── ListenerRunning                a second listener daemon for one agent id
    │   └── SessionTaken               78  another host's listener has our session at the broker
    └── NeedsRoot                       4  a step needs root and there is no way to become it

The command line prints ``message`` and ``hint``, nothing else: never a traceback.
"""

from __future__ import annotations

from enum import IntEnum


class ExitStatus(IntEnum):
    """The one table of exit statuses (docs/exit-statuses.md)."""

    DONE = 0
    NO = 1
    CANNOT_RUN = 2
    CONFLICT = 3
    NEEDS_ROOT = 4
    SESSION_TAKEN = 78


class SwarmbusError(Exception):
    """Base of the tree.

    Args:
        message: What was wrong and where, one line, with the offending value in it.
        hint: What to do about it, one line; None where there is nothing useful to say.
    """

    exit_status: ExitStatus = ExitStatus.NO
    code: str = "error"
    """Stable word for programs: the ``error`` key of ``--json``."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(SwarmbusError):
    """The call cannot be carried out as it was made."""

    exit_status = ExitStatus.CANNOT_RUN
    code = "usage"


class InvalidAgentId(UsageError):
    """Not an agent id, or one that nobody may be called."""

    code = "invalid-agent-id"


class InvalidMessage(UsageError):
    """A field of a message is outside its limits."""

    code = "invalid-message"


class ConfigError(UsageError):
    """A setting is unknown, of the wrong type, or its file cannot be parsed."""

    code = "config"


class CannotRun(SwarmbusError):
    """The call was right; something it needs is not there."""

    exit_status = ExitStatus.CANNOT_RUN
    code = "cannot-run"


class BrokerUnreachable(CannotRun):
    """No connection to the broker within the connect time-out, or it was lost."""

    code = "broker-unreachable"


class BrokerRefused(CannotRun):
    """The broker answered CONNECT with a refusal.

    Args:
        reason_code: The CONNACK reason code (MQTT 5, table 3-1), None where only text is known.
    """

    code = "broker-refused"

    def __init__(self, message: str, *, hint: str | None = None, reason_code: int | None = None) -> None:
        super().__init__(message, hint=hint)
        self.reason_code = reason_code


class StorageError(CannotRun):
    """A file or directory that we must write cannot be written."""

    code = "storage"


class MailboxError(CannotRun):
    """The mailbox file is damaged, or was written by a newer release."""

    code = "mailbox"


class NotDelivered(SwarmbusError):
    """The message will not reach its receiver as things stand; it is listed by ``swarmbus outbox``.

    Args:
        message_id: The id of the message concerned, None when it never got one.
    """

    code = "not-delivered"

    def __init__(self, message: str, *, hint: str | None = None, message_id: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.message_id = message_id


class NoSubscriber(NotDelivered):
    """PUBACK 0x10: no live and no stored session matches the receiver's inbox."""

    code = "no-subscriber"


class NotAuthorized(NotDelivered):
    """PUBACK 0x87: the broker's access control forbids this publish."""

    code = "not-authorized"


class Rejected(NotDelivered):
    """PUBACK with another failure code."""

    code = "rejected"


class TimedOut(SwarmbusError):
    """What was waited for did not happen in the time allowed."""

    code = "timeout"


class Conflict(SwarmbusError):
    """Something else already holds what this call needs."""

    exit_status = ExitStatus.CONFLICT
    code = "conflict"


class ListenerRunning(Conflict):
    """A listener daemon for this agent id already runs on this host.

    Args:
        pid: Its process id; None when the holder of the lock could not be read.
    """

    code = "listener-running"

    def __init__(self, message: str, *, hint: str | None = None, pid: int | None = None) -> None:
        super().__init__(message, hint=hint)
        self.pid = pid


class SessionTaken(Conflict):
    """Another listener has our client id, takes the session from us again and again, and is to keep it.

    Args:
        host: Where it runs; None when it does not say.
    """

    exit_status = ExitStatus.SESSION_TAKEN  # EX_CONFIG of sysexits.h: our unit does not start again on it
    code = "session-taken"

    def __init__(self, message: str, *, hint: str | None = None, host: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.host = host


class NeedsRoot(SwarmbusError):
    """A step needs root, and neither root nor sudo is to be had."""

    exit_status = ExitStatus.NEEDS_ROOT
    code = "needs-root"
