"""The chain over a bundle: each part's hash is over the part and the hash before it; the last is the seal.

Whoever changes, removes, adds or reorders a part changes every hash after it. The chain is no signature: who
can rewrite the whole file can make a new one. So the hub keeps the seal of each bundle that it gave out, and
the operator can note it elsewhere.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from refloat.errors import Refused

CHAIN, SEAL = "chain", "seal"
_START = "refloat-evidence"


def sealed(bundle: dict[str, Any]) -> dict[str, Any]:
    """The same bundle with its chain and seal."""
    links = _links(bundle)
    return {**bundle, CHAIN: links, SEAL: links[-1]["sha256"]}


def verify(bundle: Any) -> str:
    """The seal. Raises Refused (evidence_changed) naming the first part that is not what was sealed."""
    if not isinstance(bundle, dict) or not isinstance(bundle.get(CHAIN), list) or SEAL not in bundle:
        raise Refused(
            "this is no sealed evidence of Refloat",
            code="bad_evidence",
            hint="give the evidence.json that `refloat job evidence JOB` wrote",
        )
    parts = {name: value for name, value in bundle.items() if name not in (CHAIN, SEAL)}
    found, said = _links(parts), bundle[CHAIN]
    for have, should in zip(found, said, strict=False):
        if have != should:
            name = should.get("part") if isinstance(should, dict) else "?"
            raise _changed(f"from the part {name!r} on it is not what was sealed")
    if len(found) != len(said):
        raise _changed(f"it has {len(found)} parts, {len(said)} were sealed")
    if not found or bundle[SEAL] != found[-1]["sha256"]:
        raise _changed("its seal is another one")
    return str(bundle[SEAL])


def _links(parts: dict[str, Any]) -> list[dict[str, str]]:
    before, links = _START, []
    for name, value in parts.items():
        # Sorted and without spaces: the same data has one form, whoever wrote the file.
        text = json.dumps([before, name, value], sort_keys=True, separators=(",", ":"))
        before = hashlib.sha256(text.encode()).hexdigest()
        links.append({"part": name, "sha256": before})
    return links


def _changed(how: str) -> Refused:
    return Refused(
        f"this evidence was changed after it was written: {how}",
        code="evidence_changed",
        hint="ask the hub for it again with `refloat job evidence JOB`",
    )
