"""docs/support-matrix.md from data: the rows of families, the golden trees, the guests that are booted.

`python -m tests.support_matrix` prints it, `--write` writes it; a test compares the two.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from refloat.guest.families import FAMILIES, UNSUPPORTED, Family, family_of, parse_os_release

DOCUMENT = Path(__file__).parents[1] / "docs" / "support-matrix.md"
_GOLDEN = Path(__file__).parent / "golden" / "guest"
_GUESTS = "tests.guests.matrix"
_LAYOUTS = {
    "boot": "Boot loaders and firmware",
    "storage": "Storage",
    "net": "Network stacks",
}
_HEAD = """\
# Support matrix

Made by `script/support-matrix --write` from the rows in `refloat/guest/families.py`, the trees in
`tests/golden/guest` and the guests in `tests/guests`. A test keeps it up to date.

- **booted**: a real guest of this kind is adapted and boots in the system tests (all: `script/test --all`).
- **trees**: every change is tested on realistic file trees and on initramfs made in the tool's formats. Where
  nothing was booted, the packages of these systems cannot be had on the build machines.
- What is in neither column is refused with the reason, before anything is touched.
"""
_REFUSED = (
    ("unified kernel images without another kernel", "nothing can be appended to a signed image"),
    ("image-based systems (ostree)", "their kernels belong to an image"),
    (
        "an initramfs in a format that no kernel unpacks",
        "nothing can be appended; with `rebuild: allowed` initramfs-tools and dracut make a new one",
    ),
    ("processors other than x86_64", "no such destination exists yet"),
)


def render() -> str:
    parts = [_HEAD, "\n## Families\n\n", *_families()]
    for prefix, title in _LAYOUTS.items():
        trees = [path.name for path in sorted(_GOLDEN.glob(f"{prefix}-*"))]
        if trees:
            parts += [
                f"\n## {title}, on trees\n\n",
                _listed(name.removeprefix(f"{prefix}-") for name in trees),
            ]
    parts += ["\n## Refused\n\n", *_refused()]
    return "".join(parts)


def _families() -> Iterator[str]:
    yield "| Family | Systems | initramfs | Init | booted | trees |\n|---|---|---|---|---|---|\n"
    for family in FAMILIES:
        cells = (
            family.name,
            family.covers,
            family.initramfs_tool,
            ", ".join(family.inits),
            ", ".join(_booted(family)) or "-",
            ", ".join(_trees(family)) or "-",
        )
        yield f"| {' | '.join(cells)} |\n"


def _trees(family: Family) -> list[str]:
    names = []
    for path in sorted(_GOLDEN.iterdir()):
        release = next(
            (one for one in (path / "tree/etc/os-release", path / "etc/os-release") if one.is_file()), None
        )
        found = family_of(parse_os_release(release.read_text())) if release else None
        if found is family:
            names.append(path.name.removeprefix("family-"))
    return names


def _booted(family: Family) -> list[str]:
    try:
        cases = importlib.import_module(_GUESTS).MATRIX
    except ModuleNotFoundError:
        return []
    return [case.name for case in cases if case.booted and case.family == family.name]


def _listed(names: Iterable[str]) -> str:
    return "".join(f"- {name}\n" for name in names)


def _refused() -> Iterator[str]:
    yield "| What | Why |\n|---|---|\n"
    for row in UNSUPPORTED:
        yield f"| {', '.join(sorted(row.ids))} | {row.because.removeprefix('not supported: ')} |\n"
    for what, why in _REFUSED:
        yield f"| {what} | {why} |\n"


if __name__ == "__main__":
    if "--write" in sys.argv[1:]:
        DOCUMENT.write_text(render())
    else:
        sys.stdout.write(render())
