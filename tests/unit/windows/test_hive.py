"""A changed hive is what was asked for, to three parsers; and nothing outside the boundary changes."""

from __future__ import annotations

import struct
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refloat.errors import Failed
from refloat.guest.boundary import Boundary, BoundaryViolation, Rule
from refloat.guest.windows import hive as hive_module
from refloat.guest.windows import keys, regf
from refloat.guest.windows.hive import Hive
from refloat.guest.windows.hivelog import replayed
from refloat.guest.windows.regf import BASE, NIL, SEGMENT, HiveDamaged, fold
from refloat.guest.windows.values import BINARY, NONE, Value
from refloat.model import ValueChange
from tests.windows.hives import Keys, at, hive, merged
from tests.windows.real import BCD, WINDOWS7, WINDOWS8, WINDOWS10, logs, real, undirtied
from tests.windows.reopened import Content, by_hivex, by_python_registry

SERVICES = "ControlSet001\\Services"
VIOSTOR = f"{SERVICES}\\viostor"
WINDOWS_KEY = "Microsoft\\Windows\\CurrentVersion"


@pytest.fixture
def unbounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """For what is not about the boundary."""
    anything = Boundary((Rule("/**", "a test"),), ())
    monkeypatch.setattr(hive_module, "BOUNDARY", anything)


@cache
def services() -> bytes:
    names = ("ACPI", "disk", "storahci", "Tcpip", "WmiAcpi", "viostor", "vmbus", "volsnap")
    drivers = merged(*(at(f"{SERVICES}\\{name}", {"Start": Value.dword(3)}) for name in names))
    override = at(f"{VIOSTOR}\\StartOverride", {"0": Value.dword(3)})
    return hive(merged(drivers, override, at("Select", {"Current": Value.dword(1)})))


def everything(found: Hive, path: str = "") -> Content:
    content = {path: {name: (one.type, one.data) for name, one in found.values(path).items()}}
    for name in found.keys(path):
        content |= everything(found, f"{path}\\{name}".lstrip("\\"))
    return content


def same_to_all(content: bytes, key: str = "") -> Content:
    """What all three parsers agree that the hive holds."""
    ours = everything(Hive.open("x", content), key)
    assert by_hivex(content, key) == ours
    assert by_python_registry(content, key) == ours
    return ours


# ---------------------------------------------------------------- changes


def test_values_are_set_in_any_spelling_and_keys_made() -> None:
    found = Hive.open("SYSTEM", services())
    found.set(VIOSTOR.lower(), "START", Value.dword(0))
    found.set(f"{VIOSTOR}\\Parameters\\PnpInterface", "5", Value.dword(1))
    content = found.content()
    result = same_to_all(content)
    assert result[VIOSTOR]["Start"] == (4, b"\0\0\0\0"), "the spelling stays the guest's"
    assert result[f"{VIOSTOR}\\Parameters\\PnpInterface"] == {"5": (4, b"\1\0\0\0")}
    assert found.changes == (
        ValueChange(f"SYSTEM\\{VIOSTOR}", "Start", "dword:00000003", "dword:00000000"),
        ValueChange(f"SYSTEM\\{VIOSTOR}\\Parameters", None, None, ""),
        ValueChange(f"SYSTEM\\{VIOSTOR}\\Parameters\\PnpInterface", None, None, ""),
        ValueChange(f"SYSTEM\\{VIOSTOR}\\Parameters\\PnpInterface", "5", None, "dword:00000001"),
    )


def test_only_what_is_asked_for_changes() -> None:
    found = Hive.open("SYSTEM", services())
    found.set(VIOSTOR, "Start", Value.dword(0))
    before, after = same_to_all(services()), same_to_all(found.content())
    assert {path for path in before | after if before.get(path) != after.get(path)} == {VIOSTOR}


def test_a_key_is_deleted_with_all_in_it() -> None:
    found = Hive.open("SYSTEM", services())
    found.delete_key(f"{VIOSTOR}\\startoverride")
    assert not found.has(f"{VIOSTOR}\\StartOverride")
    assert f"{VIOSTOR}\\StartOverride" not in same_to_all(found.content())
    assert found.changes == (
        ValueChange(f"SYSTEM\\{VIOSTOR}\\StartOverride", None, "", None),
        ValueChange(f"SYSTEM\\{VIOSTOR}\\StartOverride", "0", "dword:00000003", None),
    )


def test_a_key_that_loses_its_last_subkey_has_no_list_of_them() -> None:
    found = Hive.open("SYSTEM", services())
    found.delete_key(f"{VIOSTOR}\\StartOverride")
    content = found.content()
    parsed = regf.opened("SYSTEM", content)
    key = parsed.root
    for part in VIOSTOR.split("\\"):
        key = next(child for child in parsed.subkeys(key) if parsed.name(child) == part)
    count, where = struct.unpack_from("<I4xI", content, BASE + key + 24)
    assert (count, where) == (0, NIL)


def test_a_value_is_deleted() -> None:
    found = Hive.open("SYSTEM", services())
    found.delete_value(VIOSTOR, "start")
    found.delete_value(VIOSTOR, "not there")
    assert same_to_all(found.content())[VIOSTOR] == {}
    assert found.changes == (ValueChange(f"SYSTEM\\{VIOSTOR}", "Start", "dword:00000003", None),)


def test_what_is_there_already_is_no_change() -> None:
    found = Hive.open("SYSTEM", services())
    found.set(VIOSTOR, "Start", Value.dword(3))
    found.delete_key(f"{SERVICES}\\vioscsi")
    found.make(VIOSTOR)
    assert found.changes == ()
    assert found.content() is services()


def test_what_is_taken_back_is_no_change() -> None:
    found = Hive.open("SYSTEM", services())
    found.set(VIOSTOR, "Start", Value.dword(0))
    found.set(VIOSTOR, "Start", Value.dword(3))
    found.delete_key(f"{VIOSTOR}\\StartOverride")
    found.set(f"{VIOSTOR}\\StartOverride", "0", Value.dword(3))
    found.set(f"{SERVICES}\\vioscsi", "Start", Value.dword(0))
    found.delete_key(f"{SERVICES}\\vioscsi")
    assert found.changes == ()
    assert found.content() is services()


def test_the_same_changes_make_the_same_bytes_and_a_second_run_none() -> None:
    def changed(content: bytes) -> Hive:
        found = Hive.open("SYSTEM", content)
        found.set(VIOSTOR, "Start", Value.dword(0))
        found.delete_key(f"{VIOSTOR}\\StartOverride")
        found.set(f"{SERVICES}\\Refloat", "ImagePath", Value.expand_sz("%SystemRoot%\\x"))
        return found

    first = changed(services()).content()
    assert first == changed(services()).content()
    assert changed(first).changes == ()


def test_subkeys_are_in_the_order_that_windows_searches_by() -> None:
    """hivex compares as C does: "_" before letters. Windows compares upper case: after them."""
    found = Hive.open("SYSTEM", services())
    for name in ("Refloat_b", "RefloatB", "Refloat", "refloat0"):
        found.set(f"{SERVICES}\\{name}", "Start", Value.dword(2))
    content = found.content()
    names = [name.upper() for name in Hive.open("SYSTEM", content).keys(SERVICES)]
    assert names == sorted(names)
    assert names.index("REFLOATB") < names.index("REFLOAT_B")
    same_to_all(content)


@pytest.mark.usefixtures("unbounded")
def test_values_of_all_kinds_survive_a_change_beside_them() -> None:
    odd = {
        "": Value.sz("default"),
        "none": Value(NONE, b""),
        "link": Value(6, "x".encode("utf-16-le")),
        "odd": Value(1, b"abc"),
        "resources": Value(8, b"\0" * 9),
        "long": Value(BINARY, bytes(range(256)) * 60),
        "grüße": Value.multi_sz(["ä", "日本"]),
        "日本": Value.qword(2**40),
        "€ ": Value.dword(7),
    }
    found = Hive.open("SYSTEM", hive(at("a\\b", odd)))
    found.set("a\\b", "new", Value.sz("text"))
    result = same_to_all(found.content())["a\\b"]
    assert result == {name: (one.type, one.data) for name, one in (odd | {"new": Value.sz("text")}).items()}


@pytest.mark.usefixtures("unbounded")
def test_an_empty_value_without_a_cell_survives() -> None:
    """Windows writes them as hivex does not: no data, and an offset that means nothing."""
    content = bytearray(hive(at("a", {"empty": Value(1, b""), "other": Value.sz("x")})))
    parsed = regf.opened("x", bytes(content))
    cell = parsed.value_cells(parsed.subkeys(parsed.root)[0])[0]
    struct.pack_into("<II", content, BASE + cell + 8, 0, NIL)
    found = Hive.open("SYSTEM", bytes(content))
    found.set("a", "new", Value.dword(1))
    assert set(same_to_all(found.content())["a"]) == {"empty", "other", "new"}
    found = Hive.open("SYSTEM", bytes(content))
    found.delete_key("a")
    assert "a" not in same_to_all(found.content())


@pytest.mark.usefixtures("unbounded")
@pytest.mark.parametrize(
    ("values", "reason"),
    [({"big": Value.binary(b"x" * (SEGMENT + 1))}, "has a value of 16345 bytes")],
)
def test_a_key_that_hivex_would_harm_is_not_written(values: dict[str, Value], reason: str) -> None:
    found = Hive.open("SYSTEM", hive(at("a", values)))
    found.set("a", "new", Value.dword(1))
    with pytest.raises(Failed, match=reason):
        found.content()


@pytest.mark.usefixtures("unbounded")
def test_a_name_with_a_nul_is_not_cut() -> None:
    content = bytearray(hive(at("a", {"hidden": Value.dword(1)})))
    parsed = regf.opened("x", bytes(content))
    cell = parsed.value_cells(parsed.subkeys(parsed.root)[0])[0]
    content[BASE + cell + 26] = 0
    found = Hive.open("SYSTEM", bytes(content))
    found.set("a", "new", Value.dword(1))
    with pytest.raises(Failed, match="no text"):
        found.content()


@pytest.mark.usefixtures("unbounded")
def test_nothing_is_written_through_a_link() -> None:
    content = bytearray(hive(at("link\\b", {"x": Value.dword(1)})))
    parsed = regf.opened("x", bytes(content))
    key = parsed.subkeys(parsed.root)[0]
    content[BASE + key + 6] |= 0x10
    found = Hive.open("SYSTEM", bytes(content))
    with pytest.raises(HiveDamaged, match="link"):
        found.set("link\\b", "x", Value.dword(2))


NAMES = st.text("abc_xyzAZ09&{}", min_size=1, max_size=6)


@pytest.mark.usefixtures("unbounded")
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["set", "delete_value", "delete_key"]),
            st.lists(NAMES, min_size=1, max_size=3),
            NAMES,
            st.binary(max_size=40),
        ),
        max_size=30,
    )
)
@settings(max_examples=60, deadline=None)
def test_any_changes_end_as_in_a_plain_dictionary(changes: list[tuple[str, list[str], str, bytes]]) -> None:
    found = Hive.open("SYSTEM", hive(SOME))
    model = {fold(path): dict(values) for path, values in everything(found).items()}
    model = {path: {fold(name): one for name, one in values.items()} for path, values in model.items()}
    for action, parts, name, data in changes:
        path = "\\".join(parts)
        folded = fold(path)
        if action == "set":
            found.set(path, name, Value.binary(data))
            for count in range(1, len(parts) + 1):
                model.setdefault(fold("\\".join(parts[:count])), {})
            model[folded][fold(name)] = (BINARY, data)
        elif action == "delete_value":
            found.delete_value(path, name)
            model.get(folded, {}).pop(fold(name), None)
        else:
            found.delete_key(path)
            model = {key: values for key, values in model.items() if not f"{key}\\".startswith(f"{folded}\\")}
    result = same_to_all(found.content())
    assert {
        fold(path): {fold(name): one for name, one in values.items()} for path, values in result.items()
    } == model


SOME: Keys = merged(
    *(
        at(path, {"a": Value.dword(1), "x": Value.sz("y")})
        for path in ("a", "a\\b", "a\\b\\c", "x\\_", "_z", "Z")
    )
)


# ---------------------------------------------------------------- the boundary


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("SYSTEM", "ControlSet001\\Services\\viostor", "Start"),
        ("SYSTEM", "controlset002\\services\\VIOSCSI\\Parameters\\PnpInterface", "5"),
        ("SYSTEM", "ControlSet001\\Services\\partmgr\\Parameters", "SanPolicy"),
        ("SYSTEM", "ControlSet001\\Control\\CriticalDeviceDatabase\\PCI#VEN_1AF4&DEV_1001", "Service"),
        ("SYSTEM", "DriverDatabase\\DeviceIds\\PCI\\VEN_1AF4&DEV_1001", "viostor.inf"),
        ("SOFTWARE", WINDOWS_KEY, "DevicePath"),
    ],
)
def test_allowed(name: str, key: str, value: str) -> None:
    assert keys.BOUNDARY.limitation(keys.value_path(name, key, value)) is None


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("SAM", "SAM\\Domains\\Account\\Users", "F"),
        ("SECURITY", "Policy\\Secrets", ""),
        ("NTUSER.DAT", "Software", "x"),
        ("SYSTEM", "ControlSet001\\Control\\Lsa", "LimitBlankPasswordUse"),
        ("SYSTEM", "ControlSet001\\Control\\ComputerName\\ComputerName", "ComputerName"),
        ("SYSTEM", "ControlSet001\\Services\\Tcpip\\Parameters\\Interfaces\\{X}", "IPAddress"),
        ("SYSTEM", "ControlSet001\\Services\\Netlogon", "Start"),
        ("SYSTEM", "ControlSet001\\Services\\viostor2", "Start"),
        ("SYSTEM", "ControlSet001\\Services\\disk", "Start"),
        ("SYSTEM", "ControlSet001\\Services\\storahci", "ImagePath"),
        ("SYSTEM", "ControlSet001\\Control\\CriticalDeviceDatabase\\PCI#VEN_8086&DEV_1001", "Service"),
        ("SYSTEM", "Select", "Current"),
        ("SYSTEM", "a\\ControlSet001\\Services\\viostor", "Start"),
        ("SYSTEM", "x/ControlSet001\\Services\\viostor", "Start"),
        ("SYSTEM", "ControlSet001\\Control\\CrashControl", "CrashDumpEnabled"),
        ("SOFTWARE", WINDOWS_KEY, "ProgramFilesDir"),
        ("SOFTWARE", f"{WINDOWS_KEY}\\Run", "DevicePath"),
        ("SOFTWARE", "Policies\\x", "y"),
        ("BCD", "Objects\\{x}\\Elements\\21000001", "Element"),
    ],
)
def test_out_of_reach(name: str, key: str, value: str) -> None:
    found = Hive.open(name, hive(at("ControlSet001\\Services")))
    with pytest.raises(BoundaryViolation):
        found.set(key, value, Value.dword(1))
    assert found.changes == ()


@pytest.mark.parametrize("key", [SERVICES, "ControlSet001", f"{SERVICES}\\Tcpip", f"{SERVICES}\\storahci"])
def test_no_key_is_deleted_with_something_in_it_that_is_out_of_reach(key: str) -> None:
    found = Hive.open("SYSTEM", services())
    with pytest.raises(BoundaryViolation):
        found.delete_key(key)
    assert found.changes == ()


@pytest.mark.parametrize("key", ["", "\\"])
def test_the_root_is_never_deleted(key: str) -> None:
    with pytest.raises(Failed):
        Hive.open("SYSTEM", services()).delete_key(key)


@pytest.mark.parametrize("name", ["a\0b", "ä", "x" * 256, "a\nb"])
def test_no_name_is_made_that_hivex_would_change(name: str) -> None:
    found = Hive.open("SYSTEM", services())
    with pytest.raises(BoundaryViolation):
        found.set(VIOSTOR, name, Value.dword(1))
    with pytest.raises(BoundaryViolation):
        found.set(f"{VIOSTOR}\\{name}", "x", Value.dword(1))


def test_every_row_has_its_reason() -> None:
    assert all(rule.because and rule.any_case for rule in (*keys.ALLOWED, *keys.FORBIDDEN))


# ---------------------------------------------------------------- real hives


@pytest.mark.parametrize("name", [WINDOWS7, WINDOWS8, WINDOWS10])
def test_a_real_hive_is_changed_and_read_by_all_parsers(name: str) -> None:
    content = replayed("SYSTEM", real(name), logs(name)) if name == WINDOWS10 else undirtied(real(name))
    found = Hive.open("SYSTEM", content)
    found.set(VIOSTOR, "Start", Value.dword(0))
    found.set(VIOSTOR, "ImagePath", Value.expand_sz("system32\\drivers\\viostor.sys"))
    found.set(f"{VIOSTOR}\\Parameters\\PnpInterface", "5", Value.dword(1))
    found.set(f"{SERVICES}\\Refloat", "Start", Value.dword(2))
    for service in ("storahci", "msahci"):
        if found.has(f"{SERVICES}\\{service}"):
            found.set(f"{SERVICES}\\{service}", "Start", Value.dword(0))
            found.delete_key(f"{SERVICES}\\{service}\\StartOverride")
    result = found.content()
    after = same_to_all(result, SERVICES)
    assert after[f"{SERVICES}\\viostor"] == {
        "Start": (4, b"\0\0\0\0"),
        "ImagePath": (2, Value.expand_sz("system32\\drivers\\viostor.sys").data),
    }
    before, whole = everything(Hive.open("x", content)), everything(Hive.open("x", result))
    touched = {fold(name) for name in ("viostor", "Refloat", "storahci", "msahci")}
    differ = {path for path in before | whole if before.get(path) != whole.get(path)}
    assert {fold(path).removeprefix(f"{fold(SERVICES)}\\").split("\\")[0] for path in differ} <= touched
    names = [fold(one) for one in Hive.open("SYSTEM", result).keys(SERVICES)]
    assert names == sorted(names, key=lambda one: one.encode("utf-16-be"))


def test_the_real_boot_configuration_is_changed() -> None:
    element = "Objects\\{bbbbbbbb-0000-4000-8000-000000000001}\\Elements\\16000046"
    found = Hive.open("BCD", real(BCD))
    objects = [name for name in found.keys("Objects") if found.has(f"Objects\\{name}\\Elements")]
    element = f"Objects\\{objects[0]}\\Elements\\16000046"
    found.set(element, "Element", Value.binary(b"\1"))
    content = found.content()
    assert same_to_all(content)[element] == {"Element": (3, b"\1")}
    again = Hive.open("BCD", content)
    again.delete_key(element)
    assert same_to_all(again.content()) == same_to_all(real(BCD))
