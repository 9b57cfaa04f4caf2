"""A job's evidence as data: every record that the job left, read from the store; nothing is computed anew."""

from __future__ import annotations

import base64
import hashlib
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from refloat import __version__
from refloat.clock import now
from refloat.codec import DecodeError, encode
from refloat.errors import Refused
from refloat.evidence.chain import sealed
from refloat.evidence.windows import UNPROVEN
from refloat.model import (
    Adaptation,
    Fence,
    Findings,
    GuestFacts,
    GuestReport,
    Hardware,
    OperatorDecision,
    Plan,
    RollbackPoint,
    Secrets,
    SourceVM,
    StatusChange,
    SyncPoint,
    Verdict,
)
from refloat.policy import Policy
from refloat.store.store import Store

log = logging.getLogger(__name__)

FORMAT = "refloat-evidence/1"

LIMITS = (
    "This report does not prove application health: it covers the boot, disks, network, drivers and "
    "management agents of the recovered VM, not whether the applications in it work or their data is "
    "consistent."
)

# Record names in the store and their types. `secrets` is not among them: it is never shown.
RECORDS: dict[str, Any] = {
    "inventory": SourceVM,
    "sync_point": SyncPoint,
    "facts": GuestFacts,
    "plan": Plan,
    "hardware": Hardware,
    "rollback_points": tuple[RollbackPoint, ...],
    "adaptation": Adaptation,
    "promoted": Hardware,
    "findings": Findings,
    "reports": tuple[GuestReport, ...],
    "remediation": tuple[StatusChange, ...],
    "verdict": Verdict,
    "decisions": tuple[OperatorDecision, ...],
    "policy": Policy,
    "fence": Fence,
}

# Their absence says nothing: most jobs end without an operator's word.
_OPTIONAL = frozenset({"decisions", "fence"})

_PNG = b"\x89PNG\r\n\x1a\n"
_LARGEST_SCREENSHOT = 4 * 2**20  # bytes; a text console is some 10 KiB
_MOST_SCREENSHOTS = 60
_EVENT_PAGES = 200


def bundle(store: Store, job_id: str, data_dir: Path) -> dict[str, Any]:
    """Everything that the job left, JSON-ready. A job refused early leaves little: `missing` says what.

    The token and the nonce of the guest's reports are in no record that is read here; should a diff
    or a message quote them nevertheless, they are replaced. Raises NotFound for an unknown job.
    """
    job = store.job(job_id)
    records, unreadable = _records(store, job_id)
    shots, skipped = _screenshots(data_dir / "jobs" / job_id / "screens")
    found = {
        "format": FORMAT,
        "refloat": __version__,
        "generated": now(),
        "limits": LIMITS,
        "unproven": list(UNPROVEN) if (records["facts"] or {}).get("windows") else [],
        "job": encode(job),
        "decision": (records["plan"] or {}).get("decision"),
        **records,
        "steps": encode(store.steps(job_id)),
        "states": list(_states(store, job_id)),
        "screenshots": shots,
        "missing": sorted(name for name, value in records.items() if value is None and name not in _OPTIONAL),
        "problems": [*unreadable, *skipped],
    }
    redacted: dict[str, Any] = _redact(found, _secret_values(store, job_id))
    return sealed(redacted)


def shown_record(store: Store, job_id: str, name: str) -> Any:
    """One record as it is in the bundle; None where the job left none."""
    record = store.load(job_id, name, RECORDS[name])
    return _redact(encode(record), _secret_values(store, job_id))


def _records(store: Store, job_id: str) -> tuple[dict[str, Any], list[str]]:
    records: dict[str, Any] = {}
    unreadable = []
    for name, kind in RECORDS.items():
        try:
            records[name] = encode(store.load(job_id, name, kind))
        except DecodeError as error:  # another version wrote it: the rest is still evidence
            records[name] = None
            unreadable.append(f"record {name} cannot be read: {error}")
    return records, unreadable


def _states(store: Store, job_id: str) -> Iterator[dict[str, str]]:
    after = 0
    for _ in range(_EVENT_PAGES):
        events = store.events(job_id, after)
        if not events:
            return
        after = events[-1].id
        for event in events:
            if event.kind == "state":
                yield {"at": event.at, "state": str(event.data.get("state", ""))}


def _screenshots(folder: Path) -> tuple[list[dict[str, Any]], list[str]]:
    shots: list[dict[str, Any]] = []
    skipped: list[str] = []
    files = sorted(folder.glob("*.png"), key=lambda file: (file.lstat().st_mtime, file.name))
    surplus = len(files) - _MOST_SCREENSHOTS
    if surplus > 0:
        skipped.append(f"the {surplus} oldest of {len(files)} screenshots are left out")
    for file in files[-_MOST_SCREENSHOTS:]:
        if file.is_symlink() or file.stat().st_size > _LARGEST_SCREENSHOT:
            skipped.append(f"screenshot {file.name} is left out: not a plain file of at most 4 MiB")
            continue
        content = file.read_bytes()
        if not content.startswith(_PNG):
            skipped.append(f"screenshot {file.name} is left out: not a PNG")
            continue
        shots.append(_shot(file, content))
    return shots, skipped


def _shot(file: Path, content: bytes) -> dict[str, Any]:
    """`NNN-LABEL.png`; taken when the file was written."""
    number, _, label = file.stem.partition("-")
    taken = datetime.fromtimestamp(file.stat().st_mtime, UTC).isoformat(timespec="milliseconds")
    return {
        "file": file.name,
        "label": label or number,
        "at": taken,
        "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "png": base64.b64encode(content).decode("ascii"),
    }


def _secret_values(store: Store, job_id: str) -> tuple[str, ...]:
    try:
        secrets = store.load(job_id, "secrets", Secrets)
    except (DecodeError, Refused):
        log.error("job %s: the secrets record cannot be read, so nothing can be redacted by value", job_id)
        return ()
    return tuple(filter(None, (secrets.token, secrets.nonce))) if secrets else ()


def _redact(value: Any, secrets: tuple[str, ...]) -> Any:
    if isinstance(value, str):
        for secret in secrets:
            value = value.replace(secret, "[secret]")
        return value
    if isinstance(value, dict):
        return {_redact(key, secrets): _redact(item, secrets) for key, item in value.items()}
    if isinstance(value, list):
        return [_redact(item, secrets) for item in value]
    return value
