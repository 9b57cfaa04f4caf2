"""What of a source's firmware the recovered VM does not get, in words: nobody finds it out at 3 a.m. Pure."""

from __future__ import annotations

from refloat.model import SourceVM

SECURE_BOOT = (
    "it starts with Secure Boot; the recovered VM starts without it: what checks for that in the guest "
    "(a policy, a lockdown of the kernel, BitLocker bound to PCR 7) sees another state"
)
TPM = (
    "it has a TPM, whose content no platform gives away; the recovered VM has none: keys sealed to it are "
    "lost (have the recovery keys of BitLocker or LUKS at hand), and measured boot proves nothing there"
)


def not_carried_over(source: SourceVM) -> list[str]:
    """Neither destination sets them up; both are said in the readiness, the plan and the evidence."""
    return [*([SECURE_BOOT] if source.secure_boot else []), *([TPM] if source.tpm else [])]
