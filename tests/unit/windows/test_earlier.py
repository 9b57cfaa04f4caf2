"""A second adaptation before the first boot: the guest's own settings are those in the plan that waits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from refloat.guest.tree import GuestFileError, Tree
from refloat.guest.windows.earlier import as_before
from refloat.model import Firmware
from tests.windows import small

FACTS = small.facts("2022", "amd64", Firmware.BIOS)  # SAN policy 3, restarts after a crash


def known(root: Path, plan: bytes | None) -> tuple[int | None, bool]:
    (root / "C/Windows/REFLOAT").mkdir(parents=True)
    if plan is not None:
        (root / "C/Windows/REFLOAT/plan.txt").write_bytes(plan)
    with Tree(root) as tree:
        windows = as_before(tree, FACTS).windows
    assert windows is not None and FACTS.windows is not None
    assert replace(windows, san_policy=3, crash_reboot=True) == FACTS.windows
    return windows.san_policy, windows.crash_reboot


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        (None, (3, True)),
        (b"FORMAT=1\r\nCRASH_REBOOT=0\r\nSAN_POLICY=2\r\n", (2, False)),
        (b"CRASH_REBOOT=1\r\nSAN_POLICY=-\r\n", (None, True)),
        (b"CRASH_REBOOT=yes\nSAN_POLICY=17\n", (3, True)),
        (b"SAN_POLICY=\nCRASH_REBOOT", (3, True)),
        (b"\xff\xfe\x00SAN_POLICY=\xb2\n" * 100, (3, True)),
        (b"", (3, True)),
    ],
)
def test_the_plan_says_what_the_guest_had(
    tmp_path: Path, plan: bytes | None, expected: tuple[int | None, bool]
) -> None:
    assert known(tmp_path, plan) == expected


def test_a_plan_without_end_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(GuestFileError, match="more than the"):
        known(tmp_path, bytes(2 << 20))
