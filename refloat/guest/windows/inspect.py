"""What is in a Windows guest: the facts, from its registry and a few of its files. Nothing is changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from refloat.guest.disk import Found
from refloat.guest.notes import Notes
from refloat.guest.tree import Tree
from refloat.guest.windows import devices, network, release, waiting
from refloat.guest.windows.ntfs import NtfsState
from refloat.guest.windows.registry import Registry
from refloat.model import DiskBus, Firmware, GuestFacts, NicModel, WindowsFacts

# As Linux calls them, for all that does not care which system runs.
_PSABI = {"amd64": "x86_64", "x86": "i686", "ARM64": "aarch64"}


def examine(
    tree: Tree,
    found: Sequence[Found],
    order: Sequence[str],
    bus: DiskBus,
    nic: NicModel,
    state: NtfsState,
) -> GuestFacts:
    """The facts about a mounted Windows; `state` is that of its system volume.

    What keeps it from being adapted is among `problems`: whatever the destination's hardware is, since the
    drivers come with the request. Raises HiveDamaged where the registry cannot be read at all.
    """
    notes = Notes()
    registry = Registry(tree)
    filesystems = tuple(one.filesystem for one in found)
    volumes = tuple(one.mountpoint for one in filesystems if one.mountpoint)
    firmware = Firmware.UEFI if "/ESP" in volumes else Firmware.BIOS
    nics, adapters = network.look(registry.system, registry.control_set, notes)
    windows = _windows(tree, registry, state, notes)
    letters = devices.drive_letters(registry.system, notes)
    release.check_firmware(registry.software, letters, firmware, notes)
    return GuestFacts(
        family="windows",
        os_id="windows",
        os_name=windows.product,
        os_version=windows.version,
        architecture=_PSABI.get(windows.architecture, windows.architecture),
        hostname=release.hostname(registry.system, registry.control_set),
        firmware=firmware,
        bootloader="bootmgr",
        initramfs_tool="",
        network_stack="windows",
        root=next(one for one in filesystems if one.mountpoint == "/C"),
        filesystems=filesystems,
        kernels=(),
        nics=nics,
        problems=tuple(notes.problems),
        warnings=tuple(notes.warnings),
        windows=replace(windows, letters=letters, adapters=adapters, system_volumes=volumes),
    )


def _windows(tree: Tree, registry: Registry, state: NtfsState, notes: Notes) -> WindowsFacts:
    system, control_set = registry.system, registry.control_set
    control = f"{control_set}\\Control"
    found = release.look(tree, registry, notes)
    waiting.check_setup(system, notes)
    return WindowsFacts(
        version=found.version,
        product=found.product,
        edition=found.edition,
        build=found.build,
        revision=found.revision,
        server=found.server,
        core=found.core,
        architecture=found.architecture,
        control_set=control_set,
        driver_database=system.has("DriverDatabase"),
        hibernation=waiting.hibernation(tree, system, control_set),
        dirty=state.dirty,
        pending=waiting.pending(tree, registry),
        policies=waiting.policies(registry),
        storage_drivers=devices.storage_drivers(system, control_set),
        vmware_tools=devices.vmware_tools(registry.software),
        san_policy=system.number(f"{control_set}\\Services\\partmgr\\Parameters", "SanPolicy"),
        clock_utc=system.number(f"{control}\\TimeZoneInformation", "RealTimeIsUniversal") == 1,
        crash_reboot=system.number(f"{control}\\CrashControl", "AutoReboot") != 0,
    )
