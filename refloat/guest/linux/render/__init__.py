"""What becomes of a guest's network files: pure functions, texts in and texts out.

Only the first boot knows what an adapter is called on the new hardware (ens192 becomes ens4 or enp0s3):
the files get a placeholder where its name belongs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from refloat.guest.linux.render.types import PLACEHOLDER, Rendered, RenderedFile, placeholder
from refloat.model import NicConfig

__all__ = ("PLACEHOLDER", "Rendered", "RenderedFile", "new_file", "placeholder", "render", "verify")


def render(stack: str, files: Mapping[str, str], plan: Sequence[Rendered]) -> tuple[RenderedFile, ...]:
    """The files that change for this plan; `stack` and `files` come from network.look() and .files().

    The result is parsed again and compared with what was intended (verify). Raises Refused for what
    cannot be mapped, Failed where the result does not say what was intended.
    """
    raise NotImplementedError


def verify(
    stack: str, files: Mapping[str, str], done: Sequence[RenderedFile], plan: Sequence[Rendered]
) -> None:
    """Parses `files` with the changes `done` and compares with the plan. Raises Failed."""
    raise NotImplementedError


def new_file(stack: str, config: NicConfig, name: str) -> RenderedFile:
    """A complete configuration for a guest whose files say nothing about the adapter.

    `name` is the adapter's placeholder. The file is called refloat-* as far as the stack allows.
    """
    raise NotImplementedError
