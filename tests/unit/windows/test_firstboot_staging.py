"""What is put into a Windows guest: golden plans for the network modes, and what no plan may say."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from refloat import reports
from refloat.errors import Refused
from refloat.guest.firstboot.windows import stages, staging
from refloat.guest.firstboot.windows.plan import VALUE_LIMIT, pairs
from refloat.model import (
    AdaptRequest,
    DiskBus,
    DriveLetter,
    DriverChoice,
    DriverFile,
    Firmware,
    GuestFacts,
    GuestFilesystem,
    NetworkMode,
    NicConfig,
    NicMethod,
    NicModel,
    PlannedDisk,
    PlannedNic,
    Route,
    Secrets,
    WindowsAdapter,
    WindowsFacts,
    WindowsRequest,
)

GOLDEN = Path(__file__).parents[2] / "golden" / "windows" / "firstboot"
MAC = "52:54:00:00:00:01"

SOURCE = NicConfig(
    name="Ethernet0",
    method=NicMethod.STATIC,
    addresses=("10.20.30.40/24", "10.20.30.41/24", "fd00:0:0::5/64"),
    gateway="10.20.30.1",
    dns=("10.20.30.2", "10.20.30.3", "fd00::53"),
    search=("example.com",),
    gateway6="fd00::1",
    routes=(Route("default", "10.20.30.254", 20), Route("10.99.0.0/16", "10.20.30.9")),
)
TARGET = replace(
    SOURCE, addresses=("10.1.2.40/23",), gateway="10.1.2.1", dns=("10.1.2.2",), routes=(), gateway6=""
)
DYNAMIC = NicConfig(name="Ethernet0", method=NicMethod.DHCP, dns=("10.20.30.2",))

WINDOWS = WindowsFacts(
    version="2022",
    product="Windows Server 2022 Standard",
    edition="ServerStandard",
    build=20348,
    revision=1,
    server=True,
    core=False,
    architecture="amd64",
    control_set="ControlSet001",
    driver_database=True,
    letters=(
        DriveLetter("C", partition="8a5b6c7d-0000-4000-8000-000000000001"),
        DriveLetter("D:", disk="1a2b3c4d", offset=1048576),
        DriveLetter("E", other="a CD drive"),
    ),
    adapters=(WindowsAdapter("{G}", "Ethernet0", interface_metric=15, gateway_metrics=(5, 20)),),
    san_policy=2,
)
FACTS = GuestFacts(
    family="windows",
    os_id="windows",
    os_name="Windows Server 2022",
    os_version="2022",
    architecture="x86_64",
    hostname="srv",
    firmware=Firmware.UEFI,
    bootloader="bootmgr",
    initramfs_tool="",
    network_stack="",
    root=GuestFilesystem("sda", 4, "ntfs", "01"),
    filesystems=(),
    kernels=(),
    nics=(SOURCE,),
    windows=WINDOWS,
)
CHOICE = DriverChoice(
    "virtio-win.iso",
    "00",
    "2k22",
    "amd64",
    tuple(
        DriverFile(path, 1, "00")
        for path in (
            "Balloon/balloon.inf",
            "Balloon/balloon.sys",
            "NetKVM/netkvm.inf",
            "guest-agent/qemu-ga-x86_64.msi",
            "vioscsi/vioscsi.inf",
            "vioserial/vioser.inf",
            "viostor/viostor.inf",
            "viostor/viostor.sys",
        )
    ),
)


def _nic(mode: NetworkMode, config: NicConfig | None = SOURCE) -> PlannedNic:
    return PlannedNic(MAC.upper(), "00:50:56:00:00:01", "prod", mode, config, "")


def _request(*nics: PlannedNic) -> AdaptRequest:
    disks = [("sda", "REFLOAT-0"), ("sdb", "REFLOAT-1"), ("sdc", "REFLOAT-2")]
    return AdaptRequest(
        job="job-1",
        disks=tuple(PlannedDisk(key, key, serial, 1 << 30) for key, serial in disks),
        disk_bus=DiskBus.VIRTIO_SCSI,
        nic_model=NicModel.VIRTIO,
        nics=nics,
        secrets=Secrets("the-token", "the-nonce"),
        channel="org.refloat.report",
        report_deadline=2700,
        windows=WindowsRequest(
            CHOICE,
            "/drivers",
            online_disks=("sdb", "sdc"),
            online_shared=("sdc",),
            callback="https://hub.example:8443/reports/job-1",
        ),
    )


CASES = {
    "restore": _request(_nic(NetworkMode.RESTORE)),
    "readdress": _request(_nic(NetworkMode.READDRESS, TARGET)),
    "dhcp": _request(_nic(NetworkMode.DHCP, DYNAMIC)),
    "preserve": replace(
        _request(_nic(NetworkMode.PRESERVE)), disk_bus=DiskBus.SATA, nic_model=NicModel.E1000E
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_plan_is_the_golden_one(case: str) -> None:
    plan = staging.stage(CASES[case], FACTS).files["/C/Windows/Refloat/plan.txt"].content
    golden = GOLDEN / f"{case}.txt"
    if os.environ.get("REFLOAT_REGOLD"):
        golden.write_bytes(plan)
    assert plan == golden.read_bytes()


def test_what_is_staged() -> None:
    staged = staging.stage(CASES["restore"], FACTS)
    assert staged.directories == ("/C/Windows/Refloat",)
    names = ["firstboot.cmd", "firstboot.ps1", "plan.txt", "secrets.txt", "delivery.txt", "status.txt"]
    assert list(staged.files) == [f"/C/Windows/Refloat/{name}" for name in names]
    assert staged.files["/C/Windows/Refloat/status.txt"].content == b"STATUS=scheduled\r\n"
    secret = [path for path, file in staged.files.items() if b"the-token" in file.content]
    assert secret == ["/C/Windows/Refloat/secrets.txt"]
    assert staged.files[secret[0]].shown is False
    delivery = staged.files["/C/Windows/Refloat/delivery.txt"].content.decode()
    assert delivery.split() == [
        "CHANNEL=org.refloat.report",
        "SERIAL=COM1",
        "CALLBACK=https://hub.example:8443/reports/job-1",
    ]


def test_the_service_starts_the_launcher_without_a_program_of_ours() -> None:
    rows = {row.name: row.value for row in staging.service()}
    assert {row.key for row in staging.service()} == {"Refloat"}
    assert (rows["Type"].number, rows["Start"].number, rows["ErrorControl"].number) == (0x10, 2, 0)
    assert rows["ObjectName"].string == "LocalSystem"
    assert rows["ImagePath"].string == (
        '%SystemRoot%\\System32\\cmd.exe /d /c start "" /b '
        "%SystemRoot%\\System32\\cmd.exe /d /c %SystemRoot%\\Refloat\\firstboot.cmd"
    )
    assert rows["ImagePath"].type == 2


def test_the_launcher_is_whole() -> None:
    """Lines that cmd.exe can read, every label there, and every setting that is used set."""
    text = staging.launcher(staging.Launcher(900)).decode("ascii")
    assert "@SETTINGS@" not in text and "@ADDED@" not in text
    assert text.count("\r\n") == text.count("\n")
    lines = text.split("\r\n")
    # cmd.exe reads at most 8,191 characters of a line.
    assert max(len(line) for line in lines) < 1000
    labels = {line[1:] for line in lines if line.startswith(":")}
    wanted = set(re.findall(r"(?:goto |call :)([a-z_]+)", text))
    assert wanted - labels == set()
    assert len(labels) == sum(line.startswith(":") for line in lines)
    settings = staging.Launcher(900)
    names = [line.partition('"')[2].partition("=")[0] for line in settings.lines()]
    # A setting that nothing uses would be a mistake in its name.
    body = text.replace("".join(f"{line}\r\n" for line in settings.lines()), "")
    for name in names:
        assert re.search(rf"%{name}%|\b{name}\b", body), name
    assert f'set "RUNS={stages.RUNS}"' in text


def test_the_script_names_only_what_the_plan_has() -> None:
    """Every key of the plan that the script reads is one that some plan has."""
    text = staging.script().decode()
    keys = set(re.findall(r"\$Plan\['([A-Z_0-9{}]+)'(?! -f \$one)", text)) - {"{0}_{1}", "{0}_{1}_{2}"}
    keys |= {f"NIC_{{0}}_{name}" for name in re.findall(r"\$prefix \+ '([A-Z0-9_]+)'", text)}
    assert len(keys) > 25
    known = set()
    for request in CASES.values():
        plan = staging.stage(request, FACTS).files["/C/Windows/Refloat/plan.txt"].content.decode()
        for line in plan.splitlines():
            key = line.partition("=")[0]
            known |= {re.sub(r"_\d+", "_{0}", key), re.sub(r"_\d+", "_{0}", re.sub(r"_\d+$", "", key))}
    assert keys - known == set()


BAD_VALUES = [
    "a\nb",
    "a\r\nb",
    'say "x"',
    "%PATH%",
    "a&b",
    "a|b",
    "a>b",
    "a^b",
    "!x!",
    "\u00e9",
    "a\0",
    "x" * 2000,
]


@pytest.mark.parametrize("value", BAD_VALUES)
def test_no_value_that_the_guest_would_read_otherwise(value: str) -> None:
    with pytest.raises(Refused) as refused:
        pairs({"KEY": value})
    assert refused.value.code == "plan_invalid"


@pytest.mark.parametrize("key", ["", "a", "A B", "A=B", "A" * 60, "A\n"])
def test_no_key_that_the_guest_would_read_otherwise(key: str) -> None:
    with pytest.raises(Refused):
        pairs({key: "1"})


def _bad(**changes: object) -> AdaptRequest:
    return replace(CASES["restore"], **changes)  # type: ignore[arg-type]


REFUSED = {
    "job": _bad(job="a b"),
    "channel": _bad(channel="..\\x"),
    "token": _bad(secrets=Secrets("a b", "n")),
    "nonce": _bad(secrets=Secrets("t", '"')),
    "mac": _bad(nics=(replace(_nic(NetworkMode.RESTORE), mac="nonsense"),)),
    "address": _bad(nics=(_nic(NetworkMode.RESTORE, replace(SOURCE, addresses=("10.0.0.300/24",))),)),
    "dns": _bad(nics=(_nic(NetworkMode.RESTORE, replace(SOURCE, dns=("x",))),)),
    "suffix": _bad(nics=(_nic(NetworkMode.RESTORE, replace(SOURCE, search=('a" & del x',))),)),
    "serial": _bad(disks=tuple(PlannedDisk(key, key, "a b", 1) for key in ("sda", "sdb"))),
    "callback": _bad(windows=replace(CASES["restore"].windows, callback="http://hub/x")),  # type: ignore[type-var]
    "no windows": _bad(windows=None),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_plan_that_cannot_be_said_is_refused(case: str) -> None:
    with pytest.raises(Refused) as refused:
        staging.stage(REFUSED[case], FACTS)
    assert refused.value.code == "plan_invalid"


def test_values_have_a_limit() -> None:
    assert pairs({"A": "x" * VALUE_LIMIT}).startswith(b"A=xxx")


def test_reports_have_the_fields_that_the_hub_reads() -> None:
    """The script's and the launcher's JSON names, against those of the hub's reader."""
    reader = Path(reports.__file__).read_text()
    read = set(re.findall(r'(?:data(?:\.get)?[,(] ?|in \(\(?|\()"([a-z_0-9]+)"', reader)) | {"token", "nonce"}
    script = staging.script().decode()
    said = set(re.findall(r'"([a-z_0-9]+)":', script + staging.launcher(staging.Launcher(900)).decode()))
    said |= {"gateway", "gateway6", "gateway_answers", "gateway6_answers"}  # made of a pattern
    assert said - read == set()
    needed = {
        "v",
        "job",
        "token",
        "nonce",
        "seq",
        "boot_id",
        "stage",
        "status",
        "uptime",
        "reboots",
        "stages",
    }
    needed |= {"mounts", "nics", "dns", "search", "drivers", "problems", "cleaned", "attempts", "required"}
    assert needed - said == set()
