"""The support matrix says what the rows and the tests say."""

from __future__ import annotations

from refloat.guest.families import FAMILIES
from tests import support_matrix


def test_document_is_up_to_date() -> None:
    assert support_matrix.DOCUMENT.read_text() == support_matrix.render(), "script/support-matrix --write"


def test_every_family_is_in_it_with_a_proof() -> None:
    text = support_matrix.render()
    for family in FAMILIES:
        row = next(line for line in text.splitlines() if line.startswith(f"| {family.name} |"))
        assert not row.endswith("| - | - |"), "neither booted nor tested on trees"
