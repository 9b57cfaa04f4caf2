"""A Windows that was adapted and has not run since: some settings are then Refloat's, for its first boot.

What that boot will give back is in the plan that was left for it, so a second adaptation takes it from there:
else it would take its own settings for the guest's.
"""

from __future__ import annotations

from dataclasses import replace

from refloat.guest.firstboot.windows.staging import FOLDER
from refloat.guest.tree import Tree
from refloat.guest.windows.paths import find
from refloat.model import GuestFacts

_PLAN_LIMIT = 1024 * 1024


def as_before(tree: Tree, facts: GuestFacts) -> GuestFacts:
    """The facts with the settings that the guest had before it was adapted."""
    windows = facts.windows
    path = find(tree, f"{windows.system_root}/{FOLDER}/plan.txt") if windows else None
    if windows is None or path is None or not tree.is_file(path):
        return facts
    lines = tree.read_bytes(path, _PLAN_LIMIT).decode("ascii", "replace").splitlines()
    said = {key: value for key, _, value in (line.partition("=") for line in lines)}
    crash, san = said.get("CRASH_REBOOT"), said.get("SAN_POLICY", "")
    if crash in ("0", "1"):
        windows = replace(windows, crash_reboot=crash == "1")
    if san == "-":
        windows = replace(windows, san_policy=None)
    elif len(san) == 1 and san in "01234":
        windows = replace(windows, san_policy=int(san))
    return replace(facts, windows=windows)
