"""A look at the certificate of a broker, by the handshake that agents make."""

from __future__ import annotations

import contextlib
import socket
import ssl
from dataclasses import dataclass
from typing import Final

from swarmbus.broker import Broker

_TIMEOUT: Final = 5.0

# X509_V_ERR_… of openssl/x509_vfy.h
_NOT_YET_VALID: Final = 9
_EXPIRED: Final = 10
_OTHER_NAME: Final = (62, 64)  # host name, address


@dataclass(frozen=True, slots=True)
class CertificateSeen:
    """What the handshake has shown.

    Attributes:
        expires: Unix time; None if the certificate was refused, for then it is not told.
        problem: Why it was refused: ``expired``, ``not-yet-valid``, ``other-name``, ``untrusted``, or
            ``no-tls`` if whoever answered does not speak TLS; None if it was accepted.
        words: The same as OpenSSL says it.
    """

    expires: float | None = None
    problem: str | None = None
    words: str = ""


def look_at_certificate(broker: Broker) -> CertificateSeen | None:
    """Connect, shake hands, and leave.

    Returns:
        None if nobody accepts the connection, or what came has nothing to do with a certificate.

    Raises:
        ConfigError: If one of our own TLS files is unusable.
    """
    context = broker.tls_context()
    if context is None:
        return None
    try:
        with socket.create_connection((broker.host, broker.port), timeout=_TIMEOUT) as plain:
            try:
                with context.wrap_socket(plain, server_hostname=broker.host) as wrapped:
                    certificate = wrapped.getpeercert() or {}
            except ssl.SSLCertVerificationError as error:
                return CertificateSeen(problem=_kind(error.verify_code), words=error.verify_message)
            except ssl.SSLError as error:
                if error.reason in ("WRONG_VERSION_NUMBER", "UNEXPECTED_EOF_WHILE_READING"):
                    return CertificateSeen(problem="no-tls", words=str(error.reason))
                return None
            except (TimeoutError, ConnectionError):
                # mosquitto waits for a CONNECT, sees none, and hangs up or says nothing.
                return CertificateSeen(problem="no-tls", words="no answer to our hello")
    except OSError:
        return None
    expires = certificate.get("notAfter")
    with contextlib.suppress(ValueError, TypeError):
        return CertificateSeen(expires=float(ssl.cert_time_to_seconds(str(expires))))
    return CertificateSeen()


def _kind(code: int) -> str:
    if code == _EXPIRED:
        return "expired"
    if code == _NOT_YET_VALID:
        return "not-yet-valid"
    return "other-name" if code in _OTHER_NAME else "untrusted"
