"""The hub's settings: one YAML file, each setting overridden by an environment variable REFLOAT_<NAME>."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from refloat.errors import Refused

# The first that exists: a real installation's file goes before the lab's.
DEFAULT_FILES = (Path("/etc/refloat/refloat.yaml"), Path("/var/lib/refloat-lab/refloat.yaml"))


@dataclass(frozen=True)
class Config:
    """`data_dir` holds everything that the hub remembers; `estate` is the file that describes the estate.

    `drivers` is a virtio-win ISO, or a folder with its files: needed for Windows guests alone.
    """

    data_dir: Path = Path("/var/lib/refloat")
    listen: str = "127.0.0.1:8410"
    estate: Path = Path("/etc/refloat/estate.yaml")
    log_level: str = "info"
    drivers: Path | None = None

    @property
    def url(self) -> str:
        return f"http://{self.listen}"

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.listen.rpartition(":")
        if not host or not port.isdigit():
            raise Refused(
                f"listen: {self.listen!r} is no HOST:PORT",
                code="bad_config",
                hint="write it like 127.0.0.1:8410",
            )
        return host, int(port)

    @property
    def token_file(self) -> Path:
        return self.data_dir / "api-token"


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
    paths = {name: Path(values.pop(name)) for name in ("data_dir", "estate", "drivers") if name in values}
    return Config(**paths, **values)  # type: ignore[arg-type]


def _read(file: Path) -> dict[str, str]:
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
    return {str(key): str(value) for key, value in data.items()}
