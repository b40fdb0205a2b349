r"""One entry of an inbox or outbox file: written so that no message can forge another, and read again.

A sample, which a blank line precedes in the file::

    ## [2026-04-14 05:00] From: planner | hello
    Got a minute?
    <!-- swarmbus id=9f0c5e0e-2222-4111-8111-111111111111 priority=normal verified=yes -->

Heading and body are those of the existing tool (an outbox says ``To:``). The last line is ours: it ends
the entry, so a file can be read back to exactly the messages that went into it. It is a comment, which
Markdown does not show.

A subject or body comes from outside and may not look like anything of that. In both, characters that
hide or reorder text become visible escapes such as ``\x1b`` and ``\u202e``; in a body, a line that
begins like a heading or like our last line gets a backslash in front. CR LF becomes LF.
Imports nothing that a cheap ``swarmbus send`` would notice.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

if TYPE_CHECKING:
    from swarmbus.envelope import AgentMessage

Direction = Literal["From", "To"]


class Entry(NamedTuple):
    """An entry as it was read.

    Attributes:
        direction: ``From`` in an inbox, ``To`` in an outbox.
        peer: The agent at the other end.
        ts: ``2026-04-14 05:00``, the clock of the sender (UTC, unless it chose another zone).
        body: Without the backslashes that kept its lines from looking like ours; other escapes stay.
        id: None for an entry of the existing tool, as is ``priority``.
        verified: Whether the broker vouched for the sender.
    """

    direction: Direction
    peer: str
    ts: str
    subject: str
    body: str
    id: str | None
    priority: str | None
    verified: bool

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``; the peer is under ``from`` or ``to``."""
        return {
            "ts": self.ts,
            self.direction.lower(): self.peer,
            "subject": self.subject,
            "body": self.body,
            "id": self.id,
            "priority": self.priority,
            "verified": self.verified,
        }


# Controls; the default-ignorable characters of Unicode 15 (DerivedCoreProperties.txt), among them bidi
# controls, zero-width characters and the tags that can carry a hidden text; line and paragraph separator;
# lone surrogates, which UTF-8 cannot carry.
_SUSPECT: Final = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f"
    "\u2028-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\ud800-\udfff"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
_SUSPECT_IN_BODY = re.compile(f"[{_SUSPECT}]")
_SUSPECT_IN_LINE = re.compile(f"[\t\n{_SUSPECT}]")

# Joiners (emoji, Persian, Indic scripts) and variation selectors (emoji) are left where they do their
# work: a joiner between two visible characters outside ASCII, a selector that follows no other one.
_AT_WORK = re.compile(
    "(?<=[^\x00-\x7f\u2000-\u206f\ufeff])[\u200c\u200d](?=[^\x00-\x7f\u2000-\u206f\ufeff])"
    "|(?<![\ufe00-\ufe0f])[\ufe00-\ufe0f]"
)

_HEADING_START: Final = r"\#\#[^\S\n]*\["
_LOOKS_LIKE_OURS = re.compile(
    rf"^(?P<marks>\\*)(?P<rest>[^\S\n]*(?:{_HEADING_START}|<!--[^\S\n]*swarmbus))",
    re.MULTILINE | re.IGNORECASE,
)

_HEADING = re.compile(
    r"^## \[(?P<ts>\d{4}-\d\d-\d\d \d\d:\d\d)\] (?P<direction>From|To): (?P<peer>[a-z0-9_-]{1,64}) \| "
    r"(?P<subject>.*)$",
    re.MULTILINE,
)
_TRAILER = re.compile(
    r"^<!-- swarmbus id=(?P<id>\S*) priority=(?P<priority>\S*)(?P<more>(?: \w+=\S*)*) -->$", re.MULTILINE
)
ENTRY_START: Final = b"\n## ["
"""The bytes with which every entry begins; nothing else in a file that we wrote contains them."""

TRAILER: Final = re.compile(rb"\n<!-- swarmbus id=(\S+) [^\n]*-->\n")
"""The last line of an entry, with its id in `encode_word`'s form; nothing else in our files matches."""

_MINUTE = re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d")
_WORD = re.compile(r"[A-Za-z0-9._~:@+-]+")
_NOT_OF_A_WORD = re.compile(r"[^A-Za-z0-9._~:@+-]")
_ENCODED = re.compile("(?:%[0-9A-F]{2})+")


def inbox_entry(message: AgentMessage) -> bytes:
    """The entry of a message that came in."""
    return render_entry(
        "From",
        message.from_agent,
        id=message.id,
        ts=message.ts,
        subject=message.subject,
        body=message.body,
        priority=message.priority,
        verified=message.verified,
    )


def render_entry(
    direction: Direction,
    peer: str,
    *,
    id: str,  # noqa: A002  the key of the envelope
    ts: datetime | str,
    subject: str,
    body: str,
    priority: str,
    verified: bool = False,
) -> bytes:
    """One entry, with the blank line before it.

    Args:
        peer: An agent id, or ``broadcast``; by its grammar it needs no escape.
        ts: When the message was written; a text must be ISO 8601. Printed by its own clock, as the
            existing tool does.

    Raises:
        ValueError: If ``ts`` is a text of another form.
    """
    word = id if _WORD.fullmatch(id) else encode_word(id)
    urgency = priority if _WORD.fullmatch(priority) else encode_word(priority)
    vouched = " verified=yes" if verified else ""
    return (
        f"\n## [{_minute(ts)}] {direction}: {peer} | {one_line(subject)}\n"
        f"{inert(body)}\n"
        f"<!-- swarmbus id={word} priority={urgency}{vouched} -->\n"
    ).encode()


def parse_entries(text: str) -> Iterator[Entry]:
    """Read the entries in a piece of a file that begins at one; what is outside of entries is skipped.

    An entry of the existing tool ends where the next begins: a heading in its body is taken for one,
    as nothing tells them apart.
    """
    heading = _HEADING.search(text)
    while heading is not None:
        following = _HEADING.search(text, heading.end())
        rest = text[heading.end() + 1 : following.start() if following else len(text)]
        yield _entry(heading, rest, is_last=following is None)
        heading = following


def _entry(heading: re.Match[str], rest: str, *, is_last: bool) -> Entry:
    trailer = _TRAILER.search(rest)
    if trailer is not None:
        body = _LOOKS_LIKE_OURS.sub(_without_one_mark, rest[: max(trailer.start() - 1, 0)])
    else:
        # The line end that ends the body, and the blank line before the next heading.
        body = rest.removesuffix("\n") if is_last else rest.removesuffix("\n").removesuffix("\n")
    return Entry(
        direction="From" if heading["direction"] == "From" else "To",
        peer=heading["peer"],
        ts=heading["ts"],
        subject=heading["subject"],
        body=body,
        id=decode_word(trailer["id"]) if trailer else None,
        priority=decode_word(trailer["priority"]) if trailer else None,
        verified=trailer is not None and "verified=yes" in trailer["more"].split(),
    )


def one_line(text: str) -> str:
    r"""``text`` on one line with nothing hidden in it: a line break becomes ``\n``, an escape ``\x1b``."""
    return _visible(text, _SUSPECT_IN_LINE) if _SUSPECT_IN_LINE.search(text) else text


def visible(text: str) -> str:
    """``text`` with its lines, and with nothing hidden in it: fit for a terminal and for a reader's eye."""
    if "\r\n" in text:
        text = text.replace("\r\n", "\n")
    return _visible(text, _SUSPECT_IN_BODY) if _SUSPECT_IN_BODY.search(text) else text


def inert(body: str) -> str:
    """`visible`, and no line begins like a heading or a last line of ours."""
    text = visible(body)
    if "##" in text or "<!--" in text:
        return _LOOKS_LIKE_OURS.sub(r"\\\g<0>", text)
    return text


def encode_word(text: str) -> str:
    """``text`` as one word that cannot end a comment: ``%20`` for a blank, ``%0A`` for a line break."""
    return _NOT_OF_A_WORD.sub(
        lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode("utf-8", "surrogatepass")), text
    )


def decode_word(word: str) -> str:
    """Take `encode_word` back."""
    return _ENCODED.sub(_decoded, word) if "%" in word else word


def _decoded(found: re.Match[str]) -> str:
    try:
        return bytes.fromhex(found[0].replace("%", "")).decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return found[0]  # not written by us


def _visible(text: str, suspect: re.Pattern[str]) -> str:
    at_work = {found.start() for found in _AT_WORK.finditer(text)}
    return suspect.sub(lambda found: found[0] if found.start() in at_work else _escape(found[0]), text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def _without_one_mark(found: re.Match[str]) -> str:
    return found["marks"][1:] + found["rest"]


def _minute(ts: datetime | str) -> str:
    if not isinstance(ts, str):
        return ts.isoformat(" ", "minutes")[:16]
    if _MINUTE.match(ts) is None:
        raise ValueError(f"{ts!r} is not a time such as 2026-04-14T05:00:00Z")
    return f"{ts[:10]} {ts[11:16]}"
