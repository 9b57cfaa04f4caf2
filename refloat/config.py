"""The hub's settings: one YAML file, each setting overridden by an environment variable REFLOAT_<NAME>."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from refloat.errors import Refused
from refloat.logs import FORMATS, LEVELS
from refloat.notify.channels import Channel, channels
from refloat.store import KEY_FILE

# The first that exists: a real installation's file goes before the lab's.
DEFAULT_FILES = (Path("/etc/refloat/refloat.yaml"), Path("/var/lib/refloat-lab/refloat.yaml"))

# What fits into a guest's files as it is.
_REPORT_URL = re.compile(r"https?://(?:[A-Za-z0-9.-]{1,200}|\[[0-9A-Fa-f:]{2,39}\]):[0-9]{1,5}/?")
_PUBLIC_URL = re.compile(r"https?://(?:[A-Za-z0-9.-]{1,200}|\[[0-9A-Fa-f:]{2,39}\])(?::[0-9]{1,5})?/?")
_PATHS = (
    "data_dir",
    "estate",
    "drivers",
    "report_cert",
    "report_key",
    "report_ca",
    "tls_cert",
    "tls_key",
    "tls_ca",
    "store_password_file",
    "seal_key_file",
)


@dataclass(frozen=True)
class Config:
    """`data_dir` holds everything that the hub remembers; `estate` is the file that describes the estate.

    `store` ("postgresql://refloat@db.example/refloat", its password in `store_password_file`) is a PostgreSQL
    database for what is else in SQLite files in `data_dir`. `seal_key_file` (`data_dir`/seal.key) seals what
    is secret in either: docs/secrets.md. Jobs that ended more than `keep_jobs_days` ago are forgotten.

    `drivers` is a virtio-win ISO, or a folder with its files: needed for Windows guests alone.

    `tls_cert` and `tls_key` (PEM) switch TLS on; the command line trusts `tls_ca`, or that certificate.
    `public_url` ("https://hub.example:8410") is what people call the hub, where that is not `listen`.

    Reports by HTTPS: `report_listen` is where the hub hears them, `report_url` ("https://10.0.0.2:8411") what
    guests call that address; without it there are none. `report_cert` and `report_key` (PEM) are shown to
    guests, who trust `report_ca`, or that certificate itself; without them the hub makes its own.

    `notify` are the webhooks and mail addresses that are told what happens: docs/notifications.md.
    """

    data_dir: Path = Path("/var/lib/refloat")
    listen: str = "127.0.0.1:8410"
    estate: Path = Path("/etc/refloat/estate.yaml")
    log_level: str = "info"
    log_format: str = "text"
    drivers: Path | None = None
    report_url: str = ""
    report_listen: str = ""
    report_cert: Path | None = None
    report_key: Path | None = None
    report_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_ca: Path | None = None
    public_url: str = ""
    store: str = ""
    store_password_file: Path | None = None
    seal_key_file: Path | None = None
    keep_jobs_days: str = ""
    notify: tuple[Channel, ...] = ()

    @property
    def url(self) -> str:
        """What people and the command line call it."""
        return self.public_url.rstrip("/") or f"{'https' if self.tls_cert else 'http'}://{self.listen}"

    @property
    def hosts(self) -> tuple[str, ...]:
        """The names beside loopback under which it is addressed."""
        public = urlsplit(self.public_url).hostname
        return (self.address[0].strip("[]"), *([public] if public else []))

    @property
    def address(self) -> tuple[str, int]:
        return _address("listen", self.listen)

    @property
    def report_address(self) -> tuple[str, int]:
        return _address("report_listen", self.report_listen)

    @property
    def report_host(self) -> str:
        return urlsplit(self.report_url).hostname or ""

    @property
    def report_tls(self) -> bool:
        return self.report_url.startswith("https://")

    @property
    def keep_jobs(self) -> float | None:
        """Seconds; None: for ever."""
        return float(self.keep_jobs_days) * 86_400 if self.keep_jobs_days else None

    @property
    def seal_key(self) -> Path:
        return self.seal_key_file or self.data_dir / KEY_FILE

    @property
    def token_file(self) -> Path:
        return self.data_dir / "api-token"


def _address(name: str, text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit():
        raise Refused(
            f"{name}: {text!r} is no HOST:PORT",
            code="bad_config",
            hint="write it like 127.0.0.1:8410",
        )
    return host, int(port)


def _check_log(config: Config) -> None:
    asked = (("log_level", config.log_level.lower(), LEVELS), ("log_format", config.log_format, FORMATS))
    for name, value, known in asked:
        if value not in known:
            hint = f"known: {', '.join(known)}"
            raise Refused(f"{name}: {value!r} is unknown", code="bad_config", hint=hint)


def check_retention(config: Config) -> None:
    days = config.keep_jobs_days
    if days and not (days.isascii() and days.isdigit() and 1 <= int(days[:6]) <= 36_500):
        hint = "a number of days from 1 to 36500, or nothing to keep all"
        raise Refused(f"keep_jobs_days: {days!r} is no such number", code="bad_config", hint=hint)


def check_tls(config: Config) -> None:
    """Raises Refused for settings of TLS and of the hub's name that do not fit together."""
    if bool(config.tls_cert) != bool(config.tls_key):
        raise Refused("tls_cert and tls_key go together", code="bad_config", hint="see docs/config.md on TLS")
    if not config.public_url:
        return
    plain = config.tls_cert is not None and not config.public_url.startswith("https:")
    if plain or not _PUBLIC_URL.fullmatch(config.public_url):
        raise Refused(
            f"public_url: {config.public_url!r} is not like https://hub.example:8410",
            code="bad_config",
            hint="write scheme, host name and port as a browser would, without a path",
        )


def check_reports(config: Config) -> None:
    """Raises Refused for settings of `report_*` that do not fit together. Tokens travel there: plain HTTP
    only where nobody but this machine's own user-mode networks reaches it."""
    if bool(config.report_url) != bool(config.report_listen):
        raise _bad_reports("report_url and report_listen go together")
    if bool(config.report_cert) != bool(config.report_key):
        raise _bad_reports("report_cert and report_key go together")
    if not config.report_url:
        return
    if not _REPORT_URL.fullmatch(config.report_url):
        raise _bad_reports(f"report_url: {config.report_url!r} is not like https://10.0.0.2:8411")
    host, _ = config.report_address
    if not config.report_tls and host not in ("127.0.0.1", "localhost", "[::1]"):
        raise _bad_reports("report_url is plain http, which is for a lab on loopback alone")


def check_store(config: Config) -> None:
    """Raises Refused for a `store` that is no address of a PostgreSQL database, or that has its password in
    it: settings are read by many. The message does not quote it."""
    if not config.store:
        if config.store_password_file:
            raise _bad_store("store_password_file is for a `store` in PostgreSQL")
        return
    try:
        url = urlsplit(config.store)
        options = parse_qs(url.query, strict_parsing=bool(url.query))
        known = url.scheme == "postgresql" and len(url.path) > 1 and (url.hostname or "host" in options)
        secret = url.password is not None or "password" in options
    except ValueError:
        known, secret = False, False
    if secret:
        raise _bad_store("store has a password in it")
    if not known:
        raise _bad_store("store is not like postgresql://refloat@db.example/refloat")


def _bad_store(message: str) -> Refused:
    return Refused(message, code="bad_config", hint="see docs/config.md on PostgreSQL")


def _bad_reports(message: str) -> Refused:
    return Refused(message, code="bad_config", hint="see docs/config.md on reports by HTTPS")


def load_config(file: Path | None = None, environ: Mapping[str, str] = os.environ) -> Config:
    """Settings from `file` (or $REFLOAT_CONFIG, or the first default file that exists), then the environment.

    Raises Refused (bad_config) naming the file and the setting.
    """
    chosen = file or (Path(environ["REFLOAT_CONFIG"]) if environ.get("REFLOAT_CONFIG") else None)
    if chosen is None:
        chosen = next((candidate for candidate in DEFAULT_FILES if candidate.exists()), None)
    values = _read(chosen) if chosen else {}
    known = {field.name for field in fields(Config)}
    for name in sorted(set(values) - known):
        raise Refused(
            f"{chosen}: unknown setting {name!r}",
            code="bad_config",
            hint=f"known: {', '.join(sorted(known))}",
        )
    for name in known:
        override = environ.get(f"REFLOAT_{name.upper()}")
        if override:
            values[name] = override
    paths = {name: Path(values.pop(name)) for name in _PATHS if name in values}
    told = channels(values.pop("notify", []))
    config = Config(**paths, **values, notify=told)  # type: ignore[arg-type]
    _check_log(config)
    check_retention(config)
    check_tls(config)
    check_reports(config)
    check_store(config)
    return config


def _read(file: Path) -> dict[str, Any]:
    import yaml  # here, not above: the command line must answer --help quickly

    try:
        data = yaml.safe_load(file.read_text())
    except OSError as error:
        raise Refused(
            f"cannot read {file}: {error.strerror}",
            code="bad_config",
            hint="check --config or REFLOAT_CONFIG",
        ) from error
    except yaml.YAMLError as error:
        raise Refused(f"{file} is no YAML: {error}", code="bad_config", hint="mend the file") from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise Refused(f"{file}: expected settings, one a line", code="bad_config", hint="see docs/config.md")
    return {str(key): value if key == "notify" else str(value) for key, value in data.items()}
