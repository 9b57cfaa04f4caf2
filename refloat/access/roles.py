"""Roles, and what each may do. The table is the whole truth: no route decides anything by itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Role(StrEnum):
    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"


class Permission(StrEnum):
    LOOK = "look"  # at targets, jobs, evidence, policies
    REPLICATE = "replicate"  # start a sync, pause, resume
    FAILOVER = "failover"  # start a failover, abort it
    DECIDE = "decide"  # commit, roll back, resume a blocked job
    OVERRIDE = "override"  # give one's word that a source is off
    AUDIT = "audit"  # read the log of decisions
    ESTATE = "estate"  # change the estate
    ACCESS = "access"  # users, and the tokens of others


_ORDER = (Role.VIEWER, Role.OPERATOR, Role.ADMIN)

# The least role that has the permission; those after it have it too.
GRANTS: dict[Permission, Role] = {
    Permission.LOOK: Role.VIEWER,
    Permission.REPLICATE: Role.OPERATOR,
    Permission.FAILOVER: Role.OPERATOR,
    Permission.DECIDE: Role.OPERATOR,
    Permission.OVERRIDE: Role.OPERATOR,
    Permission.AUDIT: Role.OPERATOR,
    Permission.ESTATE: Role.ADMIN,
    Permission.ACCESS: Role.ADMIN,
}


def at_least(role: Role, wanted: Role) -> bool:
    return _ORDER.index(role) >= _ORDER.index(wanted)


@dataclass(frozen=True)
class Principal:
    """Who asks, as the hub found out. `scopes` of a token narrow its role; None: all that the role may.

    `name` is proven by a session or a user's token. The hub's own token file proves the right to read that
    file, not a name: such a principal is `local`, and `claimed` is who its client says it is.
    """

    name: str
    role: Role
    scopes: frozenset[Permission] | None = None
    session: str = ""  # id of the web session that it came with; empty for a token
    claimed: str = ""
    # When the token that it came with is over; empty for a session and the hub's own token.
    until: str = field(default="", compare=False)

    def may(self, permission: Permission) -> bool:
        granted = at_least(self.role, GRANTS[permission])
        return granted and (self.scopes is None or permission in self.scopes)

    @property
    def signature(self) -> str:
        """As it is written into records: `anna`, or `local (root)` where only a claim is known."""
        return f"{self.name} ({self.claimed})" if self.claimed else self.name


LOCAL = "local"
