"""The records that the stages hand to each other.

    Policy + SourceVM + Target --preflight--> Plan | Refused(reasons)
    Plan      --stop exports, snapshot-->  Prepared (rollback points)
    Prepared  --adapt-->                   Adaptation (GuestCaps + change journal)
    GuestCaps --promote-->                 Hardware of the recovered VM
    Hardware  --validate-->                Findings
    Findings + guest reports -->           Verdict --operator--> committed | rolled back

Each stage consumes only what an earlier one returned. Records are frozen, plain and serialisable
(codec.py), and need nothing beyond the standard library: the controller uses them too.
Sizes are in bytes, times in seconds, instants in ISO 8601 UTC. Everybody imports them from here.
"""

from __future__ import annotations

from refloat.model.guest import (
    Adaptation,
    Change,
    ChangeKind,
    FileState,
    GuestCaps,
    GuestFacts,
    GuestFilesystem,
    GuestKernel,
    LinkKind,
    Mount,
    NicConfig,
    NicMethod,
    Remediation,
    Route,
)
from refloat.model.hardware import (
    AttachedDisk,
    AttachedNic,
    DiskBus,
    Firmware,
    Hardware,
    NicModel,
    Observation,
    PowerState,
    RollbackPoint,
    SourceDisk,
    SourceNic,
    SourceVM,
)
from refloat.model.job import (
    Action,
    AdaptRequest,
    Decision,
    Fence,
    JobState,
    Mode,
    NetworkMode,
    OperatorDecision,
    Plan,
    PlannedDisk,
    PlannedNic,
    Secrets,
)
from refloat.model.proof import (
    Facet,
    FacetState,
    FileReport,
    Findings,
    GuestReport,
    LinkReport,
    MountReport,
    NicReport,
    Observer,
    ProbeResult,
    Proof,
    Verdict,
    Word,
)
from refloat.model.target import (
    Endpoint,
    Readiness,
    ReplicaDisk,
    SyncPoint,
    Target,
    TargetState,
)

__all__ = [
    "Action",
    "AdaptRequest",
    "Adaptation",
    "AttachedDisk",
    "AttachedNic",
    "Change",
    "ChangeKind",
    "Decision",
    "DiskBus",
    "Endpoint",
    "Facet",
    "FacetState",
    "Fence",
    "FileReport",
    "FileState",
    "Findings",
    "Firmware",
    "GuestCaps",
    "GuestFacts",
    "GuestFilesystem",
    "GuestKernel",
    "GuestReport",
    "Hardware",
    "JobState",
    "LinkKind",
    "LinkReport",
    "Mode",
    "Mount",
    "MountReport",
    "NetworkMode",
    "NicConfig",
    "NicMethod",
    "NicModel",
    "NicReport",
    "Observation",
    "Observer",
    "OperatorDecision",
    "Plan",
    "PlannedDisk",
    "PlannedNic",
    "PowerState",
    "ProbeResult",
    "Proof",
    "Readiness",
    "Remediation",
    "ReplicaDisk",
    "RollbackPoint",
    "Route",
    "Secrets",
    "SourceDisk",
    "SourceNic",
    "SourceVM",
    "SyncPoint",
    "Target",
    "TargetState",
    "Verdict",
    "Word",
]
