"""A bundle that was changed anywhere is told from the one that was sealed."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from refloat.cli.main import app
from refloat.errors import Refused
from refloat.evidence.chain import sealed, verify

PARTS: dict[str, Any] = {"job": {"id": "web-1"}, "verdict": {"word": "failed"}, "steps": [1, 2]}


def test_what_was_sealed_is_verified_also_after_a_file() -> None:
    bundle = sealed(PARTS)
    assert verify(bundle) == bundle["seal"] == verify(json.loads(json.dumps(bundle, indent=2)))


@pytest.mark.parametrize("part", [*PARTS, "seal", "chain"])
def test_no_part_can_be_changed(part: str) -> None:
    bundle = copy.deepcopy(sealed(PARTS))
    bundle[part] = "another"
    with pytest.raises(Refused) as caught:
        verify(bundle)
    assert caught.value.code in ("evidence_changed", "bad_evidence")


def test_no_part_can_be_removed_added_or_moved() -> None:
    whole = sealed(PARTS)
    without = {name: value for name, value in whole.items() if name != "steps"}
    moved = {name: whole[name] for name in ("steps", "job", "verdict", "chain", "seal")}
    for bundle in (without, moved, {"extra": 1, **whole}, {**PARTS, "extra": 1, **whole}):
        with pytest.raises(Refused):
            verify(bundle)


@pytest.mark.parametrize(
    "data", [None, [], {}, {"chain": [], "seal": ""}, {"chain": [None], "seal": 1, "a": 1}]
)
def test_what_is_no_evidence_is_refused(data: Any) -> None:
    with pytest.raises(Refused):
        verify(data)


def test_the_command(tmp_path: Path) -> None:
    file = tmp_path / "evidence.json"
    file.write_text(json.dumps(sealed(PARTS)))
    done = CliRunner().invoke(app, ["evidence", "verify", str(file)])
    assert done.exit_code == 0 and sealed(PARTS)["seal"] in done.stdout
    file.write_text(file.read_text().replace("failed", "succeeded"))
    done = CliRunner().invoke(app, ["evidence", "verify", str(file)])
    assert done.exit_code == 3 and "'verdict'" in done.output
    assert CliRunner().invoke(app, ["evidence", "verify", str(tmp_path / "none")]).exit_code == 2
