"""The certificate with which the hub itself is served: checked before anything is opened."""

from __future__ import annotations

import logging
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509

from refloat.config import Config
from refloat.errors import Refused

log = logging.getLogger(__name__)

_SOON = timedelta(days=30)


def pair_of(config: Config) -> tuple[Path, Path] | None:
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
    if config.tls_key.stat().st_mode & 0o077:
        log.warning("%s can be read by others: chmod 600 it", config.tls_key)
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
    _say_age(config.tls_cert)
    return config.tls_cert, config.tls_key


def _say_age(file: Path) -> None:
    certificate = x509.load_pem_x509_certificate(file.read_bytes())
    until = certificate.not_valid_after_utc
    if until < datetime.now(UTC) + _SOON:
        said = f"{until:%Y-%m-%d %H:%M} UTC"
        log.warning("the certificate %s is valid until %s: renew it", file, said)


def _bad(message: str) -> Refused:
    return Refused(message, code="bad_tls", hint="see docs/config.md on TLS; both are PEM files")
