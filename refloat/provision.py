"""`refloat target add` and `remove`: a target's controller and replica volumes, made by the platform's API.

The estate file names the wish, the store holds what was made. What is to be made is chosen and kept before
anything is: its `id` is in every name, so that an attempt after a kill finds what the first one made.

    add     inventory of the source -> wish (kept) -> keys -> make -> start -> health, disks -> target (kept)
    remove  nobody uses it -> removing (kept) -> VM and volumes -> the source's checkpoints -> forgotten
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from refloat.command import run
from refloat.controller.seed import OFFSET, controller_seed, static_network
from refloat.destinations.provisioner import Provisioner
from refloat.durable import sync_directory
from refloat.errors import Aborted, Busy, Failed, NotFound, RefloatError, Refused, Unreachable
from refloat.estate import Estate
from refloat.model import (
    Endpoint,
    Provision,
    ProvisionStage,
    ReplicaDisk,
    Target,
    TargetState,
    WantedController,
    WantedDisk,
)
from refloat.platforms import Platforms
from refloat.run import KILL_AT
from refloat.store.provisions import drop_provision, load_provision, save_provision
from refloat.store.store import Store

log = logging.getLogger(__name__)

HOLDER = "provision-"
HEALTHY_WITHIN = 600.0  # seconds for a new controller to boot and answer
_LOOK_AROUND = 5.0  # seconds between looks whether the hub is being stopped
_MIB = 1 << 20
_FREE = frozenset({TargetState.PROVISIONING, TargetState.ERROR, TargetState.READY})


class Targets:
    """Targets by name: as the estate file says them, and those that were made as the store has them."""

    def __init__(self, estate: Estate, store: Store) -> None:
        self._estate, self._store = estate, store

    def use(self, estate: Estate) -> None:
        self._estate = estate

    def target(self, name: str) -> Target:
        """Raises Refused (not_provisioned) where the controller is still to be made."""
        estate = self._estate  # one for all of it: it may become another one meanwhile
        wish = estate.target(name)
        made = self._made(estate, name)
        if made is None:
            raise Refused(
                f"target {name} has no controller yet",
                code="not_provisioned",
                hint=f"make it with `refloat target add {name}`",
            )
        return replace(made, policy=wish.policy)

    def is_made(self, name: str) -> bool:
        return self._made(self._estate, name) is not None

    def _made(self, estate: Estate, name: str) -> Target | None:
        if (wish := estate.target(name)) and estate.targets[name].provision is None:
            return wish
        provision = load_provision(self._store, name)
        made = provision is not None and provision.stage is ProvisionStage.MADE
        return provision.target if provision and made else None


class Provisions:
    """Adding and removing, in the background: progress and outcome are in the target's status.

    `first_sync` syncs a target that was made, and returns what is to be said of it; it is given what tells
    it to end.
    """

    def __init__(
        self,
        estate: Estate,
        platforms: Platforms,
        store: Store,
        data_dir: Path,
        first_sync: Callable[[str, Callable[[], bool]], str],
    ) -> None:
        self._estate, self._platforms, self._store = estate, platforms, store
        self._data_dir, self._first_sync = data_dir, first_sync
        self._threads: dict[str, threading.Thread] = {}
        self._closing = threading.Event()

    def use(self, estate: Estate) -> None:
        self._estate = estate

    def take_up(self) -> None:
        """What a killed hub left claimed is free again; what it had begun waits to be told to go on."""
        for left in self._store.held_targets(HOLDER):
            provision = load_provision(self._store, left.name)
            removing = provision is not None and provision.stage is ProvisionStage.REMOVING
            verb = "remove" if removing else "add"
            message = f"interrupted: `refloat target {verb} {left.name}` goes on with it"
            self._store.release_target(left.name, left.holder, TargetState.PROVISIONING, message)

    def close(self) -> None:
        """Ends what is under way between two acts; the next `add` or `remove` goes on there."""
        self._closing.set()
        for thread in list(self._threads.values()):
            thread.join()

    def add(self, name: str) -> None:
        """Makes what the estate file wishes for this target, or goes on with it, and syncs a first time."""
        self._require_wish(name)
        status, provision = self._store.target(name), load_provision(self._store, name)
        if provision and provision.stage is ProvisionStage.MADE and status.sync_point is not None:
            raise Refused(
                f"target {name} has its controller, {provision.wanted.vm}, and is {status.state}",
                code="already_provisioned",
                hint=f"replicate it with `refloat target sync {name}`",
            )
        if provision and provision.stage is ProvisionStage.REMOVING:
            raise Refused(
                f"target {name} is half removed",
                code="half_removed",
                hint=f"end that first: `refloat target remove {name}`",
            )
        self._start(name, self._add)

    def remove(self, name: str) -> None:
        """Deletes what `add` made. Refused while a failover or its recovered VM uses it."""
        self._require_wish(name)
        if load_provision(self._store, name) is None:
            raise NotFound(
                f"nothing was made for target {name}",
                code="not_provisioned",
                hint=f"make it with `refloat target add {name}`",
            )
        status = self._store.target(name)
        if status.state is TargetState.FAILED_OVER:
            raise Refused(
                f"target {name} has failed over: its controller is the recovered VM now",
                code="failed_over",
                hint="delete that VM by hand if it is really not needed any more",
            )
        self._require_no_job(name)
        self._start(name, self._remove)

    def _require_wish(self, name: str) -> None:
        self._estate.target(name)
        if self._estate.targets[name].provision is None:
            raise Refused(
                f"the controller of target {name} was made by hand: the estate file names it",
                code="made_by_hand",
                hint="say `provision` instead of `controller` and `disks` to have it made",
            )

    def _require_no_job(self, name: str) -> None:
        for job in self._store.unfinished_jobs():
            if job.target == name:
                raise Busy(
                    f"job {job.id} uses target {name} and is {job.state}",
                    code="target_busy",
                    hint="commit it or roll it back first",
                )

    def _start(self, name: str, work: Callable[[str], tuple[TargetState, str]]) -> None:
        holder = f"{HOLDER}{secrets.token_hex(3)}"
        self._store.claim_target(name, holder, TargetState.PROVISIONING, _FREE)
        thread = threading.Thread(target=self._in_background, args=(name, holder, work), name=holder)
        self._threads[name] = thread
        thread.start()

    def _in_background(self, name: str, holder: str, work: Callable[[str], tuple[TargetState, str]]) -> None:
        try:
            state, message = work(name)
        except Exception as error:
            log.exception("provisioning of %s failed", name)
            said = str(error) if isinstance(error, RefloatError) else f"{type(error).__name__}: {error}"
            state, message = TargetState.ERROR, f"{said}; {self._what_stays(name)}"
        self._store.release_target(name, holder, state, message)

    def _what_stays(self, name: str) -> str:
        provision = load_provision(self._store, name)
        if provision is None:
            return "nothing was made"
        try:
            left = self._provisioner(name).left(provision.wanted)
        except RefloatError as error:
            return f"what was made is not known ({error.message}): the names begin with {provision.wanted.vm}"
        if not left:
            return "nothing of it exists"
        return f"these stay: {', '.join(left)}; `refloat target add {name}` goes on, `remove` deletes them"

    # ------------------------------------------------------------ add

    def _add(self, name: str) -> tuple[TargetState, str]:
        provisioner = self._provisioner(name)
        provision = load_provision(self._store, name) or self._chosen(name, provisioner)
        if provision.stage is not ProvisionStage.MADE:
            self._mark(name, "chosen")
            self._make(name, provision.wanted, provisioner)
        self._mark(name, "made")
        return TargetState.READY, self._first_sync(name, self._closing.is_set)

    def _chosen(self, name: str, provisioner: Provisioner) -> Provision:
        """The wish with its values, kept; nothing of it exists yet."""
        wish = self._estate.target(name)
        source = self._platforms.source(wish.source_site).inventory(wish.source_vm)
        if source.problems:
            raise Refused(
                f"{source.name} cannot be replicated as it is: {'; '.join(source.problems)}",
                code="not_replicable",
                hint="change that at the source, then add the target again",
            )
        disks = tuple(WantedDisk(disk.key, disk.capacity) for disk in source.disks)
        wanted = wanted_controller(self._estate, name, disks, secrets.token_hex(4))
        provisioner.check(wanted)
        provision = Provision(wanted, ProvisionStage.MAKING)
        save_provision(self._store, name, provision)
        return provision

    def _make(self, name: str, wanted: WantedController, provisioner: Provisioner) -> None:
        keys = self._data_dir / "targets" / name / "keys"
        identity, host_key, seed = (wanted.identity, wanted.host_key, b"")
        if not host_key:
            make_keys(keys)
            identity, host_key, seed = str(keys / "controller"), _public(keys / "host"), _seed(keys, wanted)
        disks = provisioner.make(wanted, seed, lambda text: self._mark(name, text))
        self._mark(name, "starting the controller")
        wish = self._estate.target(name)
        self._platforms.destination(wish.site).start(wanted.vm)
        endpoint = Endpoint(provisioner.address(wanted), 22, "root", identity, host_key)
        target = replace(wish, controller_vm=wanted.vm, endpoint=endpoint, disks=disks)
        self._mark(name, "waiting for the controller")
        self._require_healthy(target, wanted)
        save_provision(self._store, name, Provision(wanted, ProvisionStage.MADE, target))
        (keys / "host").unlink(missing_ok=True)  # the controller's alone from now on

    def _require_healthy(self, target: Target, wanted: WantedController) -> None:
        """It answers with the host key that was given to it, and shows exactly the disks of the wish."""
        self._platforms.forget(target.name)
        controller = self._platforms.controller(target)
        deadline = time.monotonic() + HEALTHY_WITHIN
        while True:
            self._check_closing()
            try:
                controller.wait_ready(_LOOK_AROUND)
                break
            except Unreachable:
                if time.monotonic() > deadline:
                    raise
        seen = {disk.serial: disk.size for disk in controller.disks()}
        capacities = {disk.key: disk.capacity for disk in wanted.disks}
        for disk in target.disks:
            _require_disk(disk, seen.get(disk.serial), capacities[disk.key])

    # ------------------------------------------------------------ remove

    def _remove(self, name: str) -> tuple[TargetState, str]:
        provision = load_provision(self._store, name)
        assert provision is not None  # remove() has looked, and nobody else holds the target
        provisioner = self._provisioner(name)
        save_provision(self._store, name, replace(provision, stage=ProvisionStage.REMOVING))
        self._mark(name, "removing the controller")
        self._platforms.forget(name)
        provisioner.remove(provision.wanted)
        self._mark(name, "forgetting the source's checkpoints")
        self._forget_checkpoints(name)
        self._store.save_sync_point(name, None)
        self._store.save_readiness(name, None)
        shutil.rmtree(self._data_dir / "targets" / name, ignore_errors=True)
        self._mark(name, "removed")
        drop_provision(self._store, name)
        return TargetState.PROVISIONING, ""

    def _forget_checkpoints(self, name: str) -> None:
        """A source that does not answer keeps one bitmap of ours for each disk: said, and no obstacle."""
        wish = self._estate.target(name)
        try:
            self._platforms.source(wish.source_site).forget(wish.source_vm, None)
        except RefloatError as error:
            log.warning("the checkpoints of %s stay at its source: %s", wish.source_vm, error)

    # ------------------------------------------------------------ both

    def _provisioner(self, name: str) -> Provisioner:
        return self._platforms.provisioner(self._estate.target(name).site)

    def _mark(self, name: str, text: str) -> None:
        """What is about to be done, for the operator; and where crash tests end the hub."""
        self._store.save_progress(name, {"message": text})
        point = f"provision:{text.replace(' ', '-')}"
        if point in os.environ.get(KILL_AT, "").split(","):
            os.kill(os.getpid(), signal.SIGKILL)
        self._check_closing()

    def _check_closing(self) -> None:
        if self._closing.is_set():
            raise Aborted("the hub was stopped")


def wanted_controller(
    estate: Estate, name: str, disks: tuple[WantedDisk, ...], identifier: str
) -> WantedController:
    """The wish of the estate file with everything in it chosen; `identifier` has eight hex digits."""
    form = estate.targets[name].provision
    assert form is not None
    return WantedController(
        target=name,
        id=identifier,
        vm=estate.target(name).controller_vm,
        image=form.image or "",
        template=form.template,
        network=form.network,
        address="" if form.address == "dhcp" else form.address,
        gateway=str(form.gateway or ""),
        mac=":".join(("52:54:00", identifier[0:2], identifier[2:4], identifier[4:6])),
        cpus=form.cpus,
        memory=form.memory * _MIB,
        storage=form.storage,
        disks=disks,
        thin=form.thin,
        identity=form.identity or "",
        host_key=form.host_key,
        options=dict(form.options),
    )


def make_keys(directory: Path) -> None:
    """The hub's key for this controller and the controller's host key; those that are there stay."""
    if directory.exists():
        return
    draft = directory.with_name(f"{directory.name}.new")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True, mode=0o700)
    for name in ("controller", "host"):
        comment = f"refloat-{name}"
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(draft / name)])
    sync_directory(draft)
    draft.rename(directory)
    sync_directory(directory.parent)


def put_keys(image: Path, keys: Path) -> str:
    """Puts the keys (make_keys) into a raw controller image, for a platform whose volumes cannot be written.
    Returns the host key that all controllers of it show; its private half is then in the image alone."""
    seed = controller_seed(_public(keys / "controller"), (keys / "host").read_bytes(), _public(keys / "host"))
    with image.open("r+b") as disk:
        disk.seek(OFFSET)
        disk.write(seed)
    (keys / "host").unlink()
    return _public(keys / "host")


def _public(key: Path) -> str:
    kind, content, *_ = key.with_name(f"{key.name}.pub").read_text().split()
    return f"{kind} {content}"


def _seed(keys: Path, wanted: WantedController) -> bytes:
    network = static_network(wanted.address, wanted.gateway) if wanted.address else ""
    return controller_seed(
        _public(keys / "controller"), (keys / "host").read_bytes(), _public(keys / "host"), network
    )


def _require_disk(disk: ReplicaDisk, size: int | None, capacity: int) -> None:
    if size is None:
        raise Failed(
            f"the controller does not show the replica disk {disk.serial} of {disk.key}",
            code="disk_missing",
            hint="look at the controller's devices in the platform",
        )
    if size < capacity:
        raise Failed(
            f"the replica disk of {disk.key} has {size} bytes, the source's {capacity}",
            code="disk_too_small",
            hint="remove the target and add it again",
        )
