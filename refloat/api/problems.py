"""Errors as the API tells them: always {code, message, hint}, never a traceback."""

from __future__ import annotations

import logging
import secrets

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import OperationalError
from starlette.exceptions import HTTPException

from refloat.api.door import Forbidden
from refloat.errors import Busy, NotFound, RefloatError, Refused

log = logging.getLogger(__name__)

_HTTP_CODES = {404: "unknown_path", 405: "wrong_method", 413: "too_large"}


def problem(status: int, code: str, message: str, hint: str = "") -> JSONResponse:
    return JSONResponse({"code": code, "message": message, "hint": hint}, status_code=status)


def status_of(error: RefloatError) -> int:
    """403 for who may not, 404 for what is not there, 422 for bad input, 409 for other refusals, else 500."""
    if isinstance(error, Forbidden):
        return 403
    if isinstance(error, NotFound) or error.code.startswith("unknown_"):
        return 404
    if isinstance(error, Refused):
        return 422 if error.code.startswith("bad_") and not isinstance(error, Busy) else 409
    return 500


def install(app: FastAPI) -> None:
    """Makes every error of the app a `problem`."""
    app.add_exception_handler(RefloatError, refloat_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(OperationalError, _store_away)
    app.add_exception_handler(Exception, _unexpected)


async def refloat_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RefloatError)
    status = status_of(error)
    if status == 500:
        log.error("%s %s failed: %s [%s]", request.method, request.url.path, error, error.code)
    return problem(status, error.code, error.message, error.hint)


async def _invalid(_: Request, error: Exception) -> JSONResponse:
    """Says which field is wrong and why; the value itself is not sent back."""
    assert isinstance(error, RequestValidationError)
    details = [f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}" for item in error.errors()]
    return problem(422, "bad_input", "; ".join(details[:5]), "see /api/v1/openapi.json for what is expected")


async def http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    code = _HTTP_CODES.get(error.status_code, "http_error")
    message = f"{request.method} {request.url.path}: {error.detail}"
    return problem(error.status_code, code, message, "see /api/v1/openapi.json for what there is")


async def _store_away(request: Request, error: Exception) -> JSONResponse:
    """The database is gone, locked or full. What was asked may have been done, with only its answer lost."""
    log.error("%s %s: the store does not answer", request.method, request.url.path, exc_info=error)
    hint = "see the hub's log and its database; look what became of the request before asking again"
    return problem(503, "store_unreachable", "the hub's store does not answer", hint)


async def _unexpected(request: Request, error: Exception) -> JSONResponse:
    """A defect: the client gets an id under which the log has the details."""
    incident = secrets.token_hex(4)
    log.error("incident %s: %s %s", incident, request.method, request.url.path, exc_info=error)
    return problem(
        500, "internal", f"internal error {incident}", f"look for 'incident {incident}' in the hub's log"
    )
