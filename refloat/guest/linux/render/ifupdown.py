"""ifupdown: the guest's own files with each planned NIC's name replaced by a placeholder.

Only the first boot knows what a NIC is called on the new hardware (ens192 becomes ens4 or enp0s3), so it
puts the live name in the placeholder's place. All else that the operator wrote stays: routes, MTU, hooks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from refloat.guest.linux.render.types import placeholder

__all__ = ("placeholder", "render")

# Lines whose words may be names of interfaces. Commands are among them: "up ip route add ... dev ens192".
_KEYWORDS = frozenset(
    {
        "auto", "iface", "mapping", "rename", "no-auto-down", "no-scripts",
        "bridge-ports", "bridge-hw", "bond-slaves", "bond-primary", "slaves", "primary", "vlan-raw-device",
        "up", "down", "pre-up", "post-up", "pre-down", "post-down",
    }
)  # fmt: skip


def render(files: Mapping[str, str], names: Mapping[str, str]) -> dict[str, str]:
    """The files in which a name occurs, with each name (key) replaced by its placeholder (value).

    A name is replaced as a whole word, with or without the suffix of an alias or a VLAN ("ens192:0",
    "ens192.10"), and only on lines that can name an interface; comments stay.
    """
    if not names:
        return {}
    alternatives = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    # A word of its own, or the interface's part of a path below /sys/class/net or /proc/sys/net.
    before = r"(?:(?<![\w.:@/-])|(?<=/net/)|(?<=/conf/)|(?<=/neigh/))"
    pattern = re.compile(rf"{before}({alternatives})(?![\w@-])")
    rendered = {path: _render(text, pattern, names) for path, text in files.items()}
    return {path: text for path, text in rendered.items() if text != files[path]}


def _render(text: str, pattern: re.Pattern[str], names: Mapping[str, str]) -> str:
    lines, continued = [], False
    concerned = False
    for line in text.split("\n"):
        if not continued:
            words = line.split(maxsplit=1)
            keyword = words[0].replace("_", "-") if words else ""
            concerned = keyword in _KEYWORDS or keyword.startswith("allow-")
        lines.append(pattern.sub(lambda match: names[match[1]], line) if concerned else line)
        continued = line.endswith("\\")
    return "\n".join(lines)
