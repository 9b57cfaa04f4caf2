"""The guest's reports: from untrusted bytes to records, and the reporting step.

A report proves its origin (the job's token and nonce, which only this adapted guest has) and its order, over
as many boots as a remediation may take. What it says is a claim: see verdict.py.
"""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from refloat.clock import now
from refloat.errors import RefloatError
from refloat.model import (
    FileReport,
    GuestReport,
    LinkReport,
    MountReport,
    NicReport,
    Remediation,
    Secrets,
    StageReport,
)

REPORT_LIMIT = 64 * 1024  # bytes of one line; a real one has about 2 KiB
TEXT_LIMIT = 256  # characters of one field
LIST_LIMIT = 256
VERSION = 1
STAGES = ("configured", "final")
MOST_REBOOTS = 3  # that a remediation may ask for
MOST_BOOTS = 7  # of one remediation: with as many restarts that nobody asked for
# What a guest may say of itself: `not_required` is for guests in which nothing runs.
_STATUSES = frozenset(Remediation) - {Remediation.NOT_REQUIRED}


_COUNTED_BOOT = re.compile(r"boot-\d{1,9}(?=-|$)")


class ReportRejected(RefloatError):
    default_code = "report_rejected"


class Lines:
    """Splits a byte stream into lines of at most `REPORT_LIMIT`; a longer one is dropped whole.

    Blank lines say nothing: the guest begins with one, to end what an interrupted write left. Windows ends
    its lines with CR LF.
    """

    def __init__(self) -> None:
        self._buffer = b""
        self._skipping = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        self._buffer += data
        while True:
            line, newline, rest = self._buffer.partition(b"\n")
            if not newline:
                break
            self._buffer = rest
            if line.strip() and not self._skipping and len(line) <= REPORT_LIMIT:
                yield line
            self._skipping = False
        if len(self._buffer) > REPORT_LIMIT:
            self._buffer, self._skipping = b"", True


def parse_report(line: bytes, job: str, secrets: Secrets, last: GuestReport | None) -> GuestReport:
    """The record of one line. Raises ReportRejected with the reason; nothing of a rejected report is kept.

    `last` is the last accepted report: a sequence number that does not rise is a repetition or a replay.
    """
    data = _object(line)
    _check_origin(data, job, secrets)
    sequence = _integer(data, "seq")
    if last is not None and sequence <= last.sequence:
        raise ReportRejected(
            f"sequence {sequence} does not rise above {last.sequence}", code="report_replayed"
        )
    status, stage = _status(data), _text(data, "stage")
    if status is None and stage not in STAGES:
        raise ReportRejected(f"unknown stage {stage!r}")
    return GuestReport(
        sequence=sequence,
        boot_id=_boot_id(data),
        stage=stage,
        status=status,
        reboots=_count(data, "reboots", MOST_REBOOTS),
        stages=tuple(_stage(item) for item in _items(data, "stages")),
        uptime=_seconds(data, "uptime"),
        received=now(),
        root_device=_text(data, "root_device"),
        kernel=_text(data, "kernel"),
        system_state=_text(data, "system_state"),
        mounts=tuple(_mount(item) for item in _items(data, "mounts")),
        nics=tuple(_nic(item) for item in _items(data, "nics")),
        gateway=_text(data, "gateway"),
        gateway_answers=_flag(data, "gateway_answers"),
        dns=_texts(data, "dns"),
        drivers=_texts(data, "drivers"),
        problems=_texts(data, "problems"),
        cleaned=_flag(data, "cleaned"),
        gateway6=_text(data, "gateway6"),
        gateway6_answers=_flag(data, "gateway6_answers"),
        search=_texts(data, "search"),
        clock=None if data.get("clock") is None else _seconds(data, "clock"),
        links=tuple(_link(item) for item in _items(data, "links")),
        changes=tuple(_file(item) for item in _items(data, "changes")),
    )


def check_boot(report: GuestReport, known: Sequence[GuestReport]) -> None:
    """Raises ReportRejected for a report with a status from an earlier boot, or from one too many."""
    boots = [one.boot_id for one in known]
    if report.status is None or not boots or report.boot_id == boots[-1]:
        return
    if report.boot_id in boots:
        raise ReportRejected(f"boot {report.boot_id} is over", code="report_other_boot")
    if len(set(boots)) >= MOST_BOOTS:
        raise ReportRejected(f"more than {MOST_BOOTS} boots", code="report_other_boot")


def sequence_of(line: bytes) -> int | None:
    """The sequence number a line claims, for the acknowledgement of a repetition."""
    try:
        return _integer(_object(line), "seq")
    except ReportRejected:
        return None


def _object(line: bytes) -> dict[str, Any]:
    try:
        data = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ReportRejected("not JSON") from error
    if not isinstance(data, dict) or data.get("v") != VERSION:
        raise ReportRejected("not a report of version 1")
    return data


def _check_origin(data: dict[str, Any], job: str, secrets: Secrets) -> None:
    if data.get("job") != job:
        raise ReportRejected("from another job", code="report_foreign")
    for name, wanted in (("token", secrets.token), ("nonce", secrets.nonce)):
        given = data.get(name)
        if not isinstance(given, str) or not hmac.compare_digest(_bytes(given), _bytes(wanted)):
            raise ReportRejected(f"wrong {name}", code="report_forged")


def _bytes(text: str) -> bytes:
    """JSON can say lone surrogates; they are no reason to stop listening."""
    return text.encode("utf-8", "surrogatepass")


def _text(data: dict[str, Any], name: str) -> str:
    value = data.get(name, "")
    if not isinstance(value, str) or len(value) > TEXT_LIMIT:
        raise ReportRejected(f"{name} is no text of at most {TEXT_LIMIT} characters")
    return "".join(character for character in value if character.isprintable())


def _integer(data: dict[str, Any], name: str) -> int:
    value = data.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**53:
        raise ReportRejected(f"{name} is no whole number")
    return value


def _boot_id(data: dict[str, Any]) -> str:
    """A launcher counts its boots. What else it says of one moves with the guest's clock, which may be set
    right in the middle of it: the count alone names the boot."""
    said = _text(data, "boot_id")
    counted = _COUNTED_BOOT.match(said)
    return counted.group() if counted else said


def _count(data: dict[str, Any], name: str, most: int) -> int:
    """A small number that may be absent."""
    value = _integer({name: data.get(name, 0)}, name)
    if value > most:
        raise ReportRejected(f"{name} is more than {most}")
    return value


def _status(data: dict[str, Any]) -> Remediation | None:
    said = data.get("status")
    if said is None:
        return None
    if not isinstance(said, str) or said not in _STATUSES:
        raise ReportRejected("unknown status")
    return Remediation(said)


def _seconds(data: dict[str, Any], name: str) -> float:
    value = data.get(name)
    # Compared first: a whole number can be too large for a float.
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 2**53:
        raise ReportRejected(f"{name} is no number")
    return float(value)


def _flag(data: dict[str, Any], name: str) -> bool:
    value = data.get(name, False)
    if not isinstance(value, bool):
        raise ReportRejected(f"{name} is neither true nor false")
    return value


def _items(data: dict[str, Any], name: str) -> list[Any]:
    value = data.get(name, [])
    if not isinstance(value, list) or len(value) > LIST_LIMIT:
        raise ReportRejected(f"{name} is no list of at most {LIST_LIMIT} entries")
    return value


def _texts(data: dict[str, Any], name: str) -> tuple[str, ...]:
    return tuple(_text({name: item}, name) for item in _items(data, name))


def _record(item: Any) -> dict[str, Any]:
    if not isinstance(item, dict):
        raise ReportRejected("a list entry is no object")
    return item


def _mount(item: Any) -> MountReport:
    data = _record(item)
    return MountReport(_text(data, "mountpoint"), _flag(data, "mounted"), _text(data, "device"))


def _nic(item: Any) -> NicReport:
    data = _record(item)
    return NicReport(
        mac=_text(data, "mac").lower(),
        name=_text(data, "name"),
        up=_flag(data, "up"),
        addresses=_texts(data, "addresses"),
        driver=_text(data, "driver"),
    )


def _link(item: Any) -> LinkReport:
    data = _record(item)
    return LinkReport(_text(data, "name"), _flag(data, "up"), _texts(data, "addresses"))


def _file(item: Any) -> FileReport:
    data = _record(item)
    return FileReport(_text(data, "path"), _text(data, "before"), _text(data, "after"))


def _stage(item: Any) -> StageReport:
    data = _record(item)
    return StageReport(
        _text(data, "name"),
        _text(data, "state"),
        _flag(data, "required"),
        _count(data, "attempts", LIST_LIMIT),
        _text(data, "text"),
    )
