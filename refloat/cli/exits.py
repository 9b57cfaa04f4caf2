"""Exit codes: what a script can rely on. docs/cli.md says the same in words."""

from __future__ import annotations

from typing import Any

from refloat.errors import RefloatError, Refused

OK = 0
FAILED = 1
USAGE = 2
REFUSED = 3
PARTIAL = 4
NOT_SUCCEEDED = 5
UNREACHABLE = 6
INTERRUPTED = 130

EPILOG = """
\b
Exit codes:
  0  done; with --watch and for `job watch`: the verdict is succeeded,
     or the job reached the state that was asked for
  1  an error, or something failed
  2  wrong usage or settings
  3  refused or busy: nothing was changed
  4  the verdict is partial
  5  the verdict is failed, or the job was rolled back or is blocked
  6  the hub cannot be reached
  130  watching was ended with Ctrl-C; the job goes on
"""

_VERDICTS = {"succeeded": OK, "partial": PARTIAL, "failed": NOT_SUCCEEDED}
_USAGE_CODES = ("bad_",)


class HubUnreachable(RefloatError):
    """No answer, or no connection at all."""

    default_code = "hub_unreachable"


def of_error(error: RefloatError) -> int:
    if isinstance(error, HubUnreachable):
        return UNREACHABLE
    if error.code.startswith(_USAGE_CODES):
        return USAGE
    return REFUSED if isinstance(error, Refused) else FAILED


def of_job(job: dict[str, Any]) -> int:
    """The code for a job at rest, as JobDetail tells it."""
    state = job["state"]
    if state == "refused":
        return REFUSED
    if state in ("rolled_back", "blocked"):
        return NOT_SUCCEEDED
    verdict = job.get("verdict")
    return _VERDICTS.get(verdict["word"], FAILED) if verdict else FAILED


def of_request(job: dict[str, Any], asked: frozenset[str]) -> int:
    """The code for a job that was asked to reach one of these states."""
    if job["state"] in asked:
        return OK
    return NOT_SUCCEEDED if job["state"] == "blocked" else FAILED
