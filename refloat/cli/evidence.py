"""Writing a job's evidence into a folder, and `refloat evidence verify`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from refloat.cli.client import Client
from refloat.cli.common import AsJson, sub_app
from refloat.cli.exits import EPILOG
from refloat.cli.output import print_json, say
from refloat.errors import Failed, Refused

app = sub_app("Evidence that was written to files.")


@app.callback()
def _group() -> None:
    """Keeps `verify` a subcommand."""


@app.command("verify", epilog=EPILOG)
def verify_file(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="evidence.json")], as_json: AsJson = False
) -> None:
    """Check that an evidence file is what was sealed; print its seal.

    The hub keeps the seals that it gave out: see the events of kind `evidence` of the job.
    """
    from refloat.evidence.chain import verify

    try:
        data = json.loads(file.read_bytes())
    except OSError as error:
        raise Refused(f"{file}: {error.strerror}", code="bad_evidence", hint="name an evidence.json")
    except ValueError as error:
        raise Refused(f"{file} is no JSON: {error}", code="bad_evidence", hint="name an evidence.json")
    seal = verify(data)
    print_json({"seal": seal, "job": data["job"]["id"]}) if as_json else say(f"unchanged; seal {seal}")


def write_evidence(client: Client, job_id: str, folder: Path) -> Path:
    """evidence.json and evidence.html in `folder`, made where there is none. Returns its full path."""
    data, page = client.evidence(job_id), client.evidence_page(job_id)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "evidence.json").write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
        (folder / "evidence.html").write_text(page, encoding="utf-8")
    except OSError as error:
        raise Failed(
            f"cannot write the evidence to {folder}: {error.strerror}",
            code="cannot_write",
            hint=f"the hub keeps it; write it elsewhere with: refloat job evidence {job_id} -o DIR",
        ) from error
    return folder.resolve()
