"""Domains by name: their state, their definition as a record, and the changes between them."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import libvirt

from refloat.destinations.libvirt_live import is_closed, parse_nics
from refloat.destinations.libvirt_spec import DomainSpec
from refloat.destinations.libvirt_xml import parse_domain, render_domain
from refloat.errors import Failed, Refused
from refloat.libvirt_connection import Connection, is_connection_error, libvirt_errors
from refloat.model import PowerState

_POWER_BUTTON = libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN
_POLL = 0.1  # seconds
_ASK_AGAIN = 10.0  # seconds: a guest that is still booting ignores the power button
_SETTLE = 30.0  # seconds for libvirt to notice that a stopped QEMU is gone

_POWER = {
    libvirt.VIR_DOMAIN_RUNNING: (PowerState.RUNNING, "running"),
    libvirt.VIR_DOMAIN_BLOCKED: (PowerState.RUNNING, "blocked on a resource"),
    libvirt.VIR_DOMAIN_SHUTDOWN: (PowerState.RUNNING, "shutting down"),
    libvirt.VIR_DOMAIN_PAUSED: (PowerState.PAUSED, "paused"),
    libvirt.VIR_DOMAIN_PMSUSPENDED: (PowerState.PAUSED, "suspended by the guest"),
    libvirt.VIR_DOMAIN_SHUTOFF: (PowerState.OFF, "off"),
    libvirt.VIR_DOMAIN_CRASHED: (PowerState.OFF, "crashed"),
    libvirt.VIR_DOMAIN_NOSTATE: (PowerState.OFF, "no state"),
}
_DETAILS = {
    (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_IOERROR): "paused: a disk gave an I/O error",
    (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_USER): "paused by request",
    (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_CRASHED): "paused: the guest crashed",
    (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_SHUTDOWN): "off: the guest shut down",
    (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_DESTROYED): "off: stopped hard",
    (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_CRASHED): "off: QEMU or the guest crashed",
    (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_FAILED): "off: the start failed",
}


class Domains:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def lookup(self, vm: str) -> libvirt.virDomain:
        """Raises NotFound for an unknown VM, Unreachable when libvirt does not answer."""
        with libvirt_errors(f"look up VM {vm}"):
            try:
                return self._connection.get().lookupByName(vm)
            except libvirt.libvirtError as error:
                if not is_connection_error(error):
                    raise
            self._connection.reset()  # the handle died unnoticed: ask a restarted libvirtd
            return self._connection.get().lookupByName(vm)

    def all(self) -> list[libvirt.virDomain]:
        with libvirt_errors("list VMs"):
            return list(self._connection.get().listAllDomains())

    def power(self, domain: libvirt.virDomain) -> tuple[PowerState, str]:
        """The state that libvirt knows now, and its reason in words."""
        with libvirt_errors(f"read the state of {domain.name()}"):
            state, reason = domain.state()
        power, words = _POWER[state]
        return power, _DETAILS.get((state, reason), words)

    def xml(self, domain: libvirt.virDomain) -> str:
        """What is attached now: of a VM that is off, its definition."""
        with libvirt_errors(f"read the XML of {domain.name()}"):
            return domain.XMLDesc(0)

    def spec(self, domain: libvirt.virDomain) -> DomainSpec:
        """The definition: what the next start will use."""
        with libvirt_errors(f"read the definition of {domain.name()}"):
            return parse_domain(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))

    def own_spec(self, domain: libvirt.virDomain) -> DomainSpec:
        """The definition, for a change. Raises Refused for a domain that carries no mark of Refloat:
        redefining it from a record would lose what the record cannot say."""
        spec = self.spec(domain)
        if not spec.role:
            raise Refused(
                f"VM {spec.name} was not made by Refloat and is never redefined",
                code="not_ours",
                hint="name a VM whose metadata has a refloat:vm element",
            )
        return spec

    def define(self, spec: DomainSpec) -> None:
        with libvirt_errors(f"define VM {spec.name}"):
            self._connection.get().defineXML(render_domain(spec))

    def change(self, vm: str, change: Callable[[DomainSpec], DomainSpec]) -> None:
        """Redefines a VM of ours that is off; does nothing where the change is already there."""
        domain = self.lookup(vm)
        self.require_off(domain)
        spec = self.own_spec(domain)
        changed = change(spec)
        if changed != spec:
            self.define(changed)

    def require_off(self, domain: libvirt.virDomain) -> None:
        power, reason = self.power(domain)
        if power is not PowerState.OFF:
            raise Failed(
                f"VM {domain.name()} must be off for this and is {power} ({reason})",
                code="vm_not_off",
                hint="stop it first",
            )

    def require_active(self, domain: libvirt.virDomain) -> None:
        if self.power(domain)[0] is PowerState.OFF:
            raise Failed(f"VM {domain.name()} is off", code="vm_off", hint="start it first")

    def start(self, domain: libvirt.virDomain) -> None:
        """Returns when it runs. A guest behind a closed segment runs only once QEMU shows it closed."""
        with libvirt_errors(f"start VM {domain.name()}"):
            self._leave_transition(domain)
            power, _ = self.power(domain)
            if power is PowerState.OFF:
                domain.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
                power = PowerState.PAUSED
            if power is PowerState.PAUSED:
                self._require_closed_segments(domain)
                if domain.state()[0] == libvirt.VIR_DOMAIN_PMSUSPENDED:
                    domain.pMWakeup()
                else:
                    domain.resume()

    def start_paused(self, domain: libvirt.virDomain) -> None:
        """Opens the disks without running one instruction of the guest."""
        with libvirt_errors(f"start VM {domain.name()} paused"):
            domain.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)

    def stop(self, domain: libvirt.virDomain, graceful: float) -> None:
        """Returns when libvirt says that it is off. Raises Failed when QEMU does not go away."""
        with libvirt_errors(f"stop VM {domain.name()}"):
            if graceful > 0 and self.power(domain)[0] is PowerState.RUNNING:
                self._ask_guest(domain, time.monotonic() + graceful)
            if domain.isActive():
                _ignore(libvirt.VIR_ERR_OPERATION_INVALID, domain.destroy)  # it may end by itself just now
            if not self._wait_off(domain, time.monotonic() + _SETTLE):
                raise Failed(
                    f"VM {domain.name()} is still active after it was stopped",
                    code="vm_not_off",
                    hint="look for its QEMU process on libvirt's host",
                )

    def hmp(self, domain: libvirt.virDomain, command: str) -> str:
        """The answer of QEMU's monitor to a command for people: what libvirt has no call for."""
        import libvirt_qemu  # pulls in libvirt's QEMU-only library: needed for user-mode segments only

        with libvirt_errors(f"ask the monitor of {domain.name()}"):
            answer = libvirt_qemu.qemuMonitorCommand(
                domain, command, libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP
            )
        return answer.replace("\r\n", "\n")

    def _leave_transition(self, domain: libvirt.virDomain) -> None:
        """A guest that is powering off right now still counts as running: wait for what it becomes."""
        deadline = time.monotonic() + _SETTLE
        while domain.state()[0] == libvirt.VIR_DOMAIN_SHUTDOWN and time.monotonic() < deadline:
            time.sleep(_POLL)

    def _require_closed_segments(self, domain: libvirt.virDomain) -> None:
        closed = [nic for nic in parse_nics(domain.XMLDesc(0)) if nic.closed]
        if not closed:
            return
        network = self.hmp(domain, "info network")
        for nic in closed:
            if not is_closed(network, nic):
                domain.destroy()
                raise Failed(
                    f"NIC {nic.mac} of VM {domain.name()} would not have been on its closed network",
                    code="network_not_closed",
                    hint="this QEMU or libvirt ignores qemu:override",
                )

    def _ask_guest(self, domain: libvirt.virDomain, deadline: float) -> None:
        ask_at = 0.0
        while (now := time.monotonic()) < deadline and domain.isActive():
            if now >= ask_at:
                _ignore(libvirt.VIR_ERR_OPERATION_INVALID, partial(domain.shutdownFlags, _POWER_BUTTON))
                ask_at = now + _ASK_AGAIN
            time.sleep(_POLL)

    def _wait_off(self, domain: libvirt.virDomain, deadline: float) -> bool:
        while domain.isActive():
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL)
        return True


def _ignore(code: int, action: Callable[[], object]) -> None:
    try:
        action()
    except libvirt.libvirtError as error:
        if error.get_error_code() != code:
            raise
