"""--help answers at once: nothing heavy is imported before a command needs it."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
CPU_LIMIT = 0.4  # seconds, the aim of the project

# Typer itself takes a part of pydantic to read options: that is within the limit.
HEAVY = {
    *("httpx", "yaml", "sqlalchemy", "alembic", "dbos", "fastapi", "starlette", "uvicorn"),
    *("jinja2", "libvirt", "nbd", "rich", "asyncio"),
}

PAGES = [
    [],
    *(["serve"], ["version"]),
    *(["target"], ["target", "list"], ["target", "show"], ["target", "sync"]),
    *(["failover"], ["failover", "start"]),
    ["job"],
    *(
        ["job", name]
        for name in ("list", "show", "watch", "commit", "rollback", "abort", "resume", "evidence")
    ),
]

PROGRAM = """
import sys
from refloat.cli.main import main
sys.argv = ["refloat", *sys.argv[1:], "--help"]
try:
    main()
finally:
    print("MODULES", *sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr)
"""


def run_help(args: list[str]) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *args],
        cwd=ROOT,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


def child_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize("page", [[], ["failover", "start"], ["lab"]])
def test_help_is_quick(page: list[str]) -> None:
    """The best of three: the machine may be busy, the code is the same."""
    spent = []
    for _ in range(3):
        before = child_cpu()
        run_help(page)
        spent.append(child_cpu() - before)
    assert min(spent) < CPU_LIMIT, f"{min(spent):.2f} s of CPU"


@pytest.mark.parametrize("page", [[], ["failover", "start"], ["job", "rollback"], ["serve"]])
def test_help_imports_nothing_heavy(page: list[str]) -> None:
    modules = set(run_help(page).stderr.split("MODULES")[-1].split())
    assert not modules & HEAVY


@pytest.mark.parametrize("page", PAGES, ids=" ".join)
def test_every_page_has_a_text(page: list[str]) -> None:
    from typer.testing import CliRunner

    from refloat.cli.main import app

    result = CliRunner().invoke(app, [*page, "--help"])
    assert result.exit_code == 0 and "Usage:" in result.stdout


def test_exit_codes_are_in_the_help_and_in_the_docs() -> None:
    text = run_help([]).stdout
    documented = (ROOT / "docs" / "cli.md").read_text()
    for code in ("0", "1", "2", "3", "4", "5", "6", "130"):
        assert f"\n    {code}  " in text
        assert f"| {code} |" in documented
