"""The processor's level that a guest needs, and what a destination's lacks for it."""

from __future__ import annotations

import pytest

from refloat.guest.families import parse_os_release
from refloat.guest.linux.cpu import LEVELS, level_of, missing, needed_level

# /proc/cpuinfo of QEMU's qemu64 and Nehalem, and of a Haswell; shortened to what is not noise.
_QEMU64 = "fpu de pse tsc msr pae mce cx8 apic sep cmov mmx fxsr sse sse2 syscall nx lm pni cx16 lahf_lm svm"
_NEHALEM = "fpu tsc cx8 cmov mmx fxsr sse sse2 syscall nx lm pni ssse3 cx16 sse4_1 sse4_2 popcnt lahf_lm"
_HASWELL = f"{_NEHALEM} movbe aes xsave avx f16c rdrand abm fma bmi1 avx2 bmi2"


@pytest.mark.parametrize(
    ("release", "kernels", "level"),
    [
        ("ID=rhel\nVERSION_ID=8.9\nPLATFORM_ID=platform:el8", (), 1),
        ("ID=rhel\nVERSION_ID=9.3\nPLATFORM_ID=platform:el9", (), 2),
        ("ID=rocky\nVERSION_ID=9.3", (), 2),
        ("ID=centos\nVERSION_ID=9\nPLATFORM_ID=platform:el9", (), 2),
        ("ID=centos\nVERSION_ID=7", (), 1),
        ("ID=ol\nVERSION_ID=10.0", (), 3),
        ("ID=unheard-of\nVERSION_ID=1\nPLATFORM_ID=platform:el10", (), 3),
        ("ID=almalinux\nVERSION_ID=10.0", ("6.12.0-55.el10.x86_64",), 3),
        ("ID=almalinux\nVERSION_ID=10.0", ("6.12.0-55.el10.x86_64_v2",), 2),
        ("ID=almalinux\nVERSION_ID=10.0", ("6.12.0-55.el10.x86_64_v2", "6.12.0-55.el10.x86_64"), 3),
        ("ID=fedora\nVERSION_ID=40\nPLATFORM_ID=platform:f40", (), 1),
        ("ID=amzn\nVERSION_ID=2", (), 1),
        ("ID=amzn\nVERSION_ID=2023\nPLATFORM_ID=platform:al2023", (), 2),
        ("ID=sles\nVERSION_ID=15.5", (), 1),
        ("ID=sles\nVERSION_ID=16.0", (), 2),
        ("ID=debian\nVERSION_ID=12", (), 1),
        ("ID=arch", (), 1),
        ("ID=rhel\nVERSION_ID=x" + "9" * 5000, (), 1),
    ],
)
def test_needed_level(release: str, kernels: tuple[str, ...], level: int) -> None:
    assert needed_level(parse_os_release(release), kernels) == level


@pytest.mark.parametrize(("flags", "level"), [(_QEMU64, 1), (_NEHALEM, 2), (_HASWELL, 3), ("arm", 0)])
def test_level_of_a_processor(flags: str, level: int) -> None:
    assert level_of(flags.split()) == level


def test_what_is_missing_is_named() -> None:
    assert missing(2, _QEMU64.split()) == ("popcnt", "sse4_1", "sse4_2", "ssse3")
    assert missing(1, _QEMU64.split()) == ()


def test_other_spellings_of_the_same_features() -> None:
    flags = [one.replace("sse4_", "sse4.").replace("lahf_lm", "lahf-lm") for one in _HASWELL.split()]
    renamed = {"pni": "SSE3", "abm": "lzcnt", "xsave": "OSXSAVE", "cx16": "cmpxchg16b"}
    assert missing(3, [renamed.get(one, one) for one in flags]) == ()


def test_every_level_adds_to_the_one_below() -> None:
    everything: set[str] = set()
    for level, added in sorted(LEVELS.items()):
        assert not everything & added
        everything |= added
        assert level_of(everything) == level
