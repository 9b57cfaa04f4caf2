"""What proves the recovery: the guest's reports, what is seen from outside, the facets and the verdict."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from refloat.model.guest import Remediation
from refloat.model.hardware import Observation, PowerState


@dataclass(frozen=True)
class NicReport:
    mac: str
    name: str = ""
    up: bool = False
    addresses: tuple[str, ...] = ()
    driver: str = ""


@dataclass(frozen=True)
class LinkReport:
    """A VLAN, bond or bridge of the guest."""

    name: str
    up: bool = False
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True)
class FileReport:
    """A file that the first boot changed: sha256 before (empty: it is new) and after (empty: removed)."""

    path: str
    before: str = ""
    after: str = ""


@dataclass(frozen=True)
class MountReport:
    mountpoint: str
    mounted: bool
    device: str = ""


@dataclass(frozen=True)
class StageReport:
    """One stage of a remediation that has several. `state` is the guest's word: done, failed, skipped,
    pending; `text` says more, in words."""

    name: str
    state: str
    required: bool = False
    attempts: int = 0
    text: str = ""


@dataclass(frozen=True)
class GuestReport:
    """One report of the guest, after the hub checked its origin. Its content is a claim, not truth.

    Without a `status`, `stage` is "configured" or "final". With one (Windows) it names the stage under way,
    and a status after which nothing comes makes the report final. `reboots` counts the restarts that the
    remediation asked for. `clock` is the guest's own when it made the report, in seconds since 1970 (UTC).
    """

    sequence: int
    boot_id: str
    stage: str
    uptime: float
    received: str
    root_device: str = ""
    kernel: str = ""
    system_state: str = ""
    mounts: tuple[MountReport, ...] = ()
    nics: tuple[NicReport, ...] = ()
    gateway: str = ""
    gateway_answers: bool = False
    dns: tuple[str, ...] = ()
    drivers: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    cleaned: bool = False
    gateway6: str = ""
    gateway6_answers: bool = False
    search: tuple[str, ...] = ()
    clock: float | None = None
    links: tuple[LinkReport, ...] = ()
    changes: tuple[FileReport, ...] = ()
    status: Remediation | None = None
    reboots: int = 0
    stages: tuple[StageReport, ...] = ()

    @property
    def final(self) -> bool:
        """After this report the guest has nothing more to say."""
        return self.stage == "final" if self.status is None else self.status in ENDED


ENDED = frozenset({Remediation.SUCCEEDED, Remediation.PARTIAL, Remediation.FAILED})


@dataclass(frozen=True)
class StatusChange:
    """What became of the guest's remediation, when, and by whose word or for what reason."""

    at: str
    status: Remediation
    why: str


class ProbeKind(StrEnum):
    TCP = "tcp"
    HTTP = "http"
    ICMP = "icmp"
    COMMAND = "command"


@dataclass(frozen=True)
class ProbeResult:
    """A check of the operator's own, made by the hub: did it hold, through the platform's network?

    `asked` is False where it could not be made here, whatever the guest is: then `text` says why, and
    neither its success nor its failure is known. `port` is 0 where there is none.
    """

    address: str
    port: int
    answered: bool
    text: str
    at: str
    kind: ProbeKind = ProbeKind.TCP
    name: str = ""
    required: bool = True
    asked: bool = True
    tries: int = 1

    @property
    def what(self) -> str:
        """What was asked, in words."""
        if self.name:
            return self.name
        where = f"[{self.address}]" if ":" in self.address and self.port else self.address
        where = f"{where}:{self.port}" if self.port else where
        return where if self.kind is ProbeKind.TCP else f"{self.kind} {where}".rstrip()

    @property
    def proves_boot(self) -> bool:
        """A program in the guest answered. An echo is answered by a kernel that found no root, too, and what
        a command looks at is not known."""
        return self.answered and self.kind in (ProbeKind.TCP, ProbeKind.HTTP)


@dataclass(frozen=True)
class Sight:
    """What the console began to show at `at`: a state of console_states.py by its name, and the words by
    which it was recognised, read from the screen or the serial line. They are the guest's: untrusted text.

    An empty `state` says that what stood there is gone, and that nothing else was recognised. `picture` is
    a file among the job's screenshots, if there is one.
    """

    state: str
    words: str
    at: str
    where: str = "screen"
    picture: str = ""


@dataclass(frozen=True)
class Findings:
    """What was seen from outside after the start; screenshots are files of the job.

    `source` is what the source's platform said of the protected VM at the end, None where nobody answered
    there: then `source_word` is the operator's for it. `console` has a record for each change. `rejected`
    says why what came as a report was none of this boot, each reason once. `started` is when the platform
    started the recovered VM, by the hub's clock.
    """

    observations: tuple[Observation, ...] = ()
    probes: tuple[ProbeResult, ...] = ()
    source: PowerState | None = None
    source_word: str = ""
    console: tuple[Sight, ...] = ()
    rejected: tuple[str, ...] = ()
    started: str = ""


class Observer(StrEnum):
    GUEST = "guest"
    PLATFORM = "platform"
    OPERATOR = "operator"


class FacetState(StrEnum):
    VERIFIED = "verified"
    UNVERIFIED = "unverified"
    FAILED = "failed"


@dataclass(frozen=True)
class Proof:
    """One piece of evidence for or against a facet, and who saw it."""

    observer: Observer
    holds: bool
    text: str


@dataclass(frozen=True)
class Facet:
    name: str  # source, boot, disks, network, clock, remediation, drivers, clean-up
    state: FacetState
    required: bool
    proofs: tuple[Proof, ...]


class Word(StrEnum):
    SUCCEEDED = "succeeded"
    PARTIAL = "partial"
    FAILED = "failed"


@dataclass(frozen=True)
class Verdict:
    word: Word
    reasons: tuple[str, ...]
    facets: tuple[Facet, ...]
