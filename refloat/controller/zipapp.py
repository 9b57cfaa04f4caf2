"""The controller's code as one file: deterministic, so that its hash names it.

Holds the modules of the guest engine and of the controller's commands, each as source and as bytecode
that Python takes without checking the source: compiling in the controller costs seconds under emulation.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import importlib.util
import io
import marshal
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources.abc import Traversable

_TOP = ("__init__.py", "errors.py", "command.py", "codec.py", "text.py", "clock.py", "durable.py")
_PACKAGES = ("controller", "guest", "model")
# The hub's side of refloat.controller needs nothing in the controller.
_HUB_ONLY = frozenset(
    f"refloat/controller/{name}.py" for name in ("client", "ssh", "zipapp", "records", "seed")
)
_MAIN = b"import sys\nfrom refloat.controller.main import main\nsys.exit(main())\n"
_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Code:
    """`sha256` is that of `content`, the bytes of the zip file."""

    content: bytes
    sha256: str


@cache
def controller_code() -> Code:
    """Built once per process from the installed package, wherever that lies."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in [("__main__.py", _MAIN), *sorted(_files())]:
            _add(archive, name, content)
            if name.endswith(".py"):
                # Beside the source, not in __pycache__: there zipimport finds it, and prefers it.
                _add(archive, f"{name}c", _bytecode(name, content))
    content = buffer.getvalue()
    return Code(content, hashlib.sha256(content).hexdigest())


def _files() -> Iterator[tuple[str, bytes]]:
    root = importlib.resources.files("refloat")
    for name in _TOP:
        if (root / name).is_file():
            yield f"refloat/{name}", (root / name).read_bytes()
    for package in _PACKAGES:
        yield from _walk(root / package, f"refloat/{package}")


def _walk(directory: Traversable, prefix: str) -> Iterator[tuple[str, bytes]]:
    for entry in directory.iterdir():
        name = f"{prefix}/{entry.name}"
        if entry.is_dir():
            if entry.name != "__pycache__":
                yield from _walk(entry, name)
        elif name not in _HUB_ONLY and not name.endswith(".pyc"):
            yield name, entry.read_bytes()


def _bytecode(name: str, source: bytes) -> bytes:
    """A pyc that is taken unchecked (PEP 552). Marshal's version 2 has no references between equal objects:
    which there are depends on what else the process holds, and the hash would change with it."""
    code = compile(source, name, "exec", dont_inherit=True)
    flags = (1).to_bytes(4, "little")  # hash-based, not checked against the source
    return importlib.util.MAGIC_NUMBER + flags + importlib.util.source_hash(source) + marshal.dumps(code, 2)


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.external_attr = 0o100644 << 16
    archive.writestr(entry, content)
