"""What the evidence of a Windows guest's job does not prove, beyond its limits for any guest."""

from __future__ import annotations

# The adaptation was built and tested without Windows: on its file formats, under Wine, in simulation.
UNPROVEN = (
    "That Windows' boot loader takes the registry values by which it finds its disk's driver. They are those "
    "that Windows itself writes, but no Windows was started in Refloat's own tests.",
    "That the drivers' signatures are accepted: this depends on the driver set, on Secure Boot and on the "
    "updates that the guest has.",
    "That Plug and Play binds the new devices, and that PowerShell's commands, the installer of the guest "
    "agent and Windows' services do in this guest what they are documented to do. The guest reports what it "
    "found; its reports are a claim.",
    "That BitLocker, Windows' activation and licences bound to hardware accept the new machine.",
    "That the machine's account in a domain and the services of its applications work: nothing of them is "
    "changed or looked at.",
    "That the clock is right from the start: it shows the local time of the platform's host, which may be in "
    "another time zone than the guest, until Windows has set its clock by the network.",
)
