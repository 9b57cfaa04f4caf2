from __future__ import annotations

import json

import pytest

from refloat.codec import DecodeError, decode, encode
from refloat.model import Change, Plan, RollbackPoint, SourceVM
from tests.unit.builders import PLAN, SOURCE


def test_records_survive_json() -> None:
    assert decode(Plan, json.loads(json.dumps(encode(PLAN)))) == PLAN


def test_tuples_of_records_are_records_too() -> None:
    points = (RollbackPoint("s", "/base", "/overlay", "1", 0),)
    assert decode(tuple[RollbackPoint, ...], json.loads(json.dumps(encode(points)))) == points


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cpus": "two"}, "SourceVM.cpus: expected int"),
        ({"cpus": True}, "SourceVM.cpus: expected int"),
        ({"firmware": "coreboot"}, "SourceVM.firmware"),
        ({"extra": 1}, "unknown field 'extra'"),
        ({"disks": {}}, "SourceVM.disks: expected a list"),
        ({"disks": [1]}, r"SourceVM.disks\[0\]: expected an object"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(change: dict[str, object], words: str) -> None:
    with pytest.raises(DecodeError, match=words):
        decode(SourceVM, {**encode(SOURCE), **change})


def test_a_missing_field_is_named() -> None:
    with pytest.raises(DecodeError, match="'seq' is missing"):
        decode(Change, {"path": "/etc/fstab"})
