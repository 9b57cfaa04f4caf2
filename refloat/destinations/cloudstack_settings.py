"""What the estate says of one CloudStack installation. Standard library only: the estate's form makes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from refloat.secret import SecretRef


@dataclass(frozen=True)
class CloudStackSettings:
    """`url` is the API's address; `networks` maps the estate's names to the ids of CloudStack's networks.

    `offering` names a custom compute offering for recovered VMs ("": the smallest fixed one that fits);
    `cpu_speed` in MHz is given where the offering does not say. `linux_os`, `windows_os` are OS types by
    which CloudStack sets clock and devices. `longest_revert` in seconds: above it a failover is refused, as
    its rollback would take too long; 0: no limit of ours. All times in seconds.
    """

    url: str
    key: SecretRef
    secret: SecretRef
    networks: Mapping[str, str]
    ca_file: str = ""
    project: str = ""
    offering: str = ""
    cpu_speed: int = 1000
    linux_os: str = "Other PV (64-bit)"
    windows_os: str = "Windows PV"
    longest_revert: float = 0
    timeout: float = 60.0  # of one request
    job_timeout: float = 4200.0  # CloudStack itself cancels jobs after an hour
    patience: float = 120.0  # how long transient errors are retried
    settle: float = 10.0  # how long a request whose answer was lost may still become a job
    poll: float = 1.0  # between two looks at a job, at first; grows up to ten times that
