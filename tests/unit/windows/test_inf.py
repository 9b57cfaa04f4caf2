"""INF files: what ours and their publishers' forms say, and that a hostile one is refused, never guessed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refloat.guest.windows.inf import INF_LIMIT, InfDamaged, read_inf
from tests.windows import driverset

VIOSTOR = driverset.KINDS[0]
TEXT = driverset.inf(VIOSTOR, "amd64")


def test_reads_what_a_driver_says() -> None:
    inf = read_inf("viostor.inf", TEXT.encode(), "amd64")
    assert inf.class_guid == "{4D36E97B-E325-11CE-BFC1-08002BE10318}"
    assert inf.version == "100.95.104.26600"
    assert inf.files == ("viostor.cat", "viostor.sys")
    assert inf.services == ("viostor",)
    assert inf.binaries == ("viostor.sys",)
    assert inf.ids == {
        "PCI\\VEN_1AF4&DEV_1001&SUBSYS_00021AF4&REV_00",
        "PCI\\VEN_1AF4&DEV_1001",
        "PCI\\VEN_1AF4&DEV_1042&SUBSYS_11001AF4&REV_01",
        "PCI\\VEN_1AF4&DEV_1042",
    }


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_every_encoding_of_inf_files(encoding: str) -> None:
    text = TEXT.replace("Nobody", "Müller")
    assert read_inf("viostor.inf", text.encode(encoding), "amd64").services == ("viostor",)


def test_big_endian() -> None:
    content = b"\xfe\xff" + TEXT.encode("utf-16-be")
    assert read_inf("viostor.inf", content, "amd64").services == ("viostor",)


def test_sections_and_keys_are_case_blind_and_lines_go_on_after_a_backslash() -> None:
    text = TEXT.replace("[Version]", "[VERSION]").replace("ClassGUID", "classguid")
    text = text.replace("Install, PCI", "Install, \\\r\n   PCI")
    assert read_inf("viostor.inf", text.encode(), "amd64").ids == read_inf("v", TEXT.encode(), "amd64").ids


def test_a_driver_for_later_builds_is_among_the_models() -> None:
    text = TEXT.replace("Models,NTamd64", "Models,NTamd64.10.0...16299")
    text = text.replace("[Models.NTamd64]", "[Models.NTamd64.10.0...16299]")
    assert read_inf("viostor.inf", text.encode(), "amd64").services == ("viostor",)


def test_a_service_that_does_not_drive_the_device_is_none_of_the_drivers() -> None:
    text = TEXT.replace("ASSOCIATED = 0x00000002", "ASSOCIATED = 0")
    assert read_inf("viostor.inf", text.encode(), "amd64").services == ()


def test_a_semicolon_in_quotes_is_no_comment() -> None:
    text = TEXT.replace("CatalogFile=viostor.cat", 'CatalogFile="viostor.cat" ; "no"')
    assert read_inf("viostor.inf", text.encode(), "amd64").catalog == "viostor.cat"


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ('Signature="$Windows NT$"', "Signature=x", "no signature"),
        ("ClassGUID={4D36E97B-E325-11CE-BFC1-08002BE10318}", "ClassGUID=SCSI", "no class of devices"),
        ("CatalogFile=viostor.cat", "", "no catalog"),
        ("CatalogFile=viostor.cat", "CatalogFile=..\\viostor.cat", "no name of a driver's file"),
        ("viostor.sys = 1,,", "..\\..\\evil.sys = 1,,", "no name of a driver's file"),
        ("viostor.sys = 1,,", "viostor.sys = 1,sub", "in a folder of its own"),
        ("viostor.sys = 1,,\r\n", "", "lists 0 files"),
        ("AddService = viostor,", "AddService = ..\\viostor,", "no name of a driver's file"),
        ("NTamd64", "NTx86", "for 0 devices"),
        (";/*++", "rubbish", "before its first section"),
        ("[Manufacturer]", "[Nobody]", "for 0 devices"),
    ],
)
def test_damaged(old: str, new: str, why: str) -> None:
    assert old in TEXT
    with pytest.raises(InfDamaged, match=why) as caught:
        read_inf("viostor.inf", TEXT.replace(old, new).encode(), "amd64")
    assert caught.value.code == "drivers_damaged"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 100,
        b"\xff\xfe" + b"\x00\xd8" * 9,
        b"MZ\x90\0\3",
        b"x" * (INF_LIMIT + 1),
        b"[a]\n" * 30_000,
        TEXT.encode()[:300],
    ],
)
def test_what_is_no_inf_is_refused(content: bytes) -> None:
    with pytest.raises(InfDamaged):
        read_inf("viostor.inf", content, "amd64")


@given(st.binary(max_size=400), st.integers(0, len(TEXT)))
def test_any_bytes_are_read_or_refused(junk: bytes, at: int) -> None:
    content = TEXT.encode()[:at] + junk + TEXT.encode()[at:]
    try:
        inf = read_inf("viostor.inf", content, "amd64")
    except InfDamaged:
        return
    assert all("/" not in name and "\\" not in name and ".." not in name[:2] for name in inf.files)


def test_strings_that_name_each_other_do_not_grow() -> None:
    text = TEXT.replace(
        "[Strings]", "[Strings]\r\n" + "".join(f'a{n} = "%a{n + 1}%%a{n + 1}%"\r\n' for n in range(500))
    )
    read_inf("viostor.inf", text.replace("DriverVer=", "DriverVer=%a0%").encode(), "amd64")
