"""Where the broker is, and how to speak to it: address, credentials, TLS."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

from swarmbus.errors import ConfigError

if TYPE_CHECKING:
    from swarmbus.config import Settings


@dataclass(frozen=True, slots=True)
class Broker:
    """Where the broker is and how to speak to it.

    Attributes:
        tls: None means TLS exactly when a certificate is given.
        ca_cert: File of CA certificates (PEM); None means the system's.
        client_cert: Our certificate (PEM), for brokers that ask for one.
        client_key: Its key; None means it is in ``client_cert``.
    """

    host: str = "localhost"
    port: int = 1883
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: bool | None = None
    ca_cert: str | None = None
    client_cert: str | None = None
    client_key: str | None = None

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """The broker that the settings name.

        Raises:
            ConfigError: If the password file cannot be read.
        """
        password = settings.password
        if password is None and settings.password_file is not None:
            path = Path(settings.password_file).expanduser()
            try:
                password = path.read_text(encoding="utf-8").partition("\n")[0]
            except (OSError, UnicodeDecodeError) as error:
                reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
                raise ConfigError(
                    f"cannot read the password file {path}: {reason}",
                    hint="password_file names a file that this user can read; its first line is the password",
                ) from error
        return cls(
            host=settings.broker,
            port=settings.port,
            username=settings.username,
            password=password,
            tls=settings.tls,
            ca_cert=settings.ca_cert,
            client_cert=settings.client_cert,
            client_key=settings.client_key,
        )

    @property
    def uses_tls(self) -> bool:
        """Whether connections are made over TLS."""
        return any((self.ca_cert, self.client_cert, self.client_key)) if self.tls is None else self.tls

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    def tls_context(self) -> ssl.SSLContext | None:
        """The TLS context, None without TLS. Host name and certificate are always checked.

        Raises:
            ConfigError: If a certificate file is missing or not one.
        """
        if not self.uses_tls:
            return None
        try:
            context = ssl.create_default_context(cafile=_file(self.ca_cert))
            if self.client_cert:
                context.load_cert_chain(_file(self.client_cert) or "", _file(self.client_key))
        except (OSError, ssl.SSLError) as error:
            files = ", ".join(name for name in (self.ca_cert, self.client_cert, self.client_key) if name)
            raise ConfigError(f"cannot use the TLS files ({files}): {error}") from error
        return context


def _file(name: str | None) -> str | None:
    return str(Path(name).expanduser()) if name else None
