"""The document's examples are such as the hub would take and give; its codes are those of the hub."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

import refloat
from refloat.api.app import ROUTERS, create_app
from refloat.api.examples import CODES, EXAMPLES
from tests.unit.api.fake_hub import TOKEN, FakeHub

DOCUMENT = create_app(FakeHub().hub, TOKEN).openapi()
SOURCE = Path(refloat.__file__).parent
NAMED = re.compile(r"#/components/schemas/(\w+)")


def schemas_of(path: str, method: str) -> Iterator[str]:
    """The names of all schemas that an operation takes or gives."""
    one = DOCUMENT["paths"][path][method]
    for part in (one.get("requestBody", {}), *one["responses"].values()):
        for content in part.get("content", {}).values():
            yield from NAMED.findall(str(content.get("schema")))


@pytest.mark.parametrize(
    ("path", "method"), [(path, method) for path, item in DOCUMENT["paths"].items() for method in item]
)
def test_every_operation_has_examples(path: str, method: str) -> None:
    names = set(schemas_of(path, method))
    assert names or "/health" in path, "not even its errors have a schema"
    assert not {name for name in names if "examples" not in DOCUMENT["components"]["schemas"][name]}
    assert DOCUMENT["paths"][path][method]["summary"]


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_each_example_fits_its_schema(name: str) -> None:
    (example,) = DOCUMENT["components"]["schemas"][name]["examples"]
    schema: dict[str, Any] = {
        "$ref": f"#/components/schemas/{name}",
        "components": DOCUMENT["components"],
    }
    check = jsonschema_rs.Draft202012Validator(schema)
    check.validate(example)
    with pytest.raises(jsonschema_rs.ValidationError):
        check.validate([])


def test_an_example_shows_every_field() -> None:
    """What a client reads in an answer is in its example: none is left to guess."""
    for name, example in EXAMPLES.items():
        schema = DOCUMENT["components"]["schemas"][name]
        if name.endswith("Out") or name in ("JobDetail", "AuditPage", "Problem"):
            assert set(example) == set(schema["properties"]), name


def test_the_codes_are_the_hubs() -> None:
    text = "".join(file.read_text() for file in SOURCE.rglob("*.py") if file.name != "examples.py")
    # Of an unknown thing the code is put together from what it is.
    made = {code for code in CODES if f'"{code}"' not in text}
    assert made <= {"unknown_target", "unknown_job"}, made
    for code in CODES:
        assert f"`{code}`" in DOCUMENT["info"]["description"]


def test_every_router_is_in_the_document() -> None:
    assert {route.path for router in ROUTERS for route in router.routes} <= set(DOCUMENT["paths"])  # type: ignore[attr-defined]
