"""The EFI system partition: the firmware of a new VM has no boot entries and starts the fallback loader."""

from __future__ import annotations

from dataclasses import dataclass

from refloat.errors import Refused
from refloat.guest.tree import Tree
from refloat.guest.windows import paths

LOADER_LIMIT = 16 * 1024 * 1024  # bytes; Windows' has less than three million
_MANAGER = "/ESP/EFI/Microsoft/Boot/bootmgfw.efi"
# UEFI 2.10, 3.5.1.1: the names of removable media, by the machine type of the image.
_FALLBACK = {"amd64": "bootx64.efi", "x86": "bootia32.efi", "ARM64": "bootaa64.efi"}


@dataclass(frozen=True)
class Loader:
    """A fallback loader that has to be made."""

    path: str
    content: bytes


def missing_loader(tree: Tree, architecture: str) -> Loader | None:
    """What must be put on the ESP; None where it has a fallback loader already, which is left as it is.

    Raises Refused (no_boot_loader) where there is nothing that could be put there.
    """
    fallback = f"/ESP/EFI/Boot/{_FALLBACK[architecture]}"
    if (found := paths.find(tree, fallback)) and tree.is_file(found):
        return None
    manager = paths.find(tree, _MANAGER)
    if manager is None or not tree.is_file(manager):
        raise Refused(
            "the EFI system partition has neither a fallback loader nor Windows' boot manager",
            code="no_boot_loader",
            hint="repair it at the source: bcdboot C:\\Windows /s <letter of the ESP> /f UEFI",
        )
    return Loader(paths.spelled(tree, fallback), tree.read_bytes(manager, LOADER_LIMIT))
