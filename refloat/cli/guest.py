"""`refloat guest`: the guest engine on disk images, without a hub. Imports what it needs when it runs."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from refloat.cli.common import AsJson, Root
from refloat.cli.output import note, print_json, say

if TYPE_CHECKING:
    from refloat.guest.host import Host
    from refloat.model import Adaptation, GuestFacts
    from refloat.standalone.images import Image
    from refloat.standalone.tool import Wishes

app = typer.Typer(
    cls=Root,
    help="Adapt a guest in disk images (raw, qcow2, vmdk, vhdx, block devices), without a hub.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Images = Annotated[
    list[Path],
    typer.Argument(metavar="IMAGE...", help="The guest's disks, in the order in which it numbers them."),
]
Format = Annotated[str, typer.Option("--format", metavar="FMT", help="The images' format, where in doubt.")]
Trusted = Annotated[
    bool,
    typer.Option("--trusted", help="Mount with this machine's kernel instead of an appliance: much faster."),
]
LuksKey = Annotated[
    list[str],
    typer.Option("--luks-key", metavar="UUID=FILE", help="File with the passphrase of a LUKS container."),
]
Bus = Annotated[str, typer.Option("--bus", help="virtio-blk, virtio-scsi, sata or nvme.")]
Nic = Annotated[str, typer.Option("--nic", help="virtio-net or e1000e.")]
Adapters = Annotated[
    list[str],
    typer.Option(
        "--adapter",
        metavar="MAC[=NEW][,NAME]",
        help="An adapter's MAC, its new one if it changes, and its name in the guest. Once for each.",
    ),
]
Network = Annotated[str, typer.Option("--network", help="restore, dhcp or preserve.")]
Serial = Annotated[bool, typer.Option("--serial-console", help="Add a console on the serial port.")]
Rebuild = Annotated[
    bool,
    typer.Option(
        "--rebuild",
        help="Let the guest's own tool make an initramfs to which nothing can be appended. Needs --trusted.",
    ),
]
Drivers = Annotated[
    Path | None,
    typer.Option("--drivers", metavar="ISO|DIR", help="Windows: virtio-win, as an ISO or a folder."),
]
Discard = Annotated[
    bool,
    typer.Option("--discard-hibernation", help="Windows: throw away the session of a hibernated system."),
]
Repair = Annotated[
    bool,
    typer.Option("--repair-ntfs", help="Windows: empty the log of a volume that was not closed (ntfsfix)."),
]
EvidenceDir = Annotated[
    Path, typer.Option("--evidence", metavar="DIR", help="Where the journal and the old contents are kept.")
]


@app.command()
def inspect(
    images: Images,
    image_format: Format = "",
    trusted: Trusted = False,
    luks_key: LuksKey = [],  # noqa: B006
    bus: Bus = "virtio-blk",
    nic: Nic = "virtio-net",
    as_json: AsJson = False,
) -> None:
    """Tell what is in the images. Nothing is changed."""
    from refloat.standalone import tool

    wishes = _wishes(bus, nic, [], "restore", False, luks_key)
    facts = tool.inspect(_images(images, image_format), wishes, _host(trusted))
    _print_facts(facts, as_json)


@app.command()
def plan(
    images: Images,
    image_format: Format = "",
    trusted: Trusted = False,
    luks_key: LuksKey = [],  # noqa: B006
    bus: Bus = "virtio-blk",
    nic: Nic = "virtio-net",
    adapter: Adapters = [],  # noqa: B006
    network: Network = "restore",
    serial_console: Serial = False,
    rebuild: Rebuild = False,
    drivers: Drivers = None,
    discard_hibernation: Discard = False,
    repair_ntfs: Repair = False,
    as_json: AsJson = False,
) -> None:
    """Print every change that `adapt` would make, as a diff. Nothing is changed."""
    from refloat.standalone import tool

    wishes = _wishes(bus, nic, adapter, network, serial_console, luks_key, rebuild)
    wishes = replace(
        wishes, drivers=drivers, discard_hibernation=discard_hibernation, repair_ntfs=repair_ntfs
    )
    done = tool.plan(_images(images, image_format), wishes, _host(trusted), _told)
    _print_adaptation(done, as_json, "would change")


@app.command()
def adapt(
    images: Images,
    evidence: EvidenceDir,
    image_format: Format = "",
    trusted: Trusted = False,
    luks_key: LuksKey = [],  # noqa: B006
    bus: Bus = "virtio-blk",
    nic: Nic = "virtio-net",
    adapter: Adapters = [],  # noqa: B006
    network: Network = "restore",
    serial_console: Serial = False,
    rebuild: Rebuild = False,
    drivers: Drivers = None,
    discard_hibernation: Discard = False,
    repair_ntfs: Repair = False,
    as_json: AsJson = False,
) -> None:
    """Adapt the guest in place. If it is interrupted: run it again, or `undo`."""
    from refloat.standalone import tool
    from refloat.standalone.evidence import Evidence

    wishes = _wishes(bus, nic, adapter, network, serial_console, luks_key, rebuild)
    wishes = replace(
        wishes, drivers=drivers, discard_hibernation=discard_hibernation, repair_ntfs=repair_ntfs
    )
    found = _images(images, image_format)
    done = tool.adapt(found, wishes, Evidence(evidence.absolute()), _host(trusted), _told)
    _print_adaptation(done, as_json, "changed")
    note(f"evidence: {evidence}; `refloat guest undo` takes it back until the guest has run")


@app.command()
def undo(
    images: Images,
    evidence: EvidenceDir,
    image_format: Format = "",
    trusted: Trusted = False,
    luks_key: LuksKey = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Give every changed file its bytes back. Refused if the guest has run since."""
    from refloat.standalone import tool
    from refloat.standalone.evidence import Evidence

    found = _images(images, image_format)
    restored = tool.undo(found, Evidence(evidence.absolute()), _keys(luks_key), _host(trusted))
    if as_json:
        print_json({"restored": list(restored)})
        return
    for path in restored:
        say(f"restored  {path}")
    say(f"{len(restored)} files are as they were" if restored else "nothing was left to undo")


# ---------------------------------------------------------------- options to records


def _images(paths: list[Path], image_format: str) -> list[Image]:
    from refloat.standalone.images import look

    return [look(path, image_format) for path in paths]


def _host(trusted: bool) -> Host:
    from refloat.guest.host import KERNEL
    from refloat.standalone.appliance import ApplianceHost

    return KERNEL if trusted else ApplianceHost(note)


def _wishes(
    bus: str,
    nic: str,
    adapters: list[str],
    network: str,
    serial_console: bool,
    luks_keys: list[str],
    rebuild: bool = False,
) -> Wishes:
    from refloat import policy
    from refloat.model import DiskBus, NetworkMode, NicModel
    from refloat.standalone.tool import Wishes

    own_tool = policy.Rebuild.ALLOWED if rebuild else policy.Rebuild.NEVER
    return Wishes(
        bus=_one_of(DiskBus, bus, "--bus"),
        nic=_one_of(NicModel, nic, "--nic"),
        adapters=tuple(_adapter(text) for text in adapters),
        policy=policy.Policy(network=_one_of(NetworkMode, network, "--network"), rebuild=own_tool),
        serial_console=serial_console,
        keys=_keys(luks_keys),
    )


def _one_of(kind: Any, value: str, option: str) -> Any:
    try:
        return kind(value)
    except ValueError:
        words = ", ".join(one.value for one in kind)
        raise typer.BadParameter(f"{value!r} is none of {words}", param_hint=option) from None


_ADAPTER = re.compile(
    r"(?P<old>(?:[0-9a-f]{2}:){5}[0-9a-f]{2})(?:=(?P<new>(?:[0-9a-f]{2}:){5}[0-9a-f]{2}))?"
    r"(?:,(?P<name>[a-z0-9_.-]{1,15}))?",
    re.ASCII | re.IGNORECASE,
)


def _adapter(text: str) -> Any:
    from refloat.standalone.tool import Adapter

    match = _ADAPTER.fullmatch(text)
    if not match:
        raise typer.BadParameter(f"{text!r} is not MAC[=NEW][,NAME]", param_hint="--adapter")
    old, new = match["old"].lower(), (match["new"] or match["old"]).lower()
    return Adapter(old, new, match["name"] or "")


def _keys(options: list[str]) -> dict[str, str]:
    """The files' content without a newline at their end. Passphrases never stand on a command line."""
    keys = {}
    for option in options:
        uuid, separator, file = option.partition("=")
        try:
            keys[uuid] = Path(file).read_text().removesuffix("\n") if separator else ""
        except OSError as error:
            raise typer.BadParameter(f"{file}: {error.strerror}", param_hint="--luks-key") from None
        if not keys[uuid]:
            raise typer.BadParameter(f"{option!r} is not UUID=FILE", param_hint="--luks-key")
    return keys


# ---------------------------------------------------------------- what is shown


def _told(step: str, figures: dict[str, object]) -> None:
    if sys.stderr.isatty():
        note(f"{step}: {', '.join(f'{name} {value}' for name, value in figures.items())}")


def _print_facts(facts: GuestFacts, as_json: bool) -> None:
    from refloat.cli.output import facts as print_facts
    from refloat.codec import encode

    if as_json:
        print_json(encode(facts))
        return
    print_facts(
        [
            ("system", f"{facts.os_name} ({facts.family or 'not supported'}, {facts.architecture})"),
            ("host name", facts.hostname),
            ("boots by", f"{facts.firmware}, {facts.bootloader or 'no known boot loader'}"),
            ("root", _place(facts)),
            ("network", facts.network_stack),
        ]
    )
    for nic in facts.nics:
        say(f"  {nic.name}: {nic.method} {' '.join(nic.addresses)}".rstrip())
    for kernel in facts.kernels:
        lacks = f"lacks {', '.join(kernel.missing)}" if kernel.missing else "lacks nothing"
        if kernel.cannot_extend:
            lacks = f"nothing can be appended to its initramfs ({kernel.cannot_extend})"
        say(f"kernel {kernel.version}: {lacks}")
    for heading, lines in (
        ("name that changes", facts.unstable_names),
        ("warning", facts.warnings),
        ("problem", facts.problems),
    ):
        for line in lines:
            say(f"{heading}: {line}")


def _place(facts: GuestFacts) -> str:
    root = facts.root
    where = root.volume or (f"{root.disk} partition {root.partition}" if root.partition else root.disk)
    return f"{root.kind} on {where}, UUID {root.uuid}"


def _print_adaptation(done: Adaptation, as_json: bool, verb: str) -> None:
    from refloat.codec import encode

    if as_json:
        print_json(encode(done))
        return
    for change in done.changes:
        say(f"{verb} {change.path}: {change.reason}")
        for line in change.diff.splitlines():
            say(line)
    say(f"{len(done.changes)} changes")
