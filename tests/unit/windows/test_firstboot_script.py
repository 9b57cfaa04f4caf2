"""The whole script, run by an interpreter of our own on a model of Windows: what it does and reports.

This shows that its parts fit together as we read PowerShell, not that PowerShell reads it so.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from refloat.guest.firstboot.windows import staging
from refloat.model import DriveLetter, GuestReport, Remediation
from refloat.reports import parse_report
from tests.unit.windows.test_firstboot_staging import CASES, FACTS, MAC, WINDOWS
from tests.windows.interpreter import Interpreter
from tests.windows.ps_values import Thing, text_of
from tests.windows.windows_model import TCPIP, Windows, staged
from tests.windows.windows_programs import DIR, STATE, Adapter

SECRETS = CASES["restore"].secrets
STATIC = [("10.20.30.40", "255.255.255.0"), ("10.20.30.41", "255.255.255.0"), ("fd00::5", "64")]
BUILDS = {True: 20348, False: 7601}


def _windows(modern: bool = True) -> Windows:
    devices = [
        Thing(
            {"DeviceID": f"PCI\\VEN_1AF4&DEV_{device}\\3", "Service": service, "ConfigManagerErrorCode": code}
        )
        for device, service, code in (("1048", "vioscsi", 0), ("1041", "netkvm", 28))
    ]
    disks = [{"serial": f"REFLOAT-{n}", "offline": n > 0, "readonly": n > 0} for n in range(3)]
    windows = Windows(modern=modern, adapters=[Adapter(MAC, 1)], devices=devices, disks=disks)
    data = {"\\dosdevices\\d:": [0x4D, 0x3C, 0x2B, 0x1A, 0, 0, 0x10, 0, 0, 0, 0, 0]}
    windows.registry["system\\mounteddevices"] = data
    return windows


def _run(windows: Windows, case: str = "restore") -> list[GuestReport]:
    """Boots until the script is done, at most six times; every report as the hub reads it."""
    facts = replace(FACTS, windows=replace(WINDOWS, build=BUILDS[windows.modern]))
    script = staged(windows, dict(staging.stage(CASES[case], facts).files))
    for _ in range(6):
        if windows.boot(script) == "done":
            break
    else:
        pytest.fail("\n".join(windows.files[f"{DIR}firstboot.log".lower()][-40:]))
    reports: list[GuestReport] = []
    for number, line in enumerate(windows.sent):
        if number == 0 or line != windows.sent[number - 1]:
            reports.append(parse_report(line.encode(), "job-1", SECRETS, reports[-1] if reports else None))
    return reports


def _said(report: GuestReport) -> dict[str, str]:
    return {stage.name: stage.state for stage in report.stages}


@pytest.mark.parametrize("modern", [True, False], ids=["2022", "2008 R2"])
def test_static_addresses_are_restored(modern: bool) -> None:
    windows = _windows(modern)
    reports = _run(windows)
    last = reports[-1]
    assert last.status is Remediation.SUCCEEDED, (last, windows.files[f"{DIR}firstboot.log".lower()])
    assert last.problems == ()
    assert last.cleaned and windows.cleaned
    assert set(_said(last).values()) == {"done"}
    adapter = windows.adapters[0]
    assert (adapter.dhcp, adapter.addresses) == (False, STATIC)
    assert adapter.gateways == ["10.20.30.1", "10.20.30.254", "fd00::1"]
    assert adapter.dns == ["10.20.30.2", "10.20.30.3"]
    assert adapter.suffix == "example.com"
    assert [disk["offline"] or disk["readonly"] for disk in windows.disks] == [False, False, False]
    nic = last.nics[0]
    assert (nic.mac, nic.up, nic.driver) == (MAC, True, "netkvm")
    assert nic.addresses == ("10.20.30.40/24", "10.20.30.41/24", "fd00::5/64")
    assert nic.name == "Eth?rnet 1"
    assert last.gateway == "10.20.30.1" and last.gateway_answers
    assert last.gateway6 == "fd00::1" and last.gateway6_answers
    assert last.dns == ("10.20.30.2", "10.20.30.3") and last.search == ("example.com",)
    assert last.drivers == ("vioscsi", "netkvm")
    assert [(mount.mountpoint, mount.mounted) for mount in last.mounts] == [("C:", True), ("D:", True)]
    assert [report.status for report in reports] == [Remediation.RUNNING, Remediation.SUCCEEDED]
    command = "pnputil.exe /add-driver" if modern else "pnputil.exe -i -a"
    assert sum(line.startswith(command) for line in windows.ran) == 5


def test_drivers_that_need_a_restart_get_one() -> None:
    windows = _windows()
    windows.needs_restart = True
    windows.codes = {"netkvm.inf": 3010}
    windows.devices[1].properties["ConfigManagerErrorCode"] = 0
    reports = _run(windows)
    words = [report.status for report in reports]
    assert words == [
        Remediation.RUNNING,
        Remediation.AWAITING_REBOOT,
        Remediation.RUNNING,
        Remediation.SUCCEEDED,
    ]
    assert (reports[-1].reboots, reports[-1].boot_id) == (1, "boot-2")


def test_addresses_that_no_command_sets_go_to_the_registry() -> None:
    windows = _windows()
    windows.network_works = False
    case = replace(CASES["restore"].nics[0].config, addresses=("10.20.30.40/24",), gateway6="", routes=())  # type: ignore[type-var]
    CASES["registry"] = replace(CASES["restore"], nics=(replace(CASES["restore"].nics[0], config=case),))
    try:
        reports = _run(windows, "registry")
    finally:
        del CASES["registry"]
    assert reports[-1].status is Remediation.SUCCEEDED
    assert reports[-1].reboots == 1
    values = windows.registry[f"{TCPIP}\\Interfaces\\{windows.adapters[0].guid}".lower()]
    assert values["ipaddress"] == ["10.20.30.40"] and values["subnetmask"] == ["255.255.255.0"]
    assert values["defaultgatewaymetric"] == ["5"]


def test_a_missing_adapter_fails_it_and_says_so() -> None:
    windows = _windows()
    windows.adapters = [Adapter("52:54:00:00:00:99", 1)]
    last = _run(windows)[-1]
    assert last.status is Remediation.FAILED
    stages = {stage.name: stage for stage in last.stages}
    assert stages["network"].state == "failed" and stages["network"].attempts == 3
    assert MAC in stages["network"].text
    assert windows.adapters[0].dhcp


def test_an_agent_that_does_not_install_makes_it_partial() -> None:
    windows = _windows()
    windows.agent_works = False
    windows.codes = {"msiexec": 1603}
    last = _run(windows)[-1]
    assert last.status is Remediation.PARTIAL
    assert _said(last)["agent"] == "failed"


def test_an_optional_driver_that_fails_makes_it_partial() -> None:
    windows = _windows()
    windows.codes = {"balloon.inf": 5}
    last = _run(windows)[-1]
    assert last.status is Remediation.PARTIAL
    assert any("Balloon (5)" in problem for problem in last.problems)


def test_a_boot_driver_that_drives_nothing_fails_it() -> None:
    windows = _windows()
    windows.devices = windows.devices[1:]
    last = _run(windows)[-1]
    assert last.status is Remediation.FAILED
    assert _said(last)["drivers"] == "failed"


def test_a_disk_of_a_cluster_stays_offline_unless_it_is_named() -> None:
    """REFLOAT-2 is among the shared disks of the policy, REFLOAT-1 is not."""
    windows = _windows()
    windows.registry["system\\currentcontrolset\\services\\clussvc"] = {}
    windows.registry["cluster"] = {}
    for disk in windows.disks[1:]:
        disk["clustered"] = True
    last = _run(windows)[-1]
    assert last.status is Remediation.FAILED
    assert [disk["offline"] for disk in windows.disks] == [False, True, False]
    assert "belongs to a cluster" in next(stage.text for stage in last.stages if stage.name == "disks")


def test_preserve_changes_no_address() -> None:
    windows = _windows()
    before = repr(windows.adapters)
    last = _run(windows, "preserve")[-1]
    assert repr(windows.adapters) == before
    assert last.status is Remediation.SUCCEEDED
    assert (_said(last)["network"], _said(last)["stale"]) == ("skipped", "skipped")


def test_dhcp_is_switched_on() -> None:
    windows = _windows()
    windows.adapters[0].dhcp = False
    windows.adapters[0].addresses = [("10.0.0.9", "255.255.255.0")]
    last = _run(windows, "dhcp")[-1]
    assert windows.adapters[0].dhcp
    assert windows.adapters[0].dns == ["10.20.30.2"]
    # Nobody gives it an address here: DHCP is on, but that is not enough.
    assert last.status is Remediation.FAILED
    assert "got no address by DHCP" in next(stage.text for stage in last.stages if stage.name == "verify")


GHOST = "system\\currentcontrolset\\enum\\pci\\ven_15ad&dev_07b0\\4&3b50545d&0&00a8"
NETWORK = "system\\currentcontrolset\\control\\network\\{4d36e972-e325-11ce-bfc1-08002be10318}"


@pytest.mark.parametrize("code", [0, 5], ids=["removed", "only emptied"])
def test_a_stale_adapter_of_vmware_lets_go_of_its_addresses(code: int) -> None:
    windows = _windows()
    guid = "{99999999-0000-0000-0000-000000000000}"
    windows.registry[GHOST] = {"classguid": "{4d36e972-e325-11ce-bfc1-08002be10318}"}
    instance = "PCI\\VEN_15AD&DEV_07B0\\4&3b50545d&0&00A8"
    windows.registry[f"{NETWORK}\\{guid}\\connection"] = {"pnpinstanceid": instance}
    interface = f"{TCPIP}\\Interfaces\\{guid}".lower()
    windows.registry[interface] = {"ipaddress": ["10.20.30.40"], "enabledhcp": 0}
    # A disk controller of VMware is no adapter.
    pvscsi = "system\\currentcontrolset\\enum\\pci\\ven_15ad&dev_07c0\\1"
    windows.registry[pvscsi] = {"classguid": "{4d36e97b-e325-11ce-bfc1-08002be10318}"}
    original = windows._run_pnputil
    windows._run_pnputil = lambda line: code if "/remove-device" in line else original(line)  # type: ignore[method-assign]
    last = _run(windows)[-1]
    assert last.status is Remediation.SUCCEEDED
    removed = [line for line in windows.ran if "/remove-device" in line]
    assert len(removed) == 1 and instance.lower() in removed[0].lower()
    assert ("ipaddress" in windows.registry[interface]) is (code == 0)


def test_old_persistent_routes_go_after_the_new_gateway_is_there() -> None:
    windows = _windows()
    routes = f"{TCPIP}\\PersistentRoutes".lower()
    windows.registry[routes] = {"0.0.0.0,0.0.0.0,10.20.30.1,1": "", "10.99.0.0,255.255.0.0,10.20.30.9,1": ""}
    last = _run(windows, "readdress")[-1]
    assert last.status is Remediation.SUCCEEDED
    assert list(windows.registry[routes]) == ["10.99.0.0,255.255.0.0,10.20.30.9,1"]


def test_the_stub_package_goes_with_its_bindings() -> None:
    windows = _windows()
    database = "system\\driverdatabase"
    windows.registry |= {
        f"{database}\\driverpackages\\vioscsi.inf_amd64_0000000000000000": {},
        f"{database}\\driverpackages\\vioscsi.inf_amd64_0000000000000000\\configurations": {},
        f"{database}\\driverinffiles\\vioscsi.inf": {},
        f"{database}\\deviceids\\pci\\ven_1af4&dev_1048": {"vioscsi.inf": b"", "oem5.inf": b""},
        f"{database}\\deviceids\\pci\\ven_8086&dev_1": {"vioscsi.inf": b""},
    }
    last = _run(windows)[-1]
    assert last.status is Remediation.SUCCEEDED
    left = [path for path in windows.registry if "driverpackages" in path or "driverinffiles" in path]
    assert left == []
    assert windows.registry[f"{database}\\deviceids\\pci\\ven_1af4&dev_1048"] == {"oem5.inf": b""}
    assert windows.registry[f"{database}\\deviceids\\pci\\ven_8086&dev_1"] == {"vioscsi.inf": b""}


def test_a_stub_in_use_stays_and_is_a_problem() -> None:
    windows = _windows()
    database = "system\\driverdatabase"
    windows.registry[f"{database}\\driverpackages\\vioscsi.inf_amd64_0000000000000000"] = {}
    enum = "system\\currentcontrolset\\enum\\pci\\ven_1af4&dev_1048\\3"
    windows.registry[enum] = {"driver": "{c}\\0001"}
    windows.registry["system\\currentcontrolset\\control\\class\\{c}\\0001"] = {"infpath": "vioscsi.inf"}
    last = _run(windows)[-1]
    assert last.status is Remediation.PARTIAL
    assert any("still in use: vioscsi.inf" in problem for problem in last.problems)
    assert f"{database}\\driverpackages\\vioscsi.inf_amd64_0000000000000000" in windows.registry


def test_a_drive_letter_that_is_lost_is_a_problem() -> None:
    windows = _windows()
    windows.registry["system\\mounteddevices"] = {}
    last = _run(windows)[-1]
    assert last.status is Remediation.PARTIAL
    assert ("D:", False) in [(mount.mountpoint, mount.mounted) for mount in last.mounts]


def test_without_anybody_who_answers_reports_are_repeated_to_the_deadline() -> None:
    windows = _windows()
    windows.acknowledges = False
    _run(windows)
    final = [line for line in windows.sent if '"succeeded"' in line]
    assert len(final) > 20 and len(set(final)) == 1


def test_what_could_not_be_removed_is_said() -> None:
    windows = _windows()
    windows.codes = {"clean": 1}
    last = _run(windows)[-1]
    assert last.cleaned is False
    assert any("could be removed" in problem for problem in last.problems)


def test_what_stays_has_no_secrets() -> None:
    windows = _windows()
    _run(windows)
    for name in ("firstboot.log", "status.txt", "report.json"):
        assert "the-token" not in "\n".join(windows.files[f"{DIR}{name}".lower()])
    assert windows.files[f"{DIR}status.txt".lower()][0] == "STATUS=succeeded"
    assert windows.registry["software\\refloat"]["status"] == "succeeded"
    assert f"{STATE}final.clean".lower() in windows.files


def test_letters_of_the_plan_are_those_of_the_facts() -> None:
    assert DriveLetter("D:", disk="1a2b3c4d", offset=1048576) in WINDOWS.letters


def _value(script: str) -> list[str]:
    """What a script leaves in $Out, by the interpreter itself."""
    windows = Windows()
    interpreter = Interpreter(
        {"write": lambda call: windows.sent.append(text_of(call.positional))}, windows.program, {}
    )
    interpreter.run(script)
    return windows.sent


LANGUAGE = [
    ("a rest goes to the last name", "$a, $b = 'x,y,z' -split ','\nwrite $b", "y z"),
    ("a loop over nothing runs once in 2.0", "foreach ($x in $nothing) { write 'once' }", "once"),
    ("a comma binds stronger than a plus", "$a = @('x' + 'y', 'z')\nwrite $a", "xy z"),
    ("one thing has no count in 2.0", "$a = 'x'\nwrite ('<{0}>' -f $a.Count)", "<>"),
    ("names are of any case", "$Abc = 1\nwrite $aBC", "1"),
    ("a function sees its caller's names", "function A { $x }\nfunction B { $x = 5; A }\nwrite (B)", "5"),
    ("and changes only its own", "$x = 1\nfunction A { $x = 2 }\nA\nwrite $x", "1"),
    ("a function's list comes apart", "function A { @(1, 2) }\n$a = @(A) + 3\nwrite $a", "1 2 3"),
    ("an array compared is a choice", "$a = @('ab', 'c') -like 'a*'\nwrite $a", "ab"),
    ("in a replacement a backslash is one", "write ('a\\b' -replace '\\\\', '\\\\')", "a\\\\b"),
    ("return leaves what was before", "function A { 1; return 2; 3 }\nwrite (A)", "1 2"),
]


@pytest.mark.parametrize(("what", "script", "said"), LANGUAGE, ids=[row[0] for row in LANGUAGE])
def test_the_interpreter_reads_powershell_as_it_is_documented(what: str, script: str, said: str) -> None:
    assert _value(script) == [said]
