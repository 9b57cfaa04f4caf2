"""Facts of a Windows guest, and what keeps it from being adapted, in words with what to do."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from refloat.errors import Refused
from refloat.guest.probe import Found
from refloat.guest.tree import Tree
from refloat.guest.windows.hive import Hive
from refloat.guest.windows.hivelog import replayed
from refloat.guest.windows.inspect import examine
from refloat.guest.windows.ntfs import NtfsState
from refloat.guest.windows.regf import HiveDamaged
from refloat.guest.windows.values import Value
from refloat.guest.windows.versions import VERSIONS
from refloat.model import (
    BootDriver,
    DiskBus,
    DriveLetter,
    Firmware,
    GuestFacts,
    GuestFilesystem,
    Hibernation,
    NicModel,
    WindowsFacts,
)
from tests.windows.hives import Keys, at, hive, merged
from tests.windows.real import CORRUPTED, WINDOWS7, WINDOWS8, WINDOWS10, logs, real, undirtied

SET = "ControlSet002"
NT = "Microsoft\\Windows NT\\CurrentVersion"
CBS = "Microsoft\\Windows\\CurrentVersion\\Component Based Servicing"
POLICIES = "Policies\\Microsoft\\Windows"
ENVIRONMENT = f"{SET}\\Control\\Session Manager\\Environment"


def program(machine: int) -> bytes:
    return b"MZ".ljust(60, b"\0") + struct.pack("<I4sH", 64, b"PE\0\0", machine)


@dataclass
class Guest:
    """A Windows Server 2022 that waits for nothing; tests change it in one place."""

    root: Path
    build: str = "20348"
    product: str = "ServerNT"
    kind: str = "Server"
    name: str = "Windows Server 2022 Standard"
    processor: str = "AMD64"
    uefi: bool = True
    system: list[Keys] = field(default_factory=list)
    software: list[Keys] = field(default_factory=list)
    files: dict[str, bytes] = field(
        default_factory=lambda: {"Windows/System32/ntoskrnl.exe": program(0x8664)}
    )

    def hives(self) -> Mapping[str, bytes]:
        system: list[Keys] = [
            at("Select", {"Current": Value.dword(2)}),
            at(f"{SET}\\Control\\ProductOptions", {"ProductType": Value.sz(self.product)}),
            at(ENVIRONMENT, {"PROCESSOR_ARCHITECTURE": Value.sz(self.processor)}),
            at(f"{SET}\\Services\\Tcpip\\Parameters", {"Hostname": Value.sz("WIN-A")}),
            at("DriverDatabase"),
        ]
        release = {
            "CurrentBuildNumber": Value.sz(self.build),
            "UBR": Value.dword(2113),
            "EditionID": Value.sz("ServerStandard"),
            "InstallationType": Value.sz(self.kind),
            "ProductName": Value.sz(self.name),
            "SystemRoot": Value.sz("C:\\Windows"),
        }
        return {
            "SYSTEM": hive(merged(*system, *self.system)),
            "SOFTWARE": hive(merged(at(NT, release), *self.software), "SOFTWARE"),
        }

    def write(self, hives: Mapping[str, bytes] | None = None) -> None:
        config = self.root / "C/Windows/System32/config"
        config.mkdir(parents=True)
        for name, content in (hives or self.hives()).items():
            (config / name).write_bytes(content)
        for name, content in self.files.items():
            path = self.root / "C" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    def looked(self, state: NtfsState | None = None) -> GuestFacts:
        found = [Found(GuestFilesystem("sda", 3, "ntfs", "X", mountpoint="/C"), "/dev/x")]
        if self.uefi:
            found.append(Found(GuestFilesystem("sda", 1, "vfat", "Y", mountpoint="/ESP"), "/dev/y"))
        with Tree(self.root) as tree:
            return examine(tree, found, ["sda"], DiskBus.SATA, NicModel.E1000E, state or NtfsState())

    def facts(self) -> GuestFacts:
        self.write()
        return self.looked()

    def windows(self) -> WindowsFacts:
        windows = self.facts().windows
        assert windows is not None
        return windows


@pytest.fixture
def guest(tmp_path: Path) -> Guest:
    return Guest(tmp_path)


def test_a_server_that_nothing_stands_against(guest: Guest) -> None:
    facts = guest.facts()
    assert facts.problems == ()
    assert facts.warnings == ()
    assert (facts.os_name, facts.os_version) == ("Windows Server 2022 Standard", "2022")
    assert (facts.family, facts.architecture, facts.hostname) == ("windows", "x86_64", "WIN-A")
    assert (facts.firmware, facts.bootloader) == (Firmware.UEFI, "bootmgr")
    assert facts.root.mountpoint == "/C"
    assert facts.windows == WindowsFacts(
        version="2022",
        product="Windows Server 2022 Standard",
        edition="ServerStandard",
        build=20348,
        revision=2113,
        server=True,
        core=False,
        architecture="amd64",
        control_set=SET,
        driver_database=True,
        system_volumes=("/C", "/ESP"),
    )


@pytest.mark.parametrize("row", VERSIONS, ids=lambda row: row.title)
def test_every_version_is_known_by_its_build(row: Any, guest: Guest) -> None:
    guest.build, guest.product = str(row.build), "ServerNT" if row.server else "WinNT"
    assert guest.windows().version == row.name


def test_windows_11_is_not_taken_for_the_10_that_it_calls_itself(guest: Guest) -> None:
    guest.build, guest.product, guest.kind, guest.name = "22631", "WinNT", "Client", "Windows 10 Pro"
    windows = guest.windows()
    assert (windows.version, windows.product, windows.server) == ("11", "Windows 11 Pro", False)


def test_a_server_core(guest: Guest) -> None:
    guest.kind = "Server Core"
    assert guest.windows().core


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"build": "2600"}, "2600"),
        ({"build": "7600", "product": "WinNT"}, "Service Pack 1"),
        ({"build": "x"}, "which build"),
        ({"product": "WinNT"}, "20348"),
        ({"processor": "ARM64", "files": {}}, "ARM64"),
        ({"processor": "IA64", "files": {}}, "its processor is not known: IA64"),
        ({"processor": "x86", "files": {}}, "Windows Server 2022 for x86 is not known"),
        ({"processor": "x86"}, "its kernel amd64"),
        ({"kind": "Nano Server"}, "Nano Server"),
        ({"system": [at("Setup", {"SystemSetupInProgress": Value.dword(1)})]}, "has not ended"),
        ({"system": [at("Setup", {"SetupType": Value.dword(2)})]}, "has not ended"),
        (
            {
                "uefi": False,
                "system": [at("MountedDevices", {"\\DosDevices\\C:": Value.binary(b"DMIO:ID:" + b"x" * 16)})],
            },
            "no EFI system partition",
        ),
    ],
)
def test_what_keeps_a_guest_from_being_adapted(change: dict[str, Any], problem: str, guest: Guest) -> None:
    for name, value in change.items():
        setattr(guest, name, value)
    problems = guest.facts().problems
    assert any(problem in text for text in problems), problems


def test_a_domain_controller_is_said(guest: Guest) -> None:
    guest.product = "LanmanNT"
    facts = guest.facts()
    assert facts.problems == ()
    assert "domain controller" in facts.warnings[0]


# ---------------------------------------------------------------- the state of the disk


@pytest.mark.parametrize(
    ("head", "fast", "state"),
    [
        (b"hibr", 0, Hibernation.HIBERNATED),
        (b"HIBR", 0, Hibernation.HIBERNATED),
        (b"HIBR", 1, Hibernation.FAST_STARTUP),
        (b"RSTR", 0, Hibernation.HIBERNATED),
        (b"wake", 1, Hibernation.NONE),
        (bytes(4096), 1, Hibernation.NONE),
        (b"", 1, Hibernation.NONE),
    ],
)
def test_a_session_on_the_disk(head: bytes, fast: int, state: Hibernation, guest: Guest) -> None:
    power = f"{SET}\\Control\\Session Manager\\Power"
    guest.system.append(at(power, {"HiberbootEnabled": Value.dword(fast)}))
    guest.files["HIBERFIL.SYS"] = head
    windows = guest.windows()
    assert windows.hibernation is state
    assert not windows.dirty


@pytest.mark.parametrize("state", [NtfsState(marked=True), NtfsState(unclean=True)])
def test_a_dirty_volume(state: NtfsState, guest: Guest) -> None:
    guest.write()
    windows = guest.looked(state).windows
    assert windows is not None
    assert windows.dirty


@pytest.mark.parametrize("name", ["SYSTEM", "SOFTWARE"])
def test_a_damaged_hive_is_refused_with_what_to_do(name: str, guest: Guest) -> None:
    guest.write({**guest.hives(), name: guest.hives()[name][:5000]})
    with pytest.raises(HiveDamaged, match=name) as refusal:
        guest.looked()
    assert "replicate again" in refusal.value.hint


def test_a_missing_hive_and_a_missing_control_set_are_refused(guest: Guest) -> None:
    hives = dict(guest.hives())
    guest.write(hives | {"SYSTEM": hive(at("Select", {"Current": Value.dword(7)}))})
    with pytest.raises(HiveDamaged, match="control set"):
        guest.looked()
    (guest.root / "C/Windows/System32/config/SYSTEM").unlink()
    with pytest.raises(Refused, match="no registry hive SYSTEM"):
        guest.looked()


# ---------------------------------------------------------------- what waits, what stands in the way


@pytest.mark.parametrize(
    ("key", "words"),
    [
        (f"{CBS}\\RebootPending", "updates wait for a restart"),
        (f"{CBS}\\RebootInProgress", "being installed"),
        (f"{CBS}\\PackagesPending", "half"),
        ("Microsoft\\Windows\\CurrentVersion\\WindowsUpdate\\Auto Update\\RebootRequired", "Windows Update"),
    ],
)
def test_updates_that_wait(key: str, words: str, guest: Guest) -> None:
    guest.software.append(at(key))
    windows = guest.windows()
    assert len(windows.pending) == 1
    assert words in windows.pending[0]


def test_other_things_that_wait(guest: Guest) -> None:
    renames = Value.multi_sz(["\\??\\C:\\x", "\\??\\C:\\y"])
    guest.software.append(at(f"{CBS}\\SessionsPending", {"Exclusive": Value.dword(4)}))
    guest.system.append(at(f"{SET}\\Control\\Session Manager", {"PendingFileRenameOperations": renames}))
    guest.files["Windows/WinSxS/pending.xml"] = b"<x/>"
    assert len(guest.windows().pending) == 3


@pytest.mark.parametrize(
    ("key", "name", "value", "words"),
    [
        (f"{POLICIES}\\DeviceInstall\\Restrictions", "DenyUnspecified", Value.dword(1), "not installed"),
        (f"{POLICIES}\\DeviceInstall\\Restrictions", "DenyDeviceClasses", Value.dword(1), "classes"),
        (f"{POLICIES}\\PowerShell", "EnableScripts", Value.dword(0), "switched off"),
        (f"{POLICIES}\\PowerShell", "ExecutionPolicy", Value.sz("AllSigned"), "signed"),
        (f"{POLICIES}\\SrpV2\\Script", "EnforcementMode", Value.dword(1), "AppLocker"),
        (f"{POLICIES}\\Safer\\CodeIdentifiers", "DefaultLevel", Value.dword(0), "restriction"),
    ],
)
def test_policies_of_software(key: str, name: str, value: Value, words: str, guest: Guest) -> None:
    guest.software.append(at(key, {name: value}))
    windows = guest.windows()
    assert len(windows.policies) == 1
    assert words in windows.policies[0]


def test_policies_of_the_system(guest: Guest) -> None:
    scenario = f"{SET}\\Control\\DeviceGuard\\Scenarios\\HypervisorEnforcedCodeIntegrity"
    guest.system += [
        at(ENVIRONMENT, {"__PSLockdownPolicy": Value.sz("4")}),
        at(f"{SET}\\Control\\SecureBoot\\State", {"UEFISecureBootEnabled": Value.dword(1)}),
        at(scenario, {"Enabled": Value.dword(1)}),
    ]
    assert len(guest.windows().policies) == 3


# ---------------------------------------------------------------- devices and settings


def test_storage_drivers_and_whether_they_start(guest: Guest) -> None:
    services = f"{SET}\\Services"
    scsi = {"Group": Value.sz("SCSI Miniport"), "Start": Value.dword(0)}
    guest.system += [
        at(f"{services}\\LSI_SAS", scsi),
        at(f"{services}\\viostor", scsi),
        at(f"{services}\\viostor\\StartOverride", {"0": Value.dword(3)}),
        at(f"{services}\\started", scsi),
        at(f"{services}\\started\\StartOverride", {"0": Value.dword(0)}),
        at(f"{services}\\storahci", {"Start": Value.dword(3)}),
        at(f"{services}\\Dnscache", {"Start": Value.dword(2)}),
    ]
    assert guest.windows().storage_drivers == (
        BootDriver("LSI_SAS", 0, False),
        BootDriver("started", 0, False),
        BootDriver("storahci", 3, False),
        BootDriver("viostor", 0, True),
    )


def test_drive_letters(guest: Guest) -> None:
    letters = {
        "\\DosDevices\\D:": Value.binary(b"DMIO:ID:" + bytes.fromhex("211f9309af7fa94481d81e73c14b9eaf")),
        "\\DosDevices\\C:": Value.binary(struct.pack("<IQ", 0x5CBEA03E, 0x100000)),
        "\\DosDevices\\E:": Value.binary("\\??\\SCSI#CdRom&Ven_VBOX".encode("utf-16-le")),
        "\\DosDevices\\F:": Value.binary(b"?"),
        "\\??\\Volume{656b1715-ecf6-11df-92e6-806e6f6e6963}": Value.binary(bytes(12)),
    }
    guest.system.append(at("MountedDevices", letters))
    facts = guest.facts()
    assert facts.windows is not None
    assert facts.windows.letters == (
        DriveLetter("C", disk="5cbea03e", offset=0x100000),
        DriveLetter("D", partition="09931f21-7faf-44a9-81d8-1e73c14b9eaf"),
        DriveLetter("E", other="\\??\\SCSI#CdRom&Ven_VBOX"),
    )
    assert facts.warnings == ("what the drive letter F: means is not known; it may change",)


@pytest.mark.parametrize(
    ("key", "values", "tools"),
    [
        ("x", {}, ""),
        ("VMware, Inc.\\VMware Tools", {"InstallPath": Value.sz("C:\\P")}, "unknown"),
        (
            "Microsoft\\Windows\\CurrentVersion\\Uninstall\\{A}",
            {"DisplayName": Value.sz("VMware Tools"), "DisplayVersion": Value.sz("12.4.5.23787635")},
            "12.4.5.23787635",
        ),
    ],
)
def test_vmware_tools(key: str, values: dict[str, Value], tools: str, guest: Guest) -> None:
    guest.software.append(at(key, values))
    assert guest.windows().vmware_tools == tools


def test_settings_that_are_put_back_later(guest: Guest) -> None:
    guest.system += [
        at(f"{SET}\\Services\\partmgr\\Parameters", {"SanPolicy": Value.dword(3)}),
        at(f"{SET}\\Control\\TimeZoneInformation", {"RealTimeIsUniversal": Value.dword(1)}),
        at(f"{SET}\\Control\\CrashControl", {"AutoReboot": Value.dword(0)}),
    ]
    windows = guest.windows()
    assert (windows.san_policy, windows.clock_utc, windows.crash_reboot) == (3, True, False)


def test_what_a_guest_says_of_itself_is_shown_without_tricks(guest: Guest) -> None:
    guest.name = "Windows\x1b[2J\u202e" + "x" * 1000
    product = guest.windows().product
    assert "\x1b" not in product
    assert "\u202e" not in product
    assert len(product) <= 256


# ---------------------------------------------------------------- real hives

CLIENT = {
    "CurrentBuildNumber": Value.sz("7601"),
    "EditionID": Value.sz("Professional"),
    "InstallationType": Value.sz("Client"),
    "ProductName": Value.sz("Windows 7 Professional"),
}


def real_guest(root: Path, system: bytes, build: str, machine: int) -> Guest:
    guest = Guest(root, uefi=False, files={"Windows/System32/ntoskrnl.exe": program(machine)})
    software = hive(at(NT, {**CLIENT, "CurrentBuildNumber": Value.sz(build)}), "SOFTWARE")
    guest.write({"SYSTEM": system, "SOFTWARE": software})
    return guest


def test_the_real_windows_7(tmp_path: Path) -> None:
    facts = real_guest(tmp_path, real(WINDOWS7), "7601", 0x14C).looked()
    assert (facts.problems, facts.warnings) == ((), ())
    windows = facts.windows
    assert windows is not None
    assert (windows.version, windows.architecture, windows.control_set) == ("7", "x86", "ControlSet001")
    assert (facts.hostname, windows.driver_database) == ("WKS-WIN732BITA", False)
    assert BootDriver("LSI_SAS", 0, False) in windows.storage_drivers
    assert BootDriver("msahci", 3, False) in windows.storage_drivers
    assert (windows.san_policy, windows.clock_utc, windows.crash_reboot) == (1, False, True)
    assert windows.letters[1] == DriveLetter("C", disk="5cbea03e", offset=0x100000)
    assert sorted(address for nic in facts.nics for address in nic.addresses) == [
        "10.3.58.5/24",
        "192.168.1.123/24",
    ]


def test_the_real_windows_8(tmp_path: Path) -> None:
    facts = real_guest(tmp_path, undirtied(real(WINDOWS8)), "9200", 0x8664).looked()
    windows = facts.windows
    assert windows is not None
    assert (facts.problems, windows.version, windows.driver_database) == ((), "8", True)
    assert BootDriver("LSI_SAS", 0, True) in windows.storage_drivers
    assert BootDriver("storahci", 0, False) in windows.storage_drivers
    assert windows.pending == ("files are replaced or removed at the next start",)


def test_the_real_windows_10_is_read_through_its_logs(tmp_path: Path) -> None:
    guest = real_guest(tmp_path, real(WINDOWS10), "16299", 0x8664)
    config = tmp_path / "C/Windows/System32/config"
    for number, log in enumerate(logs(WINDOWS10), 1):
        (config / f"system.log{number}").write_bytes(log)
    guest.uefi = True
    facts = guest.looked()
    windows = facts.windows
    assert windows is not None
    assert (facts.problems, windows.version) == ((), "10")
    assert windows.letters[0] == DriveLetter("C", partition="09931f21-7faf-44a9-81d8-1e73c14b9eaf")
    complete = Hive.open("SYSTEM", replayed("SYSTEM", real(WINDOWS10), logs(WINDOWS10)))
    names = complete.keys("ControlSet001\\Services")
    assert {one.service for one in windows.storage_drivers} <= set(names)


def test_the_real_damaged_hive_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HiveDamaged, match="SYSTEM is damaged"):
        real_guest(tmp_path, real(CORRUPTED), "7601", 0x14C).looked()
