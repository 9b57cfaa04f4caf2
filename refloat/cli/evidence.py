"""Writing a job's evidence into a folder."""

from __future__ import annotations

import json
from pathlib import Path

from refloat.cli.client import Client
from refloat.errors import Failed


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
