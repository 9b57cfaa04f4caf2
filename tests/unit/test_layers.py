"""Imports point one way, and the parts that must start fast or run in the controller stay light."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "refloat"

# From the operator's side to the ground; a module imports its own layer and those after it.
LAYERS = (
    ("cli", "web", "lab"),
    ("api",),
    (
        "hub",
        "platforms",
        "estate",
        "config",
        "standalone",
        "syncs",
        "caretaker",
        "provision",
        "doctor",
        "backup",
        "tls",
    ),
    ("jobs",),
    ("failover",),
    (
        "prepare",
        "fence",
        "readiness",
        "preview",
        "health",
        "adapt",
        "callback",
        "promote",
        "validate",
        "probes",
        "http_probe",
        "console_watch",
        "console_proofs",
        "reports",
        "remediation",
        "guest_clock",
        "windows",
        "windows_plan",
        "commit",
        "verdict",
        "decide",
        "readdress",
        "seen_network",
        "left_behind",
        "report_ways",
        "evidence",
        "notify",
    ),
    ("run", "policy", "drivers", "console_states"),
    ("console",),
    ("console_png", "console_fonts"),
    ("simulated",),
    ("access",),
    ("store", "sync", "controller", "sources", "destinations"),
    ("libvirt_connection",),
    ("guest",),
    ("model", "codec", "errors", "command", "clock", "text", "durable", "secret", "logs", "notices"),
)
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}


def imports(file: Path) -> set[str]:
    tree = ast.parse(file.read_text())
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
    return found


def modules() -> list[Path]:
    return sorted(file for file in ROOT.rglob("*.py") if "migrations" not in file.parts)


@pytest.mark.parametrize("file", modules(), ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_point_one_way(file: Path) -> None:
    part = file.relative_to(ROOT).parts[0].removesuffix(".py")
    if part in ("__init__", "__main__"):
        return
    for module in imports(file):
        names = module.split(".")
        if names[0] == "refloat" and len(names) > 1:
            assert RANK[names[1]] >= RANK[part], f"{part} imports {module}"


def test_the_records_are_one_vocabulary() -> None:
    """Which file a record is written in is nobody's business."""
    for file in modules():
        if file.relative_to(ROOT).parts[0] != "model":
            assert not {name for name in imports(file) if name.startswith("refloat.model.")}, file


@pytest.mark.parametrize("part", ["guest", "controller", "model"])
def test_the_controllers_code_needs_only_the_standard_library(part: str) -> None:
    """It runs in a small VM, where nothing else is installed. client.py and zipapp.py run in the hub."""
    for file in (ROOT / part).rglob("*.py"):
        for module in imports(file):
            top = module.split(".")[0]
            assert top in sys.stdlib_module_names or top in {"refloat", "hivex"}, f"{file}: {module}"


def test_sources_and_destinations_do_not_know_each_other() -> None:
    """A source platform can be mended or dropped without a look at any destination."""
    for part, other in (("sources", "destinations"), ("destinations", "sources")):
        for file in (ROOT / part).rglob("*.py"):
            found = [module for module in imports(file) if module.startswith(f"refloat.{other}")]
            assert not found, f"{file}: {found}"


def test_only_jobs_knows_the_engine() -> None:
    users = {
        file.relative_to(ROOT).parts[0]
        for file in modules()
        if any(m.split(".")[0] == "dbos" for m in imports(file))
    }
    assert users <= {"jobs"}
