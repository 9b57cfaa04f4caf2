"""Builds to rows: every version of the documentation, and what is between them."""

from __future__ import annotations

import itertools

import pytest

from refloat.errors import Refused
from refloat.guest.windows.versions import VERSIONS, row_of, version_of


@pytest.mark.parametrize(
    ("build", "server", "name", "folder", "powershell"),
    [
        (7601, True, "2008 R2", "2k8R2", "2.0"),
        (7601, False, "7", "w7", "2.0"),
        (9200, True, "2012", "2k12", "3.0"),
        (9200, False, "8", "w8", "3.0"),
        (9600, True, "2012 R2", "2k12R2", "4.0"),
        (9600, False, "8.1", "w8.1", "4.0"),
        (14393, True, "2016", "2k16", "5.1"),
        (17763, True, "2019", "2k19", "5.1"),
        (20348, True, "2022", "2k22", "5.1"),
        (26100, True, "2025", "2k25", "5.1"),
        (10240, False, "10", "w10", "5.1"),
        (19045, False, "10", "w10", "5.1"),
        (22000, False, "11", "w11", "5.1"),
        (26200, False, "11", "w11", "5.1"),
    ],
)
def test_build_gives_row(build: int, server: bool, name: str, folder: str, powershell: str) -> None:
    row = version_of(build, server)
    assert (row.name, row.folders[0], row.powershell) == (name, folder, powershell)
    assert row_of(name) is row


@pytest.mark.parametrize("build", [6002, 7602, 16299, 19042, 25398, 26101])
def test_an_unknown_server_is_refused(build: int) -> None:
    with pytest.raises(Refused, match=f"server of build {build}") as caught:
        version_of(build, server=True)
    assert caught.value.code == "windows_version"
    assert "20348" in caught.value.hint


def test_windows_7_without_its_service_pack_is_told_what_to_do() -> None:
    with pytest.raises(Refused, match="install Service Pack 1"):
        version_of(7600, server=False)


def test_previews_between_10_and_11_are_refused() -> None:
    with pytest.raises(Refused):
        version_of(21996, server=False)


def test_no_two_rows_overlap() -> None:
    for kind in (True, False):
        rows = sorted((row for row in VERSIONS if row.server is kind), key=lambda row: row.build)
        assert all(one.last < two.build for one, two in itertools.pairwise(rows))
    assert len({row.name for row in VERSIONS}) == len(VERSIONS)
