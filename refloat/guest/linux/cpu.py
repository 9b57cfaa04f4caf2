"""Which processor a guest's programs need: the levels of the x86-64 psABI, and who is built for which.

A distribution that is built for a newer level than the processor has ends before its first message, in
the middle of the boot: known before anything is touched, it is a refusal.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

# What each level adds to the one below, as /proc/cpuinfo calls it (gitlab.com/x86-psABIs/x86-64-ABI,
# "Micro-architecture levels"): SSE3 is pni there, LZCNT abm, and OSXSAVE shows as xsave.
LEVELS: Mapping[int, frozenset[str]] = {
    1: frozenset({"cmov", "cx8", "fpu", "fxsr", "lm", "mmx", "sse", "sse2", "syscall"}),
    2: frozenset({"cx16", "lahf_lm", "pni", "popcnt", "sse4_1", "sse4_2", "ssse3"}),
    3: frozenset({"abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave"}),
    4: frozenset({"avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl"}),
}

# The same features as QEMU, libvirt and the processors' manuals spell them.
_SPELLINGS: Mapping[str, str] = {
    "sse3": "pni",
    "lzcnt": "abm",
    "lahf": "lahf_lm",
    "osxsave": "xsave",
    "cmpxchg16b": "cx16",
    "cx8b": "cx8",
}


@dataclass(frozen=True)
class Baseline:
    """Systems that need a level from a major version on, by their ID or by their PLATFORM_ID's name."""

    ids: frozenset[str]
    since: int
    level: int
    because: str


_ENTERPRISE = frozenset(
    {"rhel", "centos", "rocky", "almalinux", "ol", "eurolinux", "cloudlinux", "circle", "platform:el"}
)

BASELINES = (
    Baseline(_ENTERPRISE, 9, 2, "RHEL 9 and what is built from it"),
    Baseline(_ENTERPRISE, 10, 3, "RHEL 10 and what is built from it"),
    Baseline(frozenset({"amzn"}), 2022, 2, "Amazon Linux 2023"),
    Baseline(
        frozenset({"sles", "sles_sap", "sled", "opensuse-leap"}), 16, 2, "SUSE Linux Enterprise and Leap 16"
    ),
)

# AlmaLinux also builds its version 10 for the level below: its packages and kernels say so by their name.
_OLDER_BUILD = ".x86_64_v2"


def needed_level(os_release: Mapping[str, str], kernels: Iterable[str] = ()) -> int:
    """The level that a guest with this os-release and these kernel versions needs."""
    platform = os_release.get("PLATFORM_ID", "")
    names = {os_release.get("ID", ""), platform.rstrip("0123456789")}
    version = os_release.get("VERSION_ID", "")
    majors = {_number(version.partition(".")[0]), _number(platform[len(platform.rstrip("0123456789")) :])}
    levels = [row.level for row in BASELINES if row.ids & names and row.since <= max(majors)]
    level = max(levels, default=1)
    versions = tuple(kernels)
    if level == 3 and versions and all(name.endswith(_OLDER_BUILD) for name in versions):
        return 2
    return level


def missing(level: int, flags: Collection[str]) -> tuple[str, ...]:
    """What a processor with these flags lacks for `level`, sorted; empty if it has all."""
    has = {_spelled(flag) for flag in flags}
    needed = {flag for number, added in LEVELS.items() if number <= level for flag in added}
    return tuple(sorted(needed - has))


def level_of(flags: Collection[str]) -> int:
    """The highest level that a processor with these flags has; 0 if it is none for x86-64."""
    return max((level for level in LEVELS if not missing(level, flags)), default=0)


def _spelled(flag: str) -> str:
    name = flag.lower().replace("-", "_").replace(".", "_")
    return _SPELLINGS.get(name, name)


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 9 else 0
