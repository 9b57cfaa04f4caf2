"""Routes of the secrets that the hub keeps sealed. They go in and are used; no route shows one."""

from __future__ import annotations

from fastapi import APIRouter, Request

from refloat.api.common import PROBLEMS, EstateName, hub_of
from refloat.api.door import ManagesEstate
from refloat.api.schemas_access import SecretIn, SecretOut
from refloat.errors import Refused
from refloat.store.vault import SecretInfo

router = APIRouter(prefix="/api/v1/secrets", tags=["secrets"], responses=PROBLEMS)


@router.get("", summary="Names of the sealed secrets, and who set them")
def list_secrets(request: Request, _: ManagesEstate) -> list[SecretOut]:
    return [_shown(request, secret) for secret in hub_of(request).vault.all()]


@router.put("/{name}", summary="Set a secret, or set it anew")
def set_secret(request: Request, who: ManagesEstate, name: EstateName, body: SecretIn) -> SecretOut:
    """The estate names it as `sealed: NAME`. A new value is used at the next login there."""
    hub = hub_of(request)
    secret = hub.vault.put(name, body.value.get_secret_value(), who.signature)
    hub.audit.record(who.signature, "secret-set", name)
    return _shown(request, secret)


@router.delete("/{name}", summary="Remove a secret that the estate does not name")
def remove_secret(request: Request, who: ManagesEstate, name: EstateName) -> SecretOut:
    hub = hub_of(request)
    with hub.estates.steady:
        if users := hub.estate.users_of(name):
            raise Refused(
                f"the secret {name} is used by {', '.join(users)}",
                code="secret_in_use",
                hint="nothing was changed; take it out of the estate first",
            )
        secret = hub.vault.remove(name)
    hub.audit.record(who.signature, "secret-remove", name)
    return _shown(request, secret)


def _shown(request: Request, secret: SecretInfo) -> SecretOut:
    used_by = hub_of(request).estate.users_of(secret.name)
    return SecretOut(name=secret.name, changed=secret.changed, who=secret.who, used_by=used_by)
