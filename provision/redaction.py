"""Redaction: what goes out of the house without secrets, message bodies and, if wished, names.

Checks of a run that is recorded see what was redacted, so what they say is what they will say elsewhere.
Names of settings and variables stay, for that one is set is often what is wrong; what it is set to goes.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeGuard

from swarmbus.config import Settings
from swarmbus.errors import StorageError
from swarmbus.provision.layout import Layout
from swarmbus.provision.system import System

GONE: Final = "(redacted)"

# what settings, variables and options are called that hold one
_NAMED: Final = r"[\w.-]*(?:passw(?:or)?d|passphrase|secret|token|api_?key|private_?key|credentials?)[\w.-]*"
_IS_SECRET_NAME: Final = re.compile(rf"(?i){_NAMED}(?<!file)(?<!path)(?<!dir)(?<!files)")
_SHORTEST: Final = 6
"""Characters of a secret that is looked for wherever it stands: a shorter one stands everywhere."""

_PATTERNS: Final[tuple[tuple[re.Pattern[str], str], ...]] = (
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.S), GONE),
    # scheme://user:password@host, scheme://token@host
    (re.compile(r"(?i)(\b[a-z][a-z0-9+.-]*://[^\s:@/]*:)[^\s@]+@"), rf"\1{GONE}@"),
    (re.compile(r"(?i)(\b[a-z][a-z0-9+.-]*://)[^\s:@/]+@"), rf"\1{GONE}@"),
    # mosquitto's password files, and /etc/shadow
    (re.compile(r"(\$(?:5|6|7|y|2[aby]|argon2\w*)\$)[^\s:]+"), rf"\1{GONE}"),
    (re.compile(r"(?i)\b(bearer|basic|authorization: *\w+)[ ]+[\w.~+/=-]{6,}"), rf"\1 {GONE}"),
    (re.compile(r"(\bmosquitto_\w+\b[^\n]*? -P )\S+"), rf"\1{GONE}"),
    (
        re.compile(
            r"\b(?:sk-[\w-]{16,}|gh[pousr]_\w{20,}|xox[a-z]-[\w-]{10,}|AKIA[0-9A-Z]{16}|tskey-[\w-]{8,})"
        ),
        GONE,
    ),
    (re.compile(rf"(?i)(--?(?:{_NAMED}|pw)(?<!file)(?<!path)[ =])(?:'[^']*'|\"[^\"]*\"|\S+)"), rf"\1{GONE}"),
    # The last words of a wake command may be those of the message that it was called for.
    (
        re.compile(r"(\bexited -?\d+|\bwas ended(?: by \w+)?|\bstopped from outside|\bhow it ended): [^\n]*"),
        rf"\1: {GONE}",
    ),
)

# In a list of words, what comes behind one of these; -P is the password of mosquitto's clients.
_OPTION: Final = re.compile(rf"(?i:--?(?:{_NAMED}|pw)(?<!file)(?<!path))|-P")

# password = "…", "token": "…", API_KEY=…; what is quoted stays quoted, for it may be TOML or
# JSON, and JSON within JSON
_ASSIGNED: Final = re.compile(
    rf"(?i)(?P<name>(?<![\w.-])(?P<mark>\\?[\"']?){_NAMED}(?<!file)(?<!path)(?<!dir)(?P=mark)\s*[=:]\s*)"
    r"(?:(?P<quote>\\?[\"'])(?:(?!(?P=quote))(?:\\.|[^\\\n]))*(?P=quote)|(?P<bare>[^\s,;\"'}\]]+))"
)
_NO_SECRET: Final = re.compile(r"-?\d+(?:\.\d+)?|true|false|null")

# Variables whose values say nothing but where things are.
_HARMLESS: Final = re.compile(
    r"PATH|HOME|USER|LOGNAME|SHELL|LANG|LANGUAGE|LC_\w+|TZ|TERM|PWD|XDG_\w+|DBUS_SESSION_BUS_ADDRESS|NOTIFY_SOCKET"
    r"|VIRTUAL_ENV|PIPX_\w+|UV_\w+|PYTHON(?!\w*PASS)\w*|LD_\w+|INVOCATION_ID|JOURNAL_STREAM|SYSTEMD_EXEC_PID"
    r"|MANAGERPID|MAINPID|LISTEN_\w+|WATCHDOG_\w+|NO_COLOR|SSH_CONNECTION"
    r"|SWARMBUS_(?!\w*PASSWORD(?!_FILE))\w+"
)
_WORD: Final = re.compile(
    r"""\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])*'|(?:\\.|\"(?:\\.|[^\"\\])*\"|'[^']*'|[^\s\\])+"""
)
_PASSWORD_FILE: Final = re.compile(r"(?m)^\s*password_file\s+(/\S+)")
_LOOKS_SECRET: Final = re.compile(r"(?i)passw|pwfile|shadow|secret|credential|token|\.key\Z")
_SILENT_KEYS: Final = ("body", "subject", "output")


def is_secret_name(name: str) -> bool:
    """Whether a setting or variable that is called so holds a secret, and not where one lies."""
    return _IS_SECRET_NAME.fullmatch(name) is not None


class Redaction:
    """Takes out what is not to be told.

    Args:
        secrets: Values that are secret wherever they stand.
        silent: Files whose content is nobody's business: inboxes, outboxes.
        passwords: Files that hold passwords.
    """

    def __init__(
        self, secrets: Iterable[str] = (), silent: Iterable[Path] = (), passwords: Iterable[Path] = ()
    ) -> None:
        long = {secret for secret in secrets if len(secret) >= _SHORTEST}
        self._secrets = sorted(long, key=len, reverse=True)
        self._silent = frozenset(silent)
        self._passwords = set(passwords)

    @classmethod
    def of(cls, system: System, layout: Layout, settings: Mapping[str, Settings]) -> Redaction:
        """By what this installation's settings say."""
        secrets = [value for name, value in system.environ.items() if is_secret_name(name)]
        files = set()
        for own in settings.values():
            secrets += [own.password or ""]
            if own.password_file:
                files.add(Path(own.password_file).expanduser())
        secrets += [_first_line(system, path) for path in files]
        secrets += _secrets_of(system, layout.config)
        silent = {path for own in settings.values() for path in (own.inbox_path, own.outbox_path) if path}
        return cls(secrets, silent, files)

    def settings(self, own: Settings) -> Settings:
        """Settings with what they say in full, and without the password."""
        return replace(
            own,
            password=GONE if own.password else None,
            inbox=str(own.inbox_path),
            outbox=str(own.outbox_path) if own.outbox_path else None,
            password_file=str(Path(own.password_file).expanduser()) if own.password_file else None,
            invoke=self.text(own.invoke) if own.invoke else None,
        )

    def answer(self, question: str, arguments: tuple[Any, ...], answer: Any) -> Any:
        """What came back, in JSON (`answers.to_json`), without what is not to be told.

        Args:
            question: Name of the method or attribute.
        """
        if question == "environ":
            pairs = answer["is"] if isinstance(answer, dict) else []
            return {**answer, "is": [[name, self._value(name, value)] for name, value in pairs]}
        return self.walk(answer, self._rule(question, arguments))

    def walk(self, value: Any, rule: Callable[[str], str] | None = None) -> Any:
        """Every text in a JSON value."""
        rule = rule or self.text
        if isinstance(value, str):
            return rule(value)
        if isinstance(value, list):
            return [self._item(before, one, rule) for before, one in zip([None, *value], value, strict=False)]
        if isinstance(value, dict):
            return {name: one if name == "!" else self.walk(one, rule) for name, one in value.items()}
        return value

    def text(self, text: str) -> str:
        """A text of any kind."""
        for secret in self._secrets:
            text = text.replace(secret, GONE)
        for pattern, instead in _PATTERNS:
            text = pattern.sub(instead, text)
        text = _ASSIGNED.sub(_without_value, text)
        # Environment= of units, and of what systemctl shows of them
        return re.sub(r"(?m)^(Environment=)(.*)$", lambda found: found[1] + self._assignments(found[2]), text)

    def _item(self, before: Any, value: Any, rule: Callable[[str], str]) -> Any:
        """An entry of a list; what stands before it may be the option that it belongs to."""
        if isinstance(value, str) and isinstance(before, str) and _OPTION.fullmatch(before):
            return GONE
        return self._pair(value, rule) if _is_pair(value) else self.walk(value, rule)

    def _pair(self, pair: list[Any], rule: Callable[[str], str]) -> list[Any]:
        """An entry of a mapping: what its name gives away is not told."""
        name, value = pair
        if name in _SILENT_KEYS or is_secret_name(name):
            return [name, GONE if isinstance(value, str) else self.walk(value, rule)]
        return [name, self.walk(value, rule)]

    def _rule(self, question: str, arguments: tuple[Any, ...]) -> Callable[[str], str]:
        first = arguments[0] if arguments else None
        if question == "run" and isinstance(first, list | tuple) and "show-environment" in first:
            return lambda text: self._variables(text, "\n")
        if question != "read" or not isinstance(first, Path):
            return self.text
        if first.name == "environ" and first.parts[:2] == ("/", "proc"):
            return lambda text: self._variables(text, "\0")
        if any(first.parent == one.parent and first.name.startswith(one.name) for one in self._silent):
            return lambda text: ""
        if first in self._passwords or _LOOKS_SECRET.search(first.name):
            return lambda text: re.sub(r"[^\n]+", _password_line, text)
        return self._configuration

    def _configuration(self, text: str) -> str:
        """A file that may say where passwords are."""
        self._passwords |= {Path(found[1]) for found in _PASSWORD_FILE.finditer(text)}
        return self.text(text)

    def _variables(self, text: str, end: str) -> str:
        lines = (line.partition("=") for line in text.split(end))
        return end.join(
            f"{name}{sign}{self._value(name, value) if sign else value}" for name, sign, value in lines
        )

    def _assignments(self, text: str) -> str:
        """``A=b "C=d e"``, as units have it."""

        def told(found: re.Match[str]) -> str:
            quote = found[0][0] if found[0][0] in "\"'" else ""
            name, sign, value = found[0].strip(quote or " ").partition("=")
            return f"{quote}{name}{sign}{self._value(name, value) if sign else value}{quote}"

        return _WORD.sub(told, text)

    def _value(self, name: str, value: str) -> str:
        return self.text(value) if _HARMLESS.fullmatch(name) else GONE


def _without_value(found: re.Match[str]) -> str:
    if found["mark"] and found["bare"] and _NO_SECRET.fullmatch(found["bare"]):
        return found[0]  # a number in JSON, which has to stay one
    quote = found["quote"] or ""
    return f"{found['name']}{quote}{GONE}{quote}"


def _is_pair(value: Any) -> TypeGuard[list[Any]]:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)


def _password_line(found: re.Match[str]) -> str:
    """Whose it is and how it is hashed stays."""
    name, colon, word = found[0].partition(":")
    hashed = re.match(r"\$(?:5|6|7|y|argon2\w*)\$", word)
    return f"{name}:{hashed[0] if hashed else ''}{GONE}" if colon else GONE


def _first_line(system: System, path: Path) -> str:
    try:
        return (system.read(path) or b"").decode(errors="replace").partition("\n")[0]
    except StorageError:
        return ""


def _secrets_of(system: System, path: Path) -> list[str]:
    """What config.toml calls a password, also of agents that are not looked at."""
    try:
        document = tomllib.loads((system.read(path) or b"").decode(errors="replace"))
    except (StorageError, tomllib.TOMLDecodeError):
        return []
    return list(_secret_values(document))


def _secret_values(table: Mapping[str, Any]) -> Iterator[str]:
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from _secret_values(value)
        elif isinstance(value, str) and is_secret_name(name):
            yield value


class Names:
    """Names of agents, hosts and users, each as a word that says only that it is always the same one.

    Args:
        names: By kind: ``agent``, ``host``, ``user``.
        salt: Not kept: who has the bundle cannot try out names.
    """

    def __init__(self, names: Mapping[str, Iterable[str]], salt: bytes) -> None:
        self._instead = {
            name: f"{kind}-{hashlib.blake2b(name.encode(), key=salt, digest_size=5).hexdigest()}"
            for kind, group in names.items()
            for name in group
            if name
        }
        longest_first = sorted(self._instead, key=len, reverse=True)
        words = "|".join(map(re.escape, longest_first))
        self._pattern = re.compile(rf"(?<![A-Za-z0-9])(?:{words})(?![A-Za-z0-9_])" if words else r"(?!)")

    def hide(self, value: Any) -> Any:
        """The same JSON value without them."""
        if isinstance(value, str):
            return self._pattern.sub(lambda found: self._instead[found[0]], value)
        if isinstance(value, list):
            return [self.hide(one) for one in value]
        if isinstance(value, dict):
            return {name: one if name == "!" else self.hide(one) for name, one in value.items()}
        return value
