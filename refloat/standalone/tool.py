"""Inspect, plan, adapt and undo: what `refloat guest` does. One function each."""

from __future__ import annotations

import json
import secrets
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from refloat import drivers
from refloat.codec import decode
from refloat.decide import Place, plan_nics
from refloat.errors import Refused
from refloat.guest import undo as engine
from refloat.guest.adapt import adapt as adapt_guest
from refloat.guest.adapt import same_system
from refloat.guest.disk import is_system
from refloat.guest.generation import Read, generation, mounted_since, mounts
from refloat.guest.host import Host
from refloat.guest.inspect import inspect as inspect_guest
from refloat.guest.mounts import clear
from refloat.guest.probe import Found
from refloat.guest.systems import system_of
from refloat.model import (
    Adaptation,
    AdaptRequest,
    DiskBus,
    GuestFacts,
    NicModel,
    PlannedDisk,
    Secrets,
    SourceNic,
    WindowsRequest,
)
from refloat.policy import Policy, Rebuild
from refloat.standalone.evidence import FORMAT, Evidence, ImageRecord, Record, State
from refloat.standalone.images import Image, disk_key, opened
from refloat.standalone.watched import Watched

CHANNEL = "org.refloat.report"

Progress = Callable[[str, dict[str, object]], None]


@dataclass(frozen=True)
class Adapter:
    """One adapter of the guest: its MAC now and at the destination, and its name in the guest if known."""

    source_mac: str
    mac: str
    name: str = ""


@dataclass(frozen=True)
class Wishes:
    """What the guest is to be adapted for. `keys`: passphrases by the UUID of the LUKS container.
    For Windows, `drivers` is a virtio-win ISO or folder; the other two say what may be lost."""

    bus: DiskBus = DiskBus.VIRTIO_BLK
    nic: NicModel = NicModel.VIRTIO
    adapters: tuple[Adapter, ...] = ()
    policy: Policy = field(default_factory=Policy)
    serial_console: bool = False
    keys: dict[str, str] = field(default_factory=dict, repr=False)
    drivers: Path | None = None
    discard_hibernation: bool = False
    repair_ntfs: bool = False


def inspect(images: Sequence[Image], wishes: Wishes, host: Host) -> GuestFacts:
    """The guest's facts. The images are opened read-only."""
    with _work() as work, opened(images, work, writable=False) as devices:
        return inspect_guest(devices, tuple(devices), wishes.bus, wishes.nic, wishes.keys, host=host)


def plan(images: Sequence[Image], wishes: Wishes, host: Host, progress: Progress) -> Adaptation:
    """The adaptation as it would be, made on an overlay that is thrown away."""
    with _work() as work:
        facts = inspect(images, wishes, host)
        request = _with_drivers(_request(images, wishes, facts, "guest-plan"), wishes, facts, work)
        with opened(images, work / "disks", writable=False) as devices:
            return adapt_guest(request, devices, facts, work / "run", progress, host=host)


def adapt(
    images: Sequence[Image], wishes: Wishes, evidence: Evidence, host: Host, progress: Progress
) -> Adaptation:
    """Adapts the guest in place. A run that was killed is taken up again by the same call.

    Raises Refused before anything was changed.
    """
    record = evidence.load()
    if record is not None and record.state is not State.ADAPTING:
        raise _not_again(evidence, record.state)
    _clear(evidence)
    if record is not None and evidence.begun:
        facts = _facts(evidence)
        _check_images(images, record)
        _check_wishes(record.request, _request(images, wishes, facts, record.request.job))
    else:  # whatever was meant by then: nothing came of it
        facts = inspect(images, wishes, host)
        request = _request(images, wishes, facts, f"guest-{secrets.token_hex(4)}")
        record = Record(FORMAT, State.ADAPTING, tuple(map(_image_record, images)), request)
    request = replace(record.request, luks_keys=wishes.keys)
    evidence.save(record)
    watched = _watched(host, evidence, record)
    with _work() as work, opened(images, work, writable=True) as devices:
        request = _with_drivers(request, wishes, facts, work)
        done = adapt_guest(request, devices, facts, evidence.run_dir, progress, host=watched)
        marks = _marks(devices, done.facts, wishes, host)
    evidence.save(replace(record, state=State.ADAPTED, marks=marks, adaptation=done))
    return done


def undo(images: Sequence[Image], evidence: Evidence, keys: dict[str, str], host: Host) -> tuple[str, ...]:
    """Gives every changed file its bytes back; returns the paths. Safe to repeat.

    Raises Refused, before anything is changed, when the guest has run since or its files are not what the
    adaptation left.
    """
    record = evidence.load()
    if record is None:
        raise Refused(f"there is no evidence in {evidence.directory}", code="bad_evidence")
    _check_images(images, record)
    _clear(evidence)
    if not evidence.begun or record.state is State.UNDONE:
        return ()
    facts = _facts(evidence)
    watched = _watched(host, evidence, record, then=State.UNDOING)
    with _work() as work, opened(images, work, writable=True) as devices:
        with watched.opened(devices, keys) as volumes:
            found = same_system(volumes, facts)
            with watched.mounted_system(found, evidence.run_dir / "mnt", writable=True) as tree:
                restored = engine.undo(tree, evidence.journal(tree, system_of(facts).boundary))
        watched.flush(devices)
    evidence.save(replace(record, state=State.UNDONE))
    return restored


# ---------------------------------------------------------------- small things


def _clear(evidence: Evidence) -> None:
    """What a killed run left mounted keeps its images open: to be called before they are opened again."""
    clear(evidence.directory / "run")


@contextmanager
def _work() -> Iterator[Path]:
    # Not below the evidence: an overlay may become as large as what is written to it.
    with tempfile.TemporaryDirectory(prefix="refloat-guest-", ignore_cleanup_errors=True) as name:
        yield Path(name)


def _request(images: Sequence[Image], wishes: Wishes, facts: GuestFacts, job: str) -> AdaptRequest:
    places = [
        Place(SourceNic(one.source_mac, wishes.nic, "", one.name), one.mac, "") for one in wishes.adapters
    ]
    keys = [disk_key(index) for index in range(len(images))]
    disks = (PlannedDisk(key, key, "", image.capacity) for key, image in zip(keys, images, strict=True))
    return AdaptRequest(
        job=job,
        disks=tuple(disks),
        disk_bus=wishes.bus,
        nic_model=wishes.nic,
        nics=plan_nics(places, facts.nics, wishes.policy),
        secrets=Secrets(secrets.token_hex(24), secrets.token_hex(16)),
        channel=CHANNEL,
        report_deadline=wishes.policy.report_deadline,
        serial_console=wishes.serial_console,
        luks_keys=wishes.keys,
        windows=_windows(wishes, facts, keys),
        rebuild=wishes.policy.rebuild is Rebuild.ALLOWED,
    )


def _windows(wishes: Wishes, facts: GuestFacts, disks: Sequence[str]) -> WindowsRequest | None:
    """What a Windows guest needs besides; None for others, and for one that will be refused."""
    if facts.windows is None or facts.problems:
        return None
    return WindowsRequest(
        drivers=drivers.choose(_driver_set(wishes), facts.windows.version, facts.windows.architecture),
        drivers_dir="",
        discard_hibernation=wishes.discard_hibernation,
        repair_dirty=wishes.repair_ntfs,
        online_disks=tuple(disks),
    )


def _driver_set(wishes: Wishes) -> Path:
    if wishes.drivers is None:
        raise Refused(
            "this is a Windows guest, which has no drivers for the destination",
            code="drivers_missing",
            hint="download virtio-win.iso from the virtio-win project, and name it with --drivers",
        )
    return wishes.drivers


def _with_drivers(request: AdaptRequest, wishes: Wishes, facts: GuestFacts, work: Path) -> AdaptRequest:
    """The request with the files of its drivers beside it; they are proven to be those that were chosen."""
    if request.windows is None or facts.windows is None:
        return request
    folder = work / "drivers"
    drivers.extract(_driver_set(wishes), request.windows.drivers, facts.windows.version, folder)
    return replace(request, windows=replace(request.windows, drivers_dir=str(folder)))


def _marks(devices: dict[str, str], facts: GuestFacts, wishes: Wishes, host: Host) -> dict[str, str]:
    """What each filesystem of the guest's system shows of the last time that it was written."""
    with host.opened(devices, wishes.keys) as volumes:
        found = [one for one in same_system(volumes, facts) if is_system(one.filesystem)]
        return _of_each(generation, found, host)


def _of_each(mark: Callable[[str, Read], str], found: Sequence[Found], host: Host) -> dict[str, str]:
    return {one.filesystem.uuid: mark(one.filesystem.kind, partial(host.read, one)) for one in found}


def _watched(host: Host, evidence: Evidence, record: Record, then: State | None = None) -> Host:
    """Refuses to write to a guest that has run since Refloat wrote to it; else the evidence says, before the
    first write, that Refloat does (in state `then`)."""

    def before(found: Sequence[Found]) -> None:
        now = _of_each(mounts, found, host)
        if record.state is State.ADAPTED:
            marks = _of_each(generation, found, host)
            _check_same("adapted", (uuid for uuid in record.marks if marks.get(uuid) != record.marks[uuid]))
        else:
            moved = (uuid for uuid in now if mounted_since(record.mounts.get(uuid, ""), now[uuid]))
            _check_same("half undone" if record.state is State.UNDOING else "half adapted", moved)
        evidence.save(replace(record, state=then or record.state, mounts=now))

    return Watched(host, before)


def _check_same(since: str, moved: Iterable[str]) -> None:
    if names := ", ".join(sorted(moved)):
        raise Refused(
            f"the guest has run since it was {since} (filesystem {names} was written)",
            code="guest_has_run",
            hint="that would mix two states of its files; restore the disk from a snapshot instead",
        )


# Of a request, and the option that says it.
_SAID_BY = {
    "disk_bus": "--bus",
    "nic_model": "--nic",
    "nics": "--adapter or --network",
    "serial_console": "--serial-console",
    "rebuild": "--rebuild",
}


def _check_wishes(begun: AdaptRequest, now: AdaptRequest) -> None:
    """What was begun one way is not finished in another."""
    changed = [said for name, said in _SAID_BY.items() if getattr(begun, name) != getattr(now, name)]
    if changed:
        raise Refused(
            f"the adaptation was begun with another {', '.join(changed)}",
            code="other_wishes",
            hint="give the same options to finish it; or undo it, and adapt with a new evidence directory",
        )


def _check_images(images: Sequence[Image], record: Record) -> None:
    here = [(image.format, image.capacity) for image in images]
    if here != [(image.format, image.capacity) for image in record.images]:
        names = ", ".join(image.path for image in record.images)
        raise Refused(
            "these are not the images that the evidence is about",
            code="bad_evidence",
            hint=f"in their order: {names}",
        )


def _not_again(evidence: Evidence, state: State) -> Refused:
    what = "half undone" if state is State.UNDOING else state.value
    return Refused(
        f"{evidence.directory} is the evidence of a guest that was {what}",
        code="bad_evidence",
        hint="name a new directory; to take an adaptation back, `refloat guest undo`",
    )


def _image_record(image: Image) -> ImageRecord:
    return ImageRecord(str(image.path), image.format, image.capacity)


def _facts(evidence: Evidence) -> GuestFacts:
    return decode(GuestFacts, json.loads((evidence.run_dir / "facts.json").read_bytes()))
