"""The certificate with which the hub itself is served: checked before anything is opened, and by doctor."""

from __future__ import annotations

import ipaddress
import logging
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509

from refloat.config import Config
from refloat.errors import Refused

log = logging.getLogger(__name__)

_SOON = timedelta(days=30)


@dataclass(frozen=True)
class Doubt:
    """Of a pair that can be served. `bad`: somebody is shut out by it, or could read the key."""

    text: str
    hint: str
    bad: bool = True


def pair_of(config: Config) -> tuple[Path, Path] | None:
    """As `checked` has it; what is to be said of it is said in the log."""
    pair = checked(config)
    for doubt in doubts(config) if pair else ():
        log.warning("%s: %s", doubt.text, doubt.hint)
    return pair


def checked(config: Config) -> tuple[Path, Path] | None:
    """Certificate (with its chain) and key; None for plain HTTP.

    Raises Refused (bad_tls) for a pair that cannot be served. One that has expired is served, and said: a hub
    that does not start because of it would be worse at the moment when it is needed.
    """
    if config.tls_cert is None or config.tls_key is None:
        return None
    for name, file in (("tls_cert", config.tls_cert), ("tls_key", config.tls_key)):
        try:
            file.read_bytes()
        except OSError as error:
            raise _bad(f"{name}: cannot read {file}: {error.strerror}") from error
    if b"ENCRYPTED" in config.tls_key.read_bytes():
        raise _bad(f"{config.tls_key} has a passphrase, which nobody is there to type: remove it")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(config.tls_cert, config.tls_key)
    except (ssl.SSLError, ValueError) as error:
        mismatch = getattr(error, "reason", "") == "KEY_VALUES_MISMATCH"
        said = (
            "the key is not that of the certificate" if mismatch else f"one of them is no PEM file: {error}"
        )
        raise _bad(f"{config.tls_cert} and {config.tls_key} cannot be used: {said}") from error
    return config.tls_cert, config.tls_key


def doubts(config: Config) -> list[Doubt]:
    """What is to be said of a pair that `checked` took."""
    assert config.tls_cert and config.tls_key
    certificate = x509.load_pem_x509_certificate(config.tls_cert.read_bytes())
    found = []
    if config.tls_key.stat().st_mode & 0o077:
        found.append(Doubt(f"{config.tls_key} can be read by others", f"chmod 600 {config.tls_key}"))
    until, at = certificate.not_valid_after_utc, datetime.now(UTC)
    if until < at + _SOON:
        said = f"the certificate {config.tls_cert} is valid until {until:%Y-%m-%d %H:%M} UTC"
        found.append(Doubt(said, "renew it", bad=until < at))
    host = urlsplit(config.public_url).hostname
    if host and not any(_is_for(name, host) for name in _names(certificate)):
        hint = "browsers and the command line refuse it: get one for that name, or mend public_url"
        found.append(Doubt(f"the certificate {config.tls_cert} is not for {host}", hint))
    return found


def _names(certificate: x509.Certificate) -> list[str]:
    """DNS names and addresses. The subject's common name does not count any more (RFC 9525)."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [
        *names.get_values_for_type(x509.DNSName),
        *(str(address) for address in names.get_values_for_type(x509.IPAddress)),
    ]


def _is_for(name: str, host: str) -> bool:
    """A star stands for the whole first label (RFC 9525)."""
    try:
        return ipaddress.ip_address(name) == ipaddress.ip_address(host)
    except ValueError:
        label, _, rest = host.lower().partition(".")
        return name.lower() == host.lower() or (bool(label) and name.lower() == f"*.{rest}")


def _bad(message: str) -> Refused:
    return Refused(message, code="bad_tls", hint="see docs/config.md on TLS; both are PEM files")
