"""Protected VMs on vSphere: hardware, power, and changed blocks of a snapshot.

A VM is named in the estate by its instance UUID, by its inventory path ("Paris/vm/Web/shop-1"), or by its
name where only one VM has it.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote

from pyVmomi import vim

from refloat.clock import now
from refloat.errors import Failed, NotFound, RefloatError, Refused, Unreachable
from refloat.model import PowerState, SeenNic, SourceVM
from refloat.sources.base import ChangeSet, DiskReader
from refloat.sources.vsphere_changes import (
    allocated_areas,
    changed_areas,
    doubt,
    enable_tracking,
    snapshot_of,
    write_checkpoint,
)
from refloat.sources.vsphere_guest import seen_nics
from refloat.sources.vsphere_hardware import VmDisk, adapters, source_vm
from refloat.sources.vsphere_reader import readers
from refloat.sources.vsphere_session import Session
from refloat.sources.vsphere_settings import ChangeTracking, VsphereSettings

log = logging.getLogger(__name__)

_UUID = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_POWER = {"poweredOff": PowerState.OFF, "suspended": PowerState.PAUSED, "poweredOn": PowerState.RUNNING}
_POLL = 0.5  # seconds
_FACTS = (
    "name",
    "config",
    "network",
    "guest.net",
    "guest.ipStack",
    "guest.toolsRunningStatus",
    "runtime.connectionState",
    "runtime.consolidationNeeded",
    "runtime.faultToleranceState",
    "runtime.powerState",
)


class VsphereSource:
    """Implements sources.base.Source."""

    def __init__(self, settings: VsphereSettings) -> None:
        self._settings = settings
        self._session = Session(settings)

    def close(self) -> None:
        self._session.close()

    # ------------------------------------------------------------ hardware and power

    def inventory(self, vm: str) -> SourceVM:
        what = f"read VM {vm}"
        facts = self._session.read(what, self._find(vm), *_FACTS)
        _require_connected(vm, facts)
        if facts.get("config") is None:
            raise Unreachable(f"{what}: vSphere has no configuration of it now", code="stale_state")
        seen: dict[int, SeenNic] = {}
        said: list[str] = []
        if facts.get("guest.toolsRunningStatus") == "guestToolsRunning":
            keys = [one.key for one in adapters(facts["config"])]
            seen, said = seen_nics(facts.get("guest.net", ()), facts.get("guest.ipStack", ()), keys, now())
        return source_vm(facts, self._networks(facts.get("network", ())), seen, said)

    def power_state(self, vm: str) -> PowerState:
        """Raises Unreachable where the VM's host is not connected: vCenter then shows what it last knew."""
        return self._power(vm, self._find(vm))

    def shut_down(self, vm: str, deadline: float) -> bool:
        """At once False where VMware Tools do not run: nobody there can be asked."""
        found, end, asked = self._find(vm), time.monotonic() + deadline, False
        while self._power(vm, found) is not PowerState.OFF:
            if not asked:
                asked = True
                try:
                    self._session.call(f"shut down VM {vm}", lambda _: found.ShutdownGuest())
                except Unreachable:
                    raise
                except RefloatError as error:
                    if error.code == "vsphere_InvalidPowerState":
                        continue  # off by now, or suspended: the loop sees which
                    if error.code != "vsphere_ToolsUnavailable":
                        raise
                    log.warning("%s cannot be asked to shut down: %s", vm, error.message)
                    return False
            if time.monotonic() >= end:
                return False
            time.sleep(_POLL)
        return True

    def power_off(self, vm: str) -> None:
        self._switch(vm, PowerState.OFF, "PowerOffVM_Task")

    def power_on(self, vm: str) -> None:
        self._switch(vm, PowerState.RUNNING, "PowerOnVM_Task")

    def autostart(self, vm: str) -> bool:
        """Whether its host starts it by itself. vSphere HA is no autostart: it restarts what failed, never a
        VM that was shut down or powered off by order."""
        found = self._find(vm)
        config = self._autostart_config(vm, found)[1]
        if config is None or not (config.defaults and config.defaults.enabled):
            return False
        return any(one.key._moId == found._moId and _starts(one) for one in config.powerInfo or ())

    def set_autostart(self, vm: str, enabled: bool) -> None:
        """The VM's place in the host's order is not kept: it starts in any order afterwards."""
        if self.autostart(vm) is enabled:
            return
        found = self._find(vm)
        manager, config = self._autostart_config(vm, found)
        if manager is None or config is None:
            raise Failed(
                f"the host of VM {vm} has no autostart that could be set",
                code="vsphere_autostart",
                hint="set it by hand in vCenter, where it is wanted",
            )
        row = vim.host.AutoStartManager.AutoPowerInfo(
            key=found, startOrder=-1, startDelay=-1, stopDelay=-1, stopAction="systemDefault",
            startAction="powerOn" if enabled else "none", waitForHeartbeat="systemDefault",
        )  # fmt: skip
        spec = vim.host.AutoStartManager.Config(powerInfo=[row])
        self._session.call(f"set autostart of VM {vm}", lambda _: manager.ReconfigureAutostart(spec))

    # ------------------------------------------------------------ changed blocks

    @contextmanager
    def read_changes(self, vm: str, since: str | None, checkpoint: str) -> Iterator[ChangeSet]:
        """`checkpoint` is the snapshot's name; what marks the instant for the next sync is made of the
        changeIds in it."""
        session, found = self._session, self._find(vm)
        self._require_replicable(vm)
        said: list[str] = []
        self._ensure_tracking(vm, found, said)
        with snapshot_of(session, found, checkpoint, self._settings.quiesce, said) as (snapshot, disks):
            certificate = session.certificate()
            with readers(self._settings, certificate, found._moId, snapshot._moId, disks) as uris:
                opened = tuple(self._reader(found, snapshot, one, uris[one.key], since) for one in disks)
                yield ChangeSet(write_checkpoint(disks), opened, tuple(said))

    def forget(self, vm: str, keep: str | None) -> None:
        """Nothing to do: vSphere keeps no list of checkpoints, and each snapshot went with its sync."""

    def _reader(self, vm: Any, snapshot: Any, disk: VmDisk, uri: str, since: str | None) -> DiskReader:
        change_id, reason = doubt(disk, since)
        if not reason:
            try:
                areas = tuple(changed_areas(self._session, vm, snapshot, disk, change_id))
                return DiskReader(str(disk.key), uri, disk.capacity, None, areas=areas)
            except Unreachable:
                raise
            except RefloatError as error:
                reason = error.message
        allocated = allocated_areas(self._session, vm, snapshot, disk)
        return DiskReader(
            str(disk.key),
            uri,
            disk.capacity,
            None,
            reason,
            allocated=None if allocated is None else tuple(allocated),
        )

    def _require_replicable(self, vm: str) -> None:
        problems = self.inventory(vm).problems
        if problems:
            raise Refused(
                f"VM {vm} cannot be replicated as it is: {'; '.join(problems)}",
                code="not_replicable",
                hint="change that at the source, or replicate what is on such disks by other means",
            )

    def _ensure_tracking(self, vm: str, found: Any, said: list[str]) -> None:
        what = f"read VM {vm}"
        on = self._session.read(what, found, "config.changeTrackingEnabled").get(
            "config.changeTrackingEnabled"
        )
        if on:
            return
        if self._settings.change_tracking is ChangeTracking.REPORT:
            said.append("changed block tracking is off, and the site says: report")
            return
        reason = enable_tracking(self._session, found)
        if reason:
            said.append(reason)

    # ------------------------------------------------------------ how

    def _find(self, vm: str) -> Any:
        """Never a guess: a name that two VMs have is refused."""
        what = f"find VM {vm}"
        if _UUID.fullmatch(vm):
            found = self._session.call(
                what, lambda content: content.searchIndex.FindByUuid(None, vm, True, True)
            )
        elif "/" in vm:
            found = self._session.call(
                what, lambda content: content.searchIndex.FindByInventoryPath(vm.strip("/"))
            )
        else:
            found = self._by_name(what, vm)
        if not isinstance(found, vim.VirtualMachine):
            raise NotFound(
                f"{self._settings.name} has no VM {vm}",
                code="no_such_vm",
                hint="name it by instance UUID, inventory path or name; a user sees only what its role reads",
            )
        return found

    def _by_name(self, what: str, name: str) -> Any:
        vms = self._session.call(what, _all_vms)
        names = self._session.read_all(what, vms, "name", "config.instanceUuid")
        # vSphere writes "/", "\" and "%" in names as %2f, %5c and %25.
        hits = [
            (one, facts)
            for one, facts in zip(vms, names, strict=True)
            if unquote(facts.get("name", "")) == name
        ]
        if len(hits) > 1:
            uuids = ", ".join(str(facts.get("config.instanceUuid")) for _, facts in hits)
            raise Refused(
                f"{len(hits)} VMs have the name {name}",
                code="ambiguous_vm",
                hint=f"name the one that is meant by its instance UUID in the estate file: {uuids}",
            )
        return hits[0][0] if hits else None

    def _power(self, vm: str, found: Any) -> PowerState:
        facts = self._session.read(
            f"read the power state of VM {vm}",
            found,
            "runtime.connectionState",
            "runtime.powerState",
            "runtime.host",
        )
        _require_connected(vm, facts)
        if facts.get("runtime.host") is not None:
            what = f"read the host of VM {vm}"
            host = self._session.read(what, facts["runtime.host"], "name", "runtime.connectionState")
            if host.get("runtime.connectionState", "connected") != "connected":
                raise _stale(vm, f"its host {host.get('name', '')} is {host['runtime.connectionState']}")
        return _POWER.get(str(facts.get("runtime.powerState")), PowerState.RUNNING)

    def _switch(self, vm: str, wanted: PowerState, method: str) -> None:
        found = self._find(vm)
        if self._power(vm, found) is wanted:
            return
        what = f"{'power off' if wanted is PowerState.OFF else 'power on'} VM {vm}"
        try:
            self._session.wait(what, self._session.call(what, lambda _: getattr(found, method)()))
        except RefloatError:
            if self._power(vm, found) is not wanted:
                raise

    def _autostart_config(self, vm: str, found: Any) -> tuple[Any, Any]:
        what = f"read autostart of VM {vm}"
        host = self._session.read(what, found, "runtime.host").get("runtime.host")
        if host is None:
            return None, None
        paths = ("configManager.autoStartManager", "config.autoStart")
        facts = self._session.read(what, host, *paths)
        return facts.get(paths[0]), facts.get(paths[1])

    def _networks(self, networks: Any) -> dict[str, str]:
        """Names of the VM's networks that its adapters name by a key only."""
        names: dict[str, str] = {}
        for kind, key in (
            (vim.dvs.DistributedVirtualPortgroup, "key"),
            (vim.OpaqueNetwork, "summary.opaqueNetworkId"),
        ):
            ours = [one for one in networks if isinstance(one, kind)]
            for facts in self._session.read_all("read the names of networks", ours, "name", key):
                names[str(facts.get(key))] = str(facts.get("name", ""))
        return names


def _all_vms(content: Any) -> list[Any]:
    view = content.viewManager.CreateContainerView(content.rootFolder, [vim.VirtualMachine], True)
    try:
        return list(view.view)
    finally:
        view.DestroyView()


def _require_connected(vm: str, facts: dict[str, Any]) -> None:
    state = facts.get("runtime.connectionState")
    if state != "connected":
        raise _stale(vm, f"the VM is {state or 'unknown'} to its vCenter")


def _stale(vm: str, why: str) -> Unreachable:
    return Unreachable(
        f"what vSphere says of VM {vm} may be old: {why}",
        code="stale_state",
        hint="bring the host back to its vCenter, or look on the host itself",
    )


def _starts(row: Any) -> bool:
    return str(row.startAction or "").lower() == "poweron"
