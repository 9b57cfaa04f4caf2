"""crypttab(5): which container becomes which device, and names that follow the bus made into UUIDs."""

from __future__ import annotations

import re
from dataclasses import dataclass

from refloat.guest.linux.edits import Edit, Rewritten
from refloat.guest.linux.storage.names import DeviceNames, bound, is_kernel_name

CRYPTTAB = "/etc/crypttab"

_FIELD = re.compile(r"[^ \t]+")
_QUIET_OPTIONS = frozenset({"noauto", "nofail"})
_TOKENS = ("tpm2-device=", "fido2-device=", "pkcs11-uri=")


@dataclass(frozen=True)
class CryptEntry:
    """One line of crypttab(5): `name` below /dev/mapper, `spec` the container."""

    line: int
    name: str
    spec: str
    key: str
    options: frozenset[str]


def parse_crypttab(text: str) -> tuple[CryptEntry, ...]:
    entries = []
    for number, line in enumerate(text.split("\n"), 1):
        fields = _FIELD.findall(line.rstrip("\r"))
        if len(fields) < 2 or fields[0].startswith("#"):
            continue
        key, options = (*fields[2:4], "", "")[:2]
        entries.append(CryptEntry(number, fields[0], fields[1], key, frozenset(options.split(","))))
    return tuple(entries)


def rewrite_crypttab(text: str, names: DeviceNames, path: str = CRYPTTAB) -> Rewritten:
    """The containers' names; key files and options stay as they are."""
    lines, edits = text.split("\n"), []
    problems: list[str] = []
    warnings: list[str] = []
    for entry in parse_crypttab(text):
        where = f"{path}:{entry.line}"
        complaints = warnings if entry.options & _QUIET_OPTIONS else problems
        complaints += [f"{where}: {reason}" for reason in _other_devices(entry)]
        try:
            new = _stable(entry, names)
        except LookupError as error:
            complaints.append(f"{where}: {error}")
            continue
        if new is not None:
            line = lines[entry.line - 1]
            second = [match.span() for match in _FIELD.finditer(line)][1]
            lines[entry.line - 1] = f"{line[: second[0]]}{new}{line[second[1] :]}"
            edits.append(Edit(entry.line, entry.spec, new))
    return Rewritten("\n".join(lines), tuple(edits), tuple(problems), tuple(warnings))


def unlock_warnings(text: str, path: str = CRYPTTAB) -> tuple[str, ...]:
    """What each boot needs besides the disks to open a container: not there in the recovered VM by itself."""
    found = []
    for entry in parse_crypttab(text):
        token = next((one for one in sorted(entry.options) if one.startswith(_TOKENS)), "")
        if token:
            found.append(f"{path}:{entry.line}: {entry.name} is unlocked by {token}, which is not replicated")
        elif entry.key in ("", "-", "none") and not _unattended(entry):
            found.append(
                f"{path}:{entry.line}: {entry.name} asks for its passphrase on the console at each boot"
            )
    return tuple(found)


def _unattended(entry: CryptEntry) -> bool:
    options = {one.partition("=")[0] for one in entry.options}
    return bool(options & {*_QUIET_OPTIONS, "keyscript"})


def _stable(entry: CryptEntry, names: DeviceNames) -> str | None:
    """A container with a header is known by its UUID. Without one (a swap area with a new key at each boot)
    the whole partition is overwritten, so that only the partition table can tell which one it is."""
    if not is_kernel_name(entry.spec) and not bound(entry.spec):
        return None
    found = names.find(entry.spec)
    if found is None or found.kind == "crypto_LUKS":
        return names.stable(entry.spec)
    try:
        return names.partition(entry.spec)
    except LookupError:
        raise LookupError(f"{entry.spec} is encrypted without LUKS, and its partition has no PARTUUID")


def _other_devices(entry: CryptEntry) -> list[str]:
    """A key or a header that is read from a device: not what is encrypted, but the guest needs it, too."""
    values = [entry.key, entry.key.partition(":")[0], entry.key.partition(":")[2]]
    values += [one.partition("=")[2] for one in entry.options if one.startswith("header=")]
    return [
        f"{value} is read while unlocking and is named by the bus"
        for value in dict.fromkeys(values)
        if is_kernel_name(value) or bound(value)
    ]
