"""What is put into a guest so that it finishes its recovery and says so: two units, a script, their data.

All of it lies in /etc: on the root filesystem always, whatever else fails to mount.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources

from refloat.errors import Refused
from refloat.guest.linux.render.ifupdown import placeholder, render
from refloat.guest.tree import Tree
from refloat.model import AdaptRequest, NetworkMode, NicConfig, NicMethod, PlannedNic

DIRECTORY = "/etc/refloat"
UNITS = "/etc/systemd/system"
CONFIGURE = "refloat-configure.service"
REPORT = "refloat-report.service"
# Seconds the guest looks for its NICs, and for the end of its boot.
NIC_WAIT = 15
SETTLE = 180

# A failed mount ends the boot in the emergency target: the report must come from there, too.
_WANTED_BY = {CONFIGURE: ("multi-user",), REPORT: ("multi-user", "emergency", "rescue")}
# Every value goes into a file that a shell reads.
_PLAIN = re.compile(r"[A-Za-z0-9._:=+/-]{1,256}")
_CHANNEL = re.compile(r"[A-Za-z0-9._-]{1,64}")
_MAC = re.compile(r"(?:[0-9a-f]{2}:){5}[0-9a-f]{2}")
_NIC_NAME = re.compile(r"[A-Za-z0-9_-]{1,15}")


@dataclass(frozen=True)
class StagedFile:
    content: bytes
    mode: int = 0o644
    shown: bool = True  # as a diff in the journal: not for secrets, nor for programs of our own


@dataclass(frozen=True)
class Staging:
    """What to put where: directories first, then files, then the links that enable the units."""

    directories: tuple[str, ...]
    files: Mapping[str, StagedFile]
    symlinks: Mapping[str, str]


def staging(
    request: AdaptRequest, network_files: Mapping[str, str], captured: Sequence[NicConfig]
) -> Staging:
    """All that the first boot needs. Pure: the same input gives the same files.

    `network_files` are the guest's own ifupdown files, `captured` what inspection read from them. Raises
    Refused for a plan that cannot be put into the guest's own words.
    """
    files = {
        f"{DIRECTORY}/pending": StagedFile(f"{_plain(request.job)}\n".encode()),
        f"{DIRECTORY}/firstboot.sh": StagedFile(_own("refloat-firstboot.sh"), 0o755, shown=False),
        f"{DIRECTORY}/firstboot.conf": StagedFile(_conf(request)),
        f"{DIRECTORY}/secrets": StagedFile(_secrets(request), 0o600, shown=False),
        f"{DIRECTORY}/nics": StagedFile(_nics(request.nics)),
        f"{UNITS}/{CONFIGURE}": StagedFile(_own(CONFIGURE)),
        f"{UNITS}/{REPORT}": StagedFile(_own(REPORT)),
    }
    files |= _network(request.nics, network_files, captured)
    wants = {
        f"{UNITS}/{target}.target.wants/{unit}": f"{UNITS}/{unit}"
        for unit, targets in _WANTED_BY.items()
        for target in targets
    }
    directories = [DIRECTORY, f"{DIRECTORY}/network", *(link.rpartition("/")[0] for link in wants)]
    return Staging(tuple(dict.fromkeys(directories)), files, wants)


def network_paths(tree: Tree, files: Mapping[str, str]) -> dict[str, str]:
    """The files under their real paths: the first boot replaces a file, never a symlink to it."""
    return {tree.real(path): text for path, text in files.items()}


def _own(name: str) -> bytes:
    return resources.files(__package__).joinpath(name).read_bytes()


def _plain(value: str) -> str:
    if not _PLAIN.fullmatch(value):
        raise Refused(f"{value!r} cannot be put into a guest's file", code="plan_invalid")
    return value


def _conf(request: AdaptRequest) -> bytes:
    if not _CHANNEL.fullmatch(request.channel):
        raise Refused(f"{request.channel!r} is no name of a report channel", code="plan_invalid")
    lines = (
        f"JOB='{_plain(request.job)}'",
        f"CHANNEL='/dev/virtio-ports/{request.channel}'",
        f"DEADLINE={int(request.report_deadline)}",
        f"NIC_WAIT={NIC_WAIT}",
        f"SETTLE={SETTLE}",
    )
    return "".join(f"{line}\n" for line in lines).encode()


def _secrets(request: AdaptRequest) -> bytes:
    for value in (request.secrets.token, request.secrets.nonce):
        if not _PLAIN.fullmatch(value):
            raise Refused("the job's token or nonce has characters that are not allowed", code="plan_invalid")
    return f"TOKEN='{request.secrets.token}'\nNONCE='{request.secrets.nonce}'\n".encode()


def _nics(nics: Sequence[PlannedNic]) -> bytes:
    """One line each: number, MAC, the old name ("-" for a NIC that is only looked for)."""
    lines = []
    for index, nic in enumerate(nics):
        mac = nic.mac.lower()
        if not _MAC.fullmatch(mac):
            raise Refused(f"{nic.mac!r} is no MAC address", code="plan_invalid")
        restored = nic.mode is NetworkMode.RESTORE and nic.config is not None
        name = nic.config.name if restored and nic.config else "-"
        if name != "-" and not _NIC_NAME.fullmatch(name):
            raise Refused(f"{name!r} is no name of a network interface", code="plan_invalid")
        lines.append(f"{index} {mac} {name}\n")
    return "".join(lines).encode()


def _network(
    nics: Sequence[PlannedNic], files: Mapping[str, str], captured: Sequence[NicConfig]
) -> dict[str, StagedFile]:
    """The guest's network files with placeholders, and the list of them: number, path, sha256 now."""
    names = {}
    known = {config.name: config for config in captured}
    for index, nic in enumerate(nics):
        if nic.mode is NetworkMode.RESTORE and nic.config is not None:
            _check_restorable(nic.config, known)
            names[nic.config.name] = placeholder(index)
    staged, listed = {}, []
    for number, (path, text) in enumerate(sorted(render(files, names).items())):
        if not _PLAIN.fullmatch(path):
            raise Refused(f"the name of the guest's {path!r} is too unusual", code="guest_network")
        staged[f"{DIRECTORY}/network/{number}"] = StagedFile(_encoded(text), 0o600)
        listed.append(f"{number} {path} {hashlib.sha256(_encoded(files[path])).hexdigest()}\n")
    staged[f"{DIRECTORY}/network/files"] = StagedFile("".join(listed).encode())
    return staged


def _check_restorable(config: NicConfig, known: Mapping[str, NicConfig]) -> None:
    """Restoring is repeating the guest's own words: another address needs a renderer, which comes later."""
    if config.method is NicMethod.NONE:
        return
    if config.name not in known:
        raise Refused(
            f"the guest's network files name no interface {config.name}",
            code="guest_network",
            hint="let the guest be inspected again",
        )
    if set(config.addresses) - set(known[config.name].addresses):
        raise Refused(
            f"{config.name} is to get other addresses than the guest's own: not supported yet",
            code="guest_network",
            hint="plan the guest's own addresses, or the network mode preserve",
        )


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
