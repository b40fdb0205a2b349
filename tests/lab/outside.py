"""How this machine reaches its package indexes: its settings, in the form a lab host takes them.

Nothing here names an index: a developer's laptop, a CI runner and a machine behind a proxy with a certificate
authority of its own each hand their own settings on.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import ssl
import subprocess
import sys
from pathlib import Path

CERTIFICATE_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"  # Debian's, inside a host and out
WHEELHOUSE = "/var/cache/wheelhouse"

_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy")
#: The settings that say how to reach an index. `find-links` and `constraint` name this machine's own files.
_PIP_SETTINGS = (
    "index-url",
    "extra-index-url",
    "trusted-host",
    "proxy",
    "default-timeout",
    "timeout",
    "retries",
    "disable-pip-version-check",
)


def proxies() -> dict[str, str]:
    """The proxy variables that are set here, in the spelling they have here."""
    names = (*_PROXIES, *(name.upper() for name in _PROXIES))
    return {name: os.environ[name] for name in names if name in os.environ}


def certificates_unknown_to(bundle: str) -> list[str]:
    """The certificate authorities trusted here that are not in ``bundle``, each as PEM text."""
    known = {_body(pem) for pem in _CERTIFICATE.findall(bundle)}
    default = ssl.get_default_verify_paths()
    candidates = (os.environ.get("SSL_CERT_FILE"), CERTIFICATE_BUNDLE, default.cafile, default.openssl_cafile)
    for name in candidates:
        if name and Path(name).is_file():
            return [pem for pem in _CERTIFICATE.findall(Path(name).read_text()) if _body(pem) not in known]
    return []


def _body(pem: str) -> str:
    return "".join(pem.split())


def apt_settings() -> str:
    """This machine's settings of apt on how to fetch, for a file in ``apt.conf.d``; "" without apt."""
    if shutil.which("apt-config") is None:
        return ""
    dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True).stdout
    wanted = re.compile(r'Acquire::(http|https|Check-|Retries|ForceIPv|Languages)\S* "[^"]+";', re.IGNORECASE)
    return "".join(f"{line}\n" for line in dump.splitlines() if wanted.match(line))


def debian_mirror() -> str | None:
    """The mirror this machine's own apt takes Debian from; None leaves the choice to debootstrap.

    ``$SWARMBUS_TEST_MIRROR`` goes before it.
    """
    if named := os.environ.get("SWARMBUS_TEST_MIRROR"):
        return named
    if shutil.which("apt-get") is None:
        return None
    query = ["apt-get", "indextargets", "--format", "$(REPO_URI)"]
    query += ["Created-By: Packages", "Origin: Debian", "Label: Debian"]
    found = subprocess.run(query, capture_output=True, text=True).stdout.split()
    return found[0] if found and found[0].startswith(("http://", "https://")) else None


def pip_settings() -> str:
    """A ``pip.conf`` for a host: this machine's way to its index, and the wheelhouse before it."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True
    ).stdout
    settings: dict[str, str] = {}
    for line in listed.splitlines():  # `global.index-url='...'`, or `:env:.index-url='...'`
        name, _, value = line.partition("=")
        section, _, key = name.rpartition(".")
        if section in (":env:", "global") and key in _PIP_SETTINGS:
            text = " ".join(word for word in str(ast.literal_eval(value)).split() if not _is_local(word))
            if text and (section == ":env:" or key not in settings):
                settings[key] = text
    settings["cert"] = CERTIFICATE_BUNDLE  # pip in a virtual environment brings a bundle of its own
    settings["find-links"] = WHEELHOUSE
    return "[global]\n" + "".join(f"{key} = {value}\n" for key, value in sorted(settings.items()))


def _is_local(word: str) -> bool:
    return word.startswith(("/", "file:", "./", "~"))


def resolv_conf() -> str:
    """The name servers of this machine that a host can reach too, as a ``resolv.conf``.

    A stub on a loopback address (systemd-resolved's 127.0.0.53) is of no use in another network namespace;
    the servers behind it are in systemd-resolved's other file.
    """
    for name in ("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"):
        if Path(name).is_file():
            lines = Path(name).read_text().splitlines()
            usable = [line for line in lines if re.match(r"nameserver\s+(?!127\.|::1)", line)]
            if usable:
                kept = [line for line in lines if line.startswith(("search", "options"))]
                return "".join(f"{line}\n" for line in (*kept, *usable))
    return ""
