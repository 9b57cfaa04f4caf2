"""The evidence of a standalone adaptation: a directory that `undo` works from.

evidence.json   what was done to which images, and the marks by which it shows whether the guest ran since
run/            the engine's own: journal.jsonl, backups/, facts.json
secrets.json    the token and nonce of the guest's reports, for whoever reads them
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from refloat.codec import DecodeError, decode, encode
from refloat.durable import write_durably
from refloat.errors import Refused
from refloat.guest.boundary import LINUX, Boundary
from refloat.guest.journal import Journal, has_begun
from refloat.guest.tree import Tree
from refloat.model import Adaptation, AdaptRequest, Secrets

FORMAT = 1


class State(StrEnum):
    ADAPTING = "adapting"  # and so it stays when it was killed
    ADAPTED = "adapted"
    UNDOING = "undoing"  # as ADAPTING
    UNDONE = "undone"


@dataclass(frozen=True)
class ImageRecord:
    path: str
    format: str
    capacity: int


@dataclass(frozen=True)
class Record:
    """By filesystem UUID, `marks`: generation() when the adaptation was done; `mounts`: mounts() when Refloat
    was about to mount it for writing, the last time."""

    format: int
    state: State
    images: tuple[ImageRecord, ...]
    request: AdaptRequest
    marks: dict[str, str] = field(default_factory=dict)
    mounts: dict[str, str] = field(default_factory=dict)
    adaptation: Adaptation | None = None


@dataclass(frozen=True)
class Evidence:
    directory: Path

    @property
    def run_dir(self) -> Path:
        path = self.directory / "run"
        path.mkdir(parents=True, exist_ok=True)
        return path

    @property
    def begun(self) -> bool:
        """Whether the guest may have been changed."""
        return has_begun(self.directory / "run")

    def load(self) -> Record | None:
        """What the directory tells; None where it is new. Raises Refused where it is something else."""
        file = self.directory / "evidence.json"
        if not file.exists():
            if self.directory.exists() and any(self.directory.iterdir()):
                raise Refused(
                    f"{self.directory} is not empty, and holds no evidence of Refloat",
                    code="bad_evidence",
                    hint="name a new directory",
                )
            return None
        try:
            record = decode(Record, json.loads(file.read_bytes()))
            secrets = decode(Secrets, json.loads((self.directory / "secrets.json").read_bytes()))
        except (OSError, ValueError, DecodeError) as error:
            raise Refused(f"{file} cannot be read: {error}", code="bad_evidence") from error
        if record.format != FORMAT:
            raise Refused(
                f"{file} has format {record.format}, this version reads {FORMAT}", code="bad_evidence"
            )
        return replace(record, request=replace(record.request, secrets=secrets))

    def save(self, record: Record) -> None:
        """Secrets stand in a file of their own, which nobody else may read; passphrases stand nowhere."""
        self.directory.mkdir(parents=True, exist_ok=True)
        os.chmod(self.directory, 0o700)
        write_durably(self.directory / "secrets.json", _json(encode(record.request.secrets)))
        shown = replace(record.request, secrets=Secrets("", ""), luks_keys={})
        write_durably(self.directory / "evidence.json", _json(encode(replace(record, request=shown))))

    def journal(self, tree: Tree, boundary: Boundary = LINUX) -> Journal:
        return Journal(self.run_dir, tree, boundary)


def _json(data: object) -> bytes:
    return (json.dumps(data, indent=2) + "\n").encode()
