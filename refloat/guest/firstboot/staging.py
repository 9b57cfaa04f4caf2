"""What is put into a guest so that it finishes its recovery and says so: what its init system starts, a
script in three parts, their data, and what ties an adapter's name to its address.

All but the latter is removed again by the guest, and lies in /etc: on the root filesystem always, whatever
else fails to mount.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources

from refloat.errors import Refused
from refloat.guest.firstboot.inits import Start, init_of, start_of
from refloat.guest.firstboot.pins import naming_of, pins
from refloat.guest.linux import network, render
from refloat.guest.linux.render import Rendered, RenderedFile
from refloat.guest.tree import Tree
from refloat.model import AdaptRequest, GuestFacts, NetworkMode, NicConfig, PlannedNic

DIRECTORY = "/etc/refloat"
# Seconds the guest looks for its NICs, and for the end of its boot.
NIC_WAIT = 15
SETTLE = 180

# The parts of the script as they are staged: what the file is called in this package.
_SCRIPTS = {
    "firstboot.sh": "refloat-firstboot.sh",
    "network.sh": "network.sh",
    "facts.sh": "facts.sh",
}
_REWRITTEN = (NetworkMode.RESTORE, NetworkMode.READDRESS, NetworkMode.DHCP)
# Every value goes into a file that a shell reads.
_PLAIN = re.compile(r"[A-Za-z0-9._:=+/-]{1,256}")
_CHANNEL = re.compile(r"[A-Za-z0-9._-]{1,64}")
_CALLBACK = re.compile(r"https?://[A-Za-z0-9._:\[\]-]{1,210}/[A-Za-z0-9._/-]{1,200}")
_MAC = re.compile(r"(?:[0-9a-f]{2}:){5}[0-9a-f]{2}")
_NIC_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,15}")
# A path may be unusual ("Wired connection 1.nmconnection"), but is one field of a line.
_PATH = re.compile(r"/[^\x00-\x1f\x7f]{1,1000}")


@dataclass(frozen=True)
class StagedFile:
    """`expect` is the content that this one was computed from, where the file exists already."""

    content: bytes
    mode: int = 0o644
    shown: bool = True  # as a diff in the journal: not for secrets, nor for programs of our own
    reason: str = "first boot"
    expect: bytes | None = None


@dataclass(frozen=True)
class Staging:
    """What to put where: directories first, then files, then the links that start the first boot."""

    directories: tuple[str, ...]
    files: Mapping[str, StagedFile]
    symlinks: Mapping[str, str]


@dataclass(frozen=True)
class Network:
    """What becomes of the guest's network files: the changes, and what the files hold now (by real path).
    The texts of `private` files are not for everybody's eyes."""

    stack: str = ""
    changes: tuple[RenderedFile, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    private: frozenset[str] = frozenset()


def stage(tree: Tree, request: AdaptRequest, facts: GuestFacts) -> Staging:
    """All that the first boot of this guest needs. Raises Refused for a plan that cannot be put into the
    guest's own words, or an init system that is not known."""
    init = init_of(tree)
    if not init:
        raise Refused("the guest's init system is not known", code="guest_init")
    planned = plan_network(tree, request.nics, facts)
    tied = pins(request.nics, request.nic_model, naming_of(tree))
    return staging(request, init, start_of(tree, init), planned, tied)


def plan_network(tree: Tree, nics: Sequence[PlannedNic], facts: GuestFacts) -> Network:
    """The guest's network files with the plan's changes; for an adapter that they do not know, new ones."""
    wanted = []
    known = {config.name: config for config in facts.nics}
    for index, nic in enumerate(nics):
        if nic.mode not in _REWRITTEN or nic.config is None:
            continue
        name = nic.config.name
        if name in known:
            _check_same(nic, known[name])
        elif nic.config.sources:
            raise Refused(
                f"the guest's network files name no interface {name} any more",
                code="guest_network",
                hint="let the guest be inspected again",
            )
        wanted.append(Rendered(index, name, nic.config, nic.mode, nic.mac, nic.source_mac, nic.above))
    if not wanted:
        return Network(facts.network_stack)
    files = network.files(tree, facts.network_stack)
    changes = render.render(facts.network_stack, files, wanted)
    private = frozenset(path for path in files if not tree.meta(path).mode & 0o004)
    return Network(facts.network_stack, changes, files, private)


def _check_same(nic: PlannedNic, now: NicConfig) -> None:
    """What is restored is what the guest says itself: a plan for other addresses is out of date."""
    if nic.mode is NetworkMode.RESTORE and nic.config and set(nic.config.addresses) - set(now.addresses):
        raise Refused(
            f"{now.name} has other addresses than when the failover was planned",
            code="guest_network",
            hint="start the failover again: it looks at the guest anew",
        )


def staging(
    request: AdaptRequest,
    init: str,
    start: Start,
    planned: Network,
    tied: Mapping[str, str],
) -> Staging:
    """What to put where. Pure: the same input gives the same files."""
    files = {
        f"{DIRECTORY}/pending": StagedFile(f"{_plain(request.job)}\n".encode()),
        f"{DIRECTORY}/firstboot.conf": StagedFile(_conf(request, init, planned.stack)),
        f"{DIRECTORY}/secrets": StagedFile(_secrets(request), 0o600, shown=False),
        f"{DIRECTORY}/nics": StagedFile(_nics(request.nics)),
        f"{DIRECTORY}/staged": StagedFile(_staged(start)),
    }
    for name, own in _SCRIPTS.items():
        files[f"{DIRECTORY}/{name}"] = StagedFile(_own(own), 0o755, shown=False)
    if request.callback:
        files[f"{DIRECTORY}/callback.sh"] = StagedFile(_own("callback.sh"), 0o755, shown=False)
        if request.callback.certificate:
            files[f"{DIRECTORY}/callback.pem"] = StagedFile(request.callback.certificate.encode("ascii"))
    files |= _network(planned)
    for path, own in start.files.items():
        files[path] = StagedFile(_own(own), start.mode)
    for path, (old, new) in start.replaced.items():
        files[path] = StagedFile(_encoded(new), reason="starts the first boot", expect=_encoded(old))
    for path, text in tied.items():
        files[path] = StagedFile(text.encode(), reason="the adapter keeps its name")
    directories = [DIRECTORY, f"{DIRECTORY}/network", *(_parent(path) for path in (*start.links, *tied))]
    return Staging(tuple(dict.fromkeys(directories)), files, start.links)


def _own(name: str) -> bytes:
    return resources.files(__package__).joinpath(name).read_bytes()


def _plain(value: str) -> str:
    if not _PLAIN.fullmatch(value):
        raise Refused(f"{value!r} cannot be put into a guest's file", code="plan_invalid")
    return value


def _conf(request: AdaptRequest, init: str, stack: str) -> bytes:
    if not _CHANNEL.fullmatch(request.channel):
        raise Refused(f"{request.channel!r} is no name of a report channel", code="plan_invalid")
    if request.callback and not _CALLBACK.fullmatch(request.callback.url):
        raise Refused(f"{request.callback.url!r} is no address for reports", code="plan_invalid")
    by_https = (f"CALLBACK='{request.callback.url}'",) if request.callback else ()
    lines = (
        f"JOB='{_plain(request.job)}'",
        f"CHANNEL='/dev/virtio-ports/{request.channel}'",
        f"DEADLINE={int(request.report_deadline)}",
        f"NIC_WAIT={NIC_WAIT}",
        f"SETTLE={SETTLE}",
        f"INIT='{_plain(init)}'",
        f"STACK='{_plain(stack) if stack else ''}'",
        *by_https,
    )
    return "".join(f"{line}\n" for line in lines).encode()


def _secrets(request: AdaptRequest) -> bytes:
    for value in (request.secrets.token, request.secrets.nonce):
        if not _PLAIN.fullmatch(value):
            raise Refused("the job's token or nonce has characters that are not allowed", code="plan_invalid")
    return f"TOKEN='{request.secrets.token}'\nNONCE='{request.secrets.nonce}'\n".encode()


def _nics(nics: Sequence[PlannedNic]) -> bytes:
    """One line each: number, MAC, the name that stands in for a placeholder if the NIC is not there, and
    the name that is tied to it; "-" for none."""
    lines = []
    for index, nic in enumerate(nics):
        mac = nic.mac.lower()
        if not _MAC.fullmatch(mac):
            raise Refused(f"{nic.mac!r} is no MAC address", code="plan_invalid")
        name = nic.config.name if nic.mode in _REWRITTEN and nic.config else ""
        if nic.pin and not _NIC_NAME.fullmatch(nic.pin):
            raise Refused(f"{nic.pin!r} is no name of a network interface", code="plan_invalid")
        # networkd's name may be a pattern, and then stands for no interface.
        old = name if _NIC_NAME.fullmatch(name) else "-"
        lines.append(f"{index} {mac} {old} {nic.pin or '-'}\n")
    return "".join(lines).encode()


def _network(planned: Network) -> dict[str, StagedFile]:
    """The texts with their placeholders, and the list of them: number, mode if it is a new file, sha256
    now, path now, path then; "-" for what there is not."""
    staged, listed = {}, []
    for number, change in enumerate(planned.changes):
        old = _encoded(planned.files[change.path]) if change.path else None
        text = None if change.text is None else _encoded(change.text)
        digest = "-" if old is None else hashlib.sha256(old).hexdigest()
        paths = [_path(change.path), "-" if text is None else _path(change.new_path)]
        shown = change.mode & 0o004 != 0 and change.path not in planned.private
        staged[f"{DIRECTORY}/network/{number}"] = StagedFile(text or b"", 0o600, shown=shown)
        listed.append("\t".join((str(number), f"{change.mode:04o}", digest, *paths)) + "\n")
    staged[f"{DIRECTORY}/network/files"] = StagedFile(_encoded("".join(listed)))
    return staged


def _path(path: str) -> str:
    if path and not _PATH.fullmatch(path):
        raise Refused(f"the name of the guest's {path!r} is too unusual", code="guest_network")
    return path or "-"


def _staged(start: Start) -> bytes:
    """What the first boot removes beside its own directory, in that order: links, files, what we have
    added a word to, and directories that hardly any guest has ("/" at the end) if they are empty."""
    rare = [_parent(link) for link in start.links if start.rare(link)]
    paths = [*start.links, *start.files, *start.replaced, *(f"{path}/" for path in dict.fromkeys(rare))]
    return "".join(f"{path}\n" for path in paths).encode()


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
