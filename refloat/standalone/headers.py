"""What an image's first bytes say of other files, before any other program follows it there.

Sources: QEMU docs/interop/qcow2.txt; VMware Virtual Disk Format 5.0, and block/vmdk.c for what QEMU takes for
a descriptor (any text with extents, and a sparse file without a capacity that holds such a text).
"""

from __future__ import annotations

import re
import struct
from pathlib import Path

from refloat.errors import Refused

_LIMIT = 1 << 20  # QEMU reads no more of a descriptor
_QCOW2_DATA_FILE = 1 << 2  # of the incompatible features
# RW 2048 FLAT "name" 0: all that stands in quotes behind a word and a blank. Settings have a "=" there.
_EXTENT = re.compile(rb'\w\s+"([^"\r\n]*)')


def extents(path: Path) -> tuple[Path, ...]:
    """The files that an image's descriptor names, as it names them; there may be none of that name.

    Raises Refused for an image whose header says that its data is elsewhere.
    """
    try:
        with path.open("rb") as handle:
            head = handle.read(_LIMIT)
    except OSError as error:
        raise Refused(f"{path}: {error.strerror}", code="bad_image") from error
    if head.startswith(b"QFI\xfb") and len(head) >= 80:
        (version,), (features,) = struct.unpack_from(">I", head, 4), struct.unpack_from(">Q", head, 72)
        if version >= 3 and features & _QCOW2_DATA_FILE:
            raise _elsewhere(path)
    elif head.startswith(b"KDMV") and len(head) >= 20:
        (capacity,) = struct.unpack_from("<Q", head, 12)
        if not capacity:
            raise _elsewhere(path)
    elif head[:1] and head[:1] in b"#v \t\r\n":
        return tuple(Path(name.decode("utf-8", "surrogateescape")) for name in _EXTENT.findall(head))
    return ()


def _elsewhere(path: Path) -> Refused:
    return Refused(
        f"{path} keeps its data in another file",
        code="bad_image",
        hint="convert it with `qemu-img convert -O qcow2` where it comes from",
    )
