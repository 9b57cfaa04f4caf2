"""Routes of the estate: read it, look what another would change, apply that."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response

from refloat.access import LOCAL
from refloat.api.common import PROBLEMS, hub_of
from refloat.api.door import Forbidden, Looks, ManagesEstate
from refloat.api.schemas_estate import (
    EstateAppliedOut,
    EstateChangeOut,
    EstateDiffOut,
    EstateIn,
    EstateOut,
    EstateVersionOut,
    EstateVersionsOut,
    NewEstateIn,
)
from refloat.estate.live import Compared
from refloat.store.estates import Applied
from refloat.text import safe

router = APIRouter(prefix="/api/v1/estate", tags=["estate"], responses=PROBLEMS)

Number = Annotated[int, Path(ge=1, le=2**31 - 1, description="Of a version")]


@router.get("", summary="The estate in use, as it was written")
def read_estate(request: Request, response: Response, _: ManagesEstate) -> EstateOut:
    """Apply this text and nothing changes. Its version is the ETag, too."""
    version, text = hub_of(request).estates.current()
    response.headers["etag"] = f'"{version.number}"'
    return _read(version, text)


@router.get("/versions", summary="Every estate that was applied, newest first, a page at a time")
def list_versions(
    request: Request,
    _: Looks,
    before: Annotated[int, Query(ge=0, le=2**31 - 1, description="`next` of the page before")] = 0,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> EstateVersionsOut:
    found = hub_of(request).estates.versions.versions(before, limit + 1)
    versions = [EstateVersionOut.model_validate(one) for one in found[:limit]]
    return EstateVersionsOut(versions=versions, next=versions[-1].number if len(found) > limit else 0)


@router.get("/versions/{number}", summary="An earlier estate, as it was written")
def read_version(request: Request, _: ManagesEstate, number: Number) -> EstateOut:
    return _read(*hub_of(request).estates.versions.read(number))


@router.post("/diff", summary="What another estate would change; changes nothing")
def compare(request: Request, _: ManagesEstate, body: EstateIn) -> EstateDiffOut:
    """By object and field, without secrets. Fails with `bad_estate`, naming every line that is wrong."""
    compared = hub_of(request).estates.compare(body.text, safe(body.name))
    return EstateDiffOut(
        base=compared.base,
        changes=_told(compared),
        blocked=list(compared.blocked),
        reach=list(compared.reach),
    )


@router.put("", summary="Apply another estate; it is in use at once")
def apply(request: Request, who: ManagesEstate, body: NewEstateIn) -> EstateAppliedOut:
    """All of it or nothing. Refused where another came between (`estate_changed`), or where an unfinished
    job relies on what would change (`estate_in_use`). What means the same makes no new version.

    Programs and files of the hub's machine that no object named before (`reach`) need the hub's own token:
    a token that was stolen elsewhere must not decide what runs there.
    """

    def may(compared: Compared) -> None:
        if compared.reach and who.name != LOCAL:
            raise Forbidden(
                f"new on the hub's own machine: {', '.join(compared.reach)}",
                code="hub_token_needed",
                hint="nothing was changed; apply this there, as a user who can read the hub's api-token file",
            )

    estates = hub_of(request).estates
    done = estates.apply(body.text, body.base, who.signature, body.reason, safe(body.name), may)
    return EstateAppliedOut(number=done.base + bool(done.changes), changes=_told(done))


def _read(version: Applied, text: str) -> EstateOut:
    return EstateOut(**vars(version), text=text)


def _told(compared: Compared) -> list[EstateChangeOut]:
    return [EstateChangeOut.model_validate(change) for change in compared.changes]
