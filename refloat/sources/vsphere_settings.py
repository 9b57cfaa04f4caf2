"""What the driver is told of a vSphere site."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from refloat.secret import SecretRef

# What the words of a reader's command may name.
PLACEHOLDERS = frozenset(
    {
        "socket",
        "server",
        "port",
        "user",
        "password_file",
        "thumbprint",
        "thumbprint_sha256",
        "vm",
        "snapshot",
        "disk",
    }
)


class ChangeTracking(StrEnum):
    """enable: a VM without changed block tracking gets it at its next sync; report: that is only said."""

    ENABLE = "enable"
    REPORT = "report"


class Quiesce(StrEnum):
    """Whether VMware Tools bring the guest's filesystems to rest for a snapshot.

    try: where they run, and without them where they fail, which is said; require: else no sync; never.
    """

    TRY = "try"
    REQUIRE = "require"
    NEVER = "never"


@dataclass(frozen=True)
class VsphereSettings:
    """`thumbprint`: hexadecimal digits of SHA-1 or SHA-256. Times are in seconds: `timeout` of one answer,
    `task_timeout` of a task such as the removal of a snapshot."""

    server: str
    port: int
    user: str
    password: SecretRef = field(repr=False)
    thumbprint: str = ""
    ca_file: str = ""
    reader: tuple[str, ...] = ()
    change_tracking: ChangeTracking = ChangeTracking.ENABLE
    quiesce: Quiesce = Quiesce.TRY
    timeout: float = 60.0
    task_timeout: float = 1800.0

    @property
    def name(self) -> str:
        return f"vSphere {self.server}:{self.port}"
