"""Who may do what: users, API tokens, sessions, and the log of what they decided."""

from refloat.access.audit import ORIGIN, Audit, AuditRecord, Verified
from refloat.access.people import People, Session, TokenInfo, User
from refloat.access.roles import GRANTS, LOCAL, Permission, Principal, Role
from refloat.access.second import SecondPerson

__all__ = [
    "GRANTS",
    "LOCAL",
    "ORIGIN",
    "Audit",
    "AuditRecord",
    "People",
    "Permission",
    "Principal",
    "Role",
    "SecondPerson",
    "Session",
    "TokenInfo",
    "User",
    "Verified",
]
