"""The registry values that an adaptation changes, on phony hives of every version: golden, and the traps."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from refloat.errors import Refused
from refloat.guest.firstboot.windows import staging
from refloat.guest.windows import bcd, settings, storage
from refloat.guest.windows.hive import Hive
from refloat.guest.windows.hivelog import replayed
from refloat.guest.windows.values import Value
from refloat.guest.windows.versions import VERSIONS, Version, row_of
from refloat.model import ValueChange
from tests.windows.hives import at, hive, merged
from tests.windows.real import WINDOWS7, WINDOWS10, logs, real
from tests.windows.reopened import by_hivex, by_python_registry
from tests.windows.small import SET, system

GOLDEN = Path(__file__).parents[2] / "golden" / "windows" / "values"
EVERY = [(row.name, arch) for row in VERSIONS for arch in row.architectures]


def changed(version: Version, architecture: str, content: bytes) -> Hive:
    found = Hive.open("SYSTEM", content)
    storage.change(found, SET, version, architecture)
    settings.change_system(found, SET)
    return found


def rendered(changes: Sequence[ValueChange]) -> str:
    """As a .reg file would say it, with what was there before."""
    lines: list[str] = []
    key = ""
    for change in changes:
        if change.key != key:
            key = change.key
            lines.append(f"\n[{key}]")
        name = "(key)" if change.name is None else f'"{change.name}"=' if change.name else "@="
        lines += [
            f"{sign} {name}{text}"
            for sign, text in (("-", change.before), ("+", change.after))
            if text is not None
        ]
    return "\n".join(lines).strip() + "\n"


def golden(name: str, text: str) -> None:
    file = GOLDEN / f"{name}.txt"
    if os.environ.get("REFLOAT_GOLDEN") == "write":
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    assert text == file.read_text()


@pytest.mark.parametrize(("name", "architecture"), EVERY)
def test_golden_and_a_second_run_changes_nothing(name: str, architecture: str) -> None:
    version = row_of(name)
    first = changed(version, architecture, system(version))
    golden(f"{name.replace(' ', '')}-{architecture}", rendered(first.changes))
    content = first.content()
    assert changed(version, architecture, content).changes == ()
    assert by_hivex(content) == by_python_registry(content)


@pytest.mark.parametrize(("name", "architecture"), EVERY)
def test_the_scheme_follows_the_hive_not_the_version(name: str, architecture: str) -> None:
    version = row_of(name)
    has_database = merged(*(at(f"DriverDatabase\\{key}") for key in storage.PARTS))
    with_it = changed(version, architecture, system(row_of("7"), has_database))
    assert with_it.has("DriverDatabase\\DriverInfFiles\\viostor.inf")
    assert with_it.keys(f"{SET}\\Control\\CriticalDeviceDatabase") == ()
    without = changed(version, architecture, system(row_of("7")))
    assert without.has(f"{SET}\\Control\\CriticalDeviceDatabase\\PCI#VEN_1AF4&DEV_1042")
    assert not without.has("DriverDatabase")


@pytest.mark.parametrize("missing", storage.PARTS)
def test_a_driver_database_that_is_not_whole_is_refused(missing: str) -> None:
    rest = merged(*(at(f"DriverDatabase\\{key}") for key in storage.PARTS if key != missing))
    with pytest.raises(Refused, match="DriverDatabase") as caught:
        changed(row_of("2022"), "amd64", system(row_of("7"), rest))
    assert caught.value.code == "driver_database"


def test_windows_7_without_its_database_is_refused() -> None:
    content = hive(at(f"{SET}\\Services\\partmgr"))
    with pytest.raises(Refused, match="CriticalDeviceDatabase"):
        changed(row_of("7"), "x86", content)


@pytest.mark.parametrize(
    ("file", "name", "architecture"), [(WINDOWS7, "7", "x86"), (WINDOWS10, "10", "amd64")]
)
def test_real_hives_have_the_same_values_for_every_parser(file: str, name: str, architecture: str) -> None:
    content, control_set = real(file), "ControlSet001"
    if file == WINDOWS10:
        content = replayed(file, content, logs(file))
    found = Hive.open("SYSTEM", content)
    storage.change(found, control_set, row_of(name), architecture)
    settings.change_system(found, control_set)
    after = found.content()
    before, now = by_hivex(content), by_hivex(after)
    differing = {key for key in before.keys() | now.keys() if before.get(key) != now.get(key)}
    assert differing == {change.key.removeprefix("SYSTEM\\") for change in found.changes}
    for key in differing & now.keys():
        assert by_python_registry(after, key).get(key) == now[key]
    service = by_python_registry(after, f"{control_set}\\Services\\vioscsi")[
        f"{control_set}\\Services\\vioscsi"
    ]
    assert service["Start"] == (4, b"\0\0\0\0")
    scheme = f"{control_set}\\Control\\CriticalDeviceDatabase\\PCI#VEN_1AF4&DEV_1042"
    assert found.has(scheme) is not found.has("DriverDatabase\\DriverInfFiles\\viostor.inf")
    again = Hive.open("SYSTEM", after)
    storage.change(again, control_set, row_of(name), architecture)
    settings.change_system(again, control_set)
    assert again.changes == ()


def test_the_old_control_set_is_left_alone() -> None:
    found = changed(row_of("2022"), "amd64", system(row_of("2022")))
    assert not any("ControlSet001" in change.key for change in found.changes)
    assert found.get("ControlSet001\\Services\\viostor", "Start") == Value.dword(4)


OVERRIDES = {
    "one profile": at(f"{SET}\\Services\\{{}}\\StartOverride", {"0": Value.dword(3)}),
    "several profiles": at(
        f"{SET}\\Services\\{{}}\\StartOverride", {"0": Value.dword(3), "1": Value.dword(3)}
    ),
    "empty": at(f"{SET}\\Services\\{{}}\\StartOverride"),
    "keys below": at(f"{SET}\\Services\\{{}}\\StartOverride\\0", {"": Value.dword(3)}),
    "capitals": at(f"{SET}\\Services\\{{}}\\STARTOVERRIDE", {"0": Value.dword(3)}),
    "a value": at(f"{SET}\\Services\\{{}}", {"StartOverride": Value.dword(3)}),
}


@pytest.mark.parametrize("form", OVERRIDES)
@pytest.mark.parametrize("service", ["viostor", "vioscsi", "storahci", "stornvme"])
def test_no_form_of_start_override_is_left(form: str, service: str) -> None:
    version = row_of("2022")

    def named(keys: Any) -> Any:
        return (
            {name.format(service): named(below) for name, below in keys.items()}
            if isinstance(keys, dict)
            else keys
        )

    there = at(
        f"{SET}\\Services\\{service}", {"Start": Value.dword(3), "Owners": Value.multi_sz(["oem7.inf"])}
    )
    # Of a version that has none of them: what stands there is this test's alone.
    found = changed(version, "amd64", system(row_of("7"), there, named(OVERRIDES[form])))
    key = f"{SET}\\Services\\{service}"
    assert not any(name.lower() == "startoverride" for name in (*found.keys(key), *found.values(key)))
    assert found.get(key, "Start") == Value.dword(0)
    assert found.get(key, "Owners") == Value.multi_sz(["oem7.inf"])
    assert not Hive.open("SYSTEM", found.content()).has(f"{key}\\StartOverride")


@pytest.mark.parametrize("service", ["storahci", "stornvme"])
def test_a_bus_driver_that_is_not_installed_is_not_invented(service: str) -> None:
    found = changed(row_of("2022"), "amd64", system(row_of("7")))
    assert not found.has(f"{SET}\\Services\\{service}")


def test_the_drivers_of_the_source_are_left_as_they_are() -> None:
    found = changed(row_of("2022"), "amd64", system(row_of("2022")))
    assert not any("LSI_SAS" in change.key or "VEN_15AD" in change.key for change in found.changes)


def test_stubs_are_all_that_was_bound() -> None:
    """What the guest removes at the end, and what was put into DriverDatabase, are the same."""
    version = row_of("2022")
    found = changed(version, "amd64", system(version))
    for stub in storage.stubs("amd64"):
        for key in stub.keys:
            found.delete_key(key)
        for key, name in stub.values:
            found.delete_value(key, name)
    left = [change for change in found.changes if "DriverDatabase" in change.key and change.name is not None]
    assert left == []


def test_the_first_boot_knows_what_it_has_to_take_back() -> None:
    """Its scripts name the stubs and the folder in DevicePath by themselves: they must mean the same."""
    script = staging.script().decode()
    assert "'{0}_{1}_0000000000000000' -f $inf, $Plan['ARCHITECTURE']" in script
    assert storage.label("viostor.inf", "ARM64") == "viostor.inf_arm64_0000000000000000"
    for part in storage.PARTS:
        assert f"\\{part}" in script
    assert f"%SystemRoot%\\{staging.FOLDER}\\{staging.DRIVERS}" == settings.DEVICE_PATH


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, "%SystemRoot%\\inf;%SystemRoot%\\Refloat\\drivers"),
        ("", "%SystemRoot%\\inf;%SystemRoot%\\Refloat\\drivers"),
        ("%SystemRoot%\\inf", "%SystemRoot%\\inf;%SystemRoot%\\Refloat\\drivers"),
        ("%SystemRoot%\\inf;", "%SystemRoot%\\inf;%SystemRoot%\\Refloat\\drivers"),
        ("C:\\d;%SystemRoot%\\inf", "C:\\d;%SystemRoot%\\inf;%SystemRoot%\\Refloat\\drivers"),
        ("%systemroot%\\REFLOAT\\drivers;C:\\d", "%systemroot%\\REFLOAT\\drivers;C:\\d"),
    ],
)
def test_device_path(before: str | None, after: str) -> None:
    key = "Microsoft\\Windows\\CurrentVersion"
    values = {} if before is None else {"DevicePath": Value.expand_sz(before)}
    software = Hive.open("SOFTWARE", hive(at(key, values)))
    settings.change_software(software)
    assert software.get(key, "DevicePath") == Value.expand_sz(after)
    again = Hive.open("SOFTWARE", software.content())
    settings.change_software(again)
    assert again.changes == ()


def test_a_device_path_of_another_type_is_left_alone() -> None:
    key = "Microsoft\\Windows\\CurrentVersion"
    software = Hive.open("SOFTWARE", hive(at(key, {"DevicePath": Value.dword(1)})))
    settings.change_software(software)
    assert software.changes == ()


ENTRY, OTHER = "{11111111-2222-3333-4444-555555555555}", "{99999999-2222-3333-4444-555555555555}"


def _bcd(default: Value | None, *entries: str) -> Hive:
    manager = f"Objects\\{bcd.BOOT_MANAGER}\\Elements\\23000003"
    parts = [at(manager, {"Element": default} if default else {})]
    for entry in entries:
        parts.append(at(f"Objects\\{entry}\\Elements\\16000046", {"Element": Value.binary(b"\1")}))
        parts.append(at(f"Objects\\{entry}\\Elements\\12000004", {"Element": Value.sz("Windows")}))
    return Hive.open("BCD", hive(merged(*parts), "BCD"))


def test_graphics_of_the_default_entry_alone() -> None:
    found = _bcd(Value.sz(ENTRY), ENTRY, OTHER)
    assert bcd.change(found)
    golden("bcd", rendered(found.changes))
    again = Hive.open("BCD", found.content())
    assert not bcd.change(again) and again.changes == ()
    assert again.has(f"Objects\\{OTHER}\\Elements\\16000046")


@pytest.mark.parametrize(
    "default", [None, Value.sz(""), Value.sz("{0}"), Value.dword(1), Value.sz(f"{ENTRY}\\..")]
)
def test_a_boot_configuration_without_a_default_is_left_alone(default: Value | None) -> None:
    found = _bcd(default, ENTRY)
    assert not bcd.change(found) and found.changes == ()
