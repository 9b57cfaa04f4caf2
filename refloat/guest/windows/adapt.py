"""Adapting a Windows guest: drivers and settings now, the rest when it boots.

All that can go wrong without touching the guest is done first: drivers are proven, hives opened and edited in
memory, space counted. Then files are written, and the hives last, SYSTEM the very last: it is what makes
Windows use any of it, so a half-done adaptation boots as before.
"""

from __future__ import annotations

import posixpath
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path

from refloat.errors import Refused
from refloat.guest.firstboot.windows import staging
from refloat.guest.journal import Journal
from refloat.guest.linux.edits import Progress
from refloat.guest.tree import Tree
from refloat.guest.windows import bcd, esp, paths, settings, storage
from refloat.guest.windows.drivers import FILE_LIMIT, Loaded, load
from refloat.guest.windows.inf import InfDamaged
from refloat.guest.windows.registry import Registry
from refloat.guest.windows.versions import Version, row_of
from refloat.model import (
    AdaptRequest,
    DiskBus,
    Firmware,
    GuestCaps,
    GuestFacts,
    NicModel,
    Remediation,
    WindowsFacts,
    WindowsRequest,
)

# Bytes that stay free: Windows needs some to start at all, and NTFS some for its own tables.
_RESERVE = 64 * 1024 * 1024
_ESP_RESERVE = 1024 * 1024
# Windows has a driver for it on its installation medium from 8 and 2012 on.
_E1000E = 9200


@dataclass(frozen=True)
class _Files:
    """What is to be written, by path: `programs` replace what Windows may have, the others are ours."""

    programs: Mapping[str, bytes]
    drivers: Mapping[str, bytes]
    staged: staging.WindowsStaged
    loader: esp.Loader | None


def change(
    tree: Tree, journal: Journal, request: AdaptRequest, facts: GuestFacts, progress: Progress
) -> None:
    """Every change to a mounted Windows guest. Raises Refused before the first one."""
    windows, _ = _of_windows(request, facts)
    loaded = check(request, facts)
    registry = Registry(tree, windows.system_root)
    kept = _kept(tree, registry, windows)
    files = _files(tree, request, facts, loaded, kept)
    _edit(registry, files.staged, windows, kept)
    registry.prepare()
    _check_space(tree, files, windows)

    _write_drivers(journal, files, windows)
    progress("drivers", {"files": len(files.drivers), "programs": len(files.programs)})
    _write_staged(journal, files.staged)
    progress("first-boot", {"files": len(files.staged.files)})
    _write_loader(journal, files.loader)
    registry.commit(journal, "the destination's hardware, and the first boot")
    progress("registry", {"values": sum(len(one.values) for one in journal.changes())})


def check(request: AdaptRequest, facts: GuestFacts) -> Loaded:
    """The drivers of the request, proven. Needs no guest: for before its disks are opened.

    Raises Refused: drivers_missing, drivers_damaged, drivers_changed; guest_not_capable for hardware that
    this Windows would not start on.
    """
    windows, wanted = _of_windows(request, facts)
    able = caps(request, facts)
    if request.disk_bus not in able.disk_buses or request.nic_model not in able.nic_models:
        raise Refused(
            f"this Windows cannot run on {request.disk_bus} with {request.nic_model}",
            code="guest_not_capable",
            hint=f"it can on {', '.join(able.disk_buses)} with {', '.join(able.nic_models)}: see the policy",
        )
    if wanted.drivers.architecture != windows.architecture:
        raise Refused(
            f"the drivers are for {wanted.drivers.architecture}, but the guest is {windows.architecture}",
            code="drivers_missing",
            hint="let the guest be inspected and the drivers be chosen again",
        )
    return load(wanted.drivers, Path(wanted.drivers_dir), row_of(windows.version))


def caps(request: AdaptRequest, facts: GuestFacts) -> GuestCaps:
    """What the guest runs on after `change`: from the request and the facts alone, so that a rerun after a
    kill returns the same."""
    windows, wanted = _of_windows(request, facts)
    version = row_of(windows.version)
    return GuestCaps(
        disk_buses=_buses(windows, version),
        nic_models=(NicModel.VIRTIO, *((NicModel.E1000E,) if version.build >= _E1000E else ())),
        firmware=facts.firmware,
        reporter=True,
        remediation=Remediation.SCHEDULED,
        modules_added=wanted.drivers.drivers(),
        clock_utc=windows.clock_utc,
    )


def _of_windows(request: AdaptRequest, facts: GuestFacts) -> tuple[WindowsFacts, WindowsRequest]:
    if facts.windows is None or request.windows is None:
        raise Refused("this is no request for a Windows guest", code="plan_invalid")
    return facts.windows, request.windows


def _buses(windows: WindowsFacts, version: Version) -> tuple[DiskBus, ...]:
    installed = {driver.service.lower() for driver in windows.storage_drivers}
    inbox = ((version.sata, DiskBus.SATA), (version.nvme, DiskBus.NVME))
    return (DiskBus.VIRTIO_BLK, DiskBus.VIRTIO_SCSI, *(bus for name, bus in inbox if name in installed))


# ---------------------------------------------------------------- before the first change


def _kept(tree: Tree, registry: Registry, windows: WindowsFacts) -> frozenset[str]:
    """The storage drivers that the guest's administrator has installed: their programs are left as they are,
    as are the packages to which they belong."""
    found = storage.installed(registry.system, registry.control_set)
    paths_of = {name: paths.find(tree, f"{windows.system_root}/{path}") for name, path in found.items()}
    return frozenset(name for name, path in paths_of.items() if path and tree.is_file(path))


def _files(
    tree: Tree, request: AdaptRequest, facts: GuestFacts, loaded: Loaded, kept: Container[str]
) -> _Files:
    windows, _ = _of_windows(request, facts)
    folder = f"{windows.system_root}/{staging.FOLDER}/{staging.DRIVERS}"
    uefi = facts.firmware is Firmware.UEFI
    return _Files(
        programs={
            paths.spelled(tree, f"{windows.system_root}/System32/drivers/{driver.program}"): _program(
                loaded, driver
            )
            for driver in storage.MINIPORTS
            if driver.service not in kept
        },
        drivers={f"{folder}/{path}": content for path, content in loaded.files.items()},
        staged=staging.stage(request, facts),
        loader=esp.missing_loader(tree, windows.architecture) if uefi else None,
    )


def _program(loaded: Loaded, driver: storage.Miniport) -> bytes:
    files = loaded.package(driver.service).files
    program = next((data for name, data in files.items() if name.lower() == driver.program), None)
    if program is None:
        raise InfDamaged(f"the driver {driver.service} has no {driver.program}")
    return program


def _edit(
    registry: Registry, staged: staging.WindowsStaged, windows: WindowsFacts, kept: Container[str]
) -> None:
    """Every change to the hives, in memory."""
    control_set = registry.control_set
    storage.change(registry.system, control_set, row_of(windows.version), windows.architecture, kept)
    settings.change_system(registry.system, control_set)
    for row in staged.service:
        registry.system.set(f"{control_set}\\Services\\{row.key}", row.name, row.value)
    settings.change_software(registry.software)
    boot = registry.bcd
    if boot is not None:
        bcd.change(boot)


def _check_space(tree: Tree, files: _Files, windows: WindowsFacts) -> None:
    """Each file is written beside the old one, which it then replaces; a hive once more at its size."""
    ours = {
        **files.programs,
        **files.drivers,
        **{path: one.content for path, one in files.staged.files.items()},
    }
    needed = sum(len(content) for path, content in ours.items() if not _is_there(tree, path, len(content)))
    hives = [f"{windows.system_root}/System32/config/{name}" for name in ("SYSTEM", "SOFTWARE")]
    needed += max(_size(tree, hive) for hive in hives) + _RESERVE
    _require_space(tree, "/C", needed, "Windows' own volume")
    if files.loader:
        _require_space(tree, "/ESP", len(files.loader.content) + _ESP_RESERVE, "the EFI system partition")


def _require_space(tree: Tree, volume: str, needed: int, name: str) -> None:
    free = tree.free_space(volume)
    if free < needed:
        raise Refused(
            f"{name} has {free >> 20} MiB free, but {-(-needed >> 20)} MiB are needed",
            code="guest_space",
            hint="free some space on it at the source, then replicate",
        )


def _is_there(tree: Tree, path: str, size: int) -> bool:
    """What a killed run wrote need not be written again."""
    return _size(tree, path) == size


def _size(tree: Tree, path: str) -> int:
    status = tree.stat(path)
    return status.st_size if status else -1


# ---------------------------------------------------------------- the changes, in their order


def _write_drivers(journal: Journal, files: _Files, windows: WindowsFacts) -> None:
    folder = f"{windows.system_root}/{staging.FOLDER}"
    journal.directory(folder, "holds first-boot files")
    for parent in sorted({f"{folder}/{staging.DRIVERS}", *map(posixpath.dirname, files.drivers)}):
        journal.directory(parent, "holds drivers for the first boot")
    for path, content in files.drivers.items():
        journal.write(path, content, "driver for the first boot", shown=False, limit=FILE_LIMIT)
    for path, content in files.programs.items():
        journal.write(path, content, "driver for the destination's disks", shown=False, limit=FILE_LIMIT)


def _write_staged(journal: Journal, staged: staging.WindowsStaged) -> None:
    for path in staged.directories:
        journal.directory(path, "holds first-boot files")
    for path, file in staged.files.items():
        journal.write(path, file.content, file.reason, shown=file.shown)


def _write_loader(journal: Journal, loader: esp.Loader | None) -> None:
    if loader is None:
        return
    journal.directory(posixpath.dirname(loader.path), "holds what a firmware without boot entries starts")
    journal.write(
        loader.path,
        loader.content,
        "what a firmware without boot entries starts",
        shown=False,
        limit=esp.LOADER_LIMIT,
    )
