"""The broker's certificate, as agents see it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Final

from swarmbus.provision.checks.record import Finding, Status, check
from swarmbus.provision.facts import CouldNotLook, Facts
from swarmbus.provision.tls_look import CertificateSeen

_DAY: Final = 86_400.0
_WARN_DAYS: Final = 21
_FAIL_DAYS: Final = 7


def _seen(facts: Facts, broker: str) -> CertificateSeen:
    settings = facts.settings_at(broker)
    files = (settings.ca_cert, settings.client_cert, settings.client_key)
    if not (any(files) if settings.tls is None else settings.tls):
        raise CouldNotLook("the settings ask for no TLS")
    seen = facts.certificate(broker)
    if seen is None:
        raise CouldNotLook("there is no connection to the broker")
    return seen


@check(
    "broker.tls-absent",
    "the broker speaks TLS, as the settings say",
    scope="broker",
    after=("broker.running",),
)
def tls_absent(facts: Facts, broker: str) -> Iterator[Finding]:
    """A handshake of its own."""
    seen = _seen(facts, broker)
    if seen.problem == "no-tls":
        message = f"the settings ask for TLS, and {broker} speaks none ({seen.words})"
        yield Finding(Status.FAIL, message, {"said": seen.words})


@check(
    "broker.tls-expiry",
    "the broker's certificate is valid for long",
    scope="broker",
    after=("broker.tls-absent",),
)
def tls_expiry(facts: Facts, broker: str) -> Iterator[Finding]:
    """Its notAfter; of an expired one, that OpenSSL refuses it."""
    seen = _seen(facts, broker)
    if seen.problem in ("expired", "not-yet-valid"):
        words = "has expired" if seen.problem == "expired" else "is not valid yet: is the clock right?"
        yield Finding(Status.FAIL, f"the certificate of {broker} {words}", {"openssl": seen.words})
    elif seen.expires is not None:
        days = (seen.expires - facts.now()) / _DAY
        until = datetime.fromtimestamp(seen.expires).astimezone().strftime("%Y-%m-%d")
        if days < _WARN_DAYS:
            status = Status.FAIL if days < _FAIL_DAYS else Status.WARN
            message = f"the certificate of {broker} is valid for {days:.0f} more days, until {until}"
            yield Finding(status, message, {"days": round(days, 1), "until": until})


@check(
    "broker.tls-name",
    "the broker's certificate is for its name",
    scope="broker",
    after=("broker.tls-absent",),
)
def tls_name(facts: Facts, broker: str) -> Iterator[Finding]:
    """By OpenSSL's verdict on the name that the settings use."""
    seen = _seen(facts, broker)
    if seen.problem == "other-name":
        name = facts.settings_at(broker).broker
        message = f"the broker's certificate is not for {name!r}, by which agents call it"
        yield Finding(Status.FAIL, message, {"openssl": seen.words, "name": name})


@check(
    "broker.tls-untrusted",
    "the broker's certificate can be trusted",
    scope="broker",
    after=("broker.tls-absent",),
)
def tls_untrusted(facts: Facts, broker: str) -> Iterator[Finding]:
    """By OpenSSL's verdict with the settings' ca_cert, or the system's."""
    seen = _seen(facts, broker)
    if seen.problem == "untrusted":
        ca = facts.settings_at(broker).ca_cert
        message = (
            f"the certificate of {broker} is by none that {ca or 'this system'} vouches for: {seen.words}"
        )
        yield Finding(Status.FAIL, message, {"openssl": seen.words, "ca_cert": ca})
