"""The machine's own list of servers, where an interface with other addresses brings others."""

from __future__ import annotations

from refloat.guest.linux.network.resolver import RESOLV_CONF, RESOLVED
from refloat.guest.linux.network.texts import edited, last_line, section_entries
from refloat.guest.linux.render.types import Changed, Files
from refloat.model import NicConfig


def change(files: Files, old: NicConfig, new: NicConfig) -> Changed:
    """`old` and `new` with the machine's servers as theirs. DHCP's client writes resolv.conf itself."""
    done: Changed = {}
    dns = new.dns if new.dns != old.dns else ()
    search = new.search if new.search != old.search else ()
    if RESOLV_CONF in files and (dns or search):
        done[RESOLV_CONF] = _resolv_conf(files[RESOLV_CONF], dns, search)
    if RESOLVED in files and (dns or search):
        done[RESOLVED] = _resolved(files[RESOLVED], dns, search)
    return done


def _resolv_conf(text: str, dns: tuple[str, ...], search: tuple[str, ...]) -> str:
    changes: dict[int, str | None] = {}
    first = last_line(text)
    for index, line in enumerate(text.split("\n")):
        word = line.split()[:1]
        if (word == ["nameserver"] and dns) or (word in (["search"], ["domain"]) and search):
            changes[index] = None
            first = min(first, index)
    lines = [f"search {' '.join(search)}"] if search else []
    return edited(text, changes, {first: lines + [f"nameserver {server}" for server in dns]})


def _resolved(text: str, dns: tuple[str, ...], search: tuple[str, ...]) -> str:
    changes: dict[int, str | None] = {}
    for entry in section_entries(text):
        if entry.section == "Resolve" and entry.key == "DNS" and dns:
            changes[entry.line] = f"DNS={' '.join(dns)}"
        elif entry.section == "Resolve" and entry.key == "Domains" and search:
            changes[entry.line] = f"Domains={' '.join(search)}"
    return edited(text, changes)
