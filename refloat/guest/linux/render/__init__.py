"""What becomes of a guest's network files: pure functions, texts in and texts out.

Only the first boot knows what an adapter is called on the new hardware (ens192 becomes ens4 or enp0s3):
the files get a placeholder where its name belongs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from refloat.errors import Failed, Refused
from refloat.guest.linux.network import resolver as resolver_files
from refloat.guest.linux.network.stacks import DIALECTS, owned, read, stacks_of
from refloat.guest.linux.render import ifcfg, ifupdown, keyfile, netplan, networkd, resolver, wicked
from refloat.guest.linux.render.types import (
    PLACEHOLDER,
    Changed,
    Files,
    Rendered,
    RenderedFile,
    placeholder,
)
from refloat.guest.linux.render.verify import after, differences
from refloat.model import LinkKind, NetworkMode, NicConfig

__all__ = (
    "PLACEHOLDER",
    "Rendered",
    "RenderedFile",
    "after",
    "new_files",
    "placeholder",
    "render",
    "verify",
)

_NEW = (NetworkMode.READDRESS, NetworkMode.DHCP)


@dataclass(frozen=True)
class Renderer:
    rename: Callable[[Files, Mapping[str, str], Mapping[str, str]], dict[str, tuple[str, str]]]
    change: Callable[[Files, NicConfig, NicConfig], Changed]
    new_files: Callable[[NicConfig, str, int, Files], tuple[RenderedFile, ...]]


RENDERERS = {
    "ifupdown": Renderer(ifupdown.rename, ifupdown.change, ifupdown.new_files),
    "netplan": Renderer(netplan.rename, netplan.change, netplan.new_files),
    "networkmanager": Renderer(keyfile.rename, keyfile.change, keyfile.new_files),
    "ifcfg": Renderer(ifcfg.rename, ifcfg.change, ifcfg.new_files),
    "networkd": Renderer(networkd.rename, networkd.change, networkd.new_files),
    "wicked": Renderer(wicked.rename, wicked.change, wicked.new_files),
}


def render(stack: str, files: Mapping[str, str], plan: Sequence[Rendered]) -> tuple[RenderedFile, ...]:
    """The files that change for this plan; `stack` and `files` come from network.look() and .files().

    The result is parsed again and compared with what was intended (verify). Raises Refused for what
    cannot be mapped, Failed where the result does not say what was intended.
    """
    plan = [item for item in plan if item.mode is not NetworkMode.PRESERVE]
    known = {nic.name for nic in read(stack, files).nics}
    current = dict(files)
    gone: set[str] = set()
    for item in [item for item in plan if item.mode in _NEW]:
        for new in (item.config, *item.above):
            if new.name in known:
                gone |= _changed(stack, current, new)
    done = _renamed(stack, files, current, gone, [item for item in plan if item.old_name in known])
    for item in [item for item in plan if item.old_name not in known]:
        done += new_files(stack, item.config, item.placeholder, item.index, after(files, done))
    verify(stack, files, done, plan)
    return tuple(done)


def _changed(stack: str, current: dict[str, str], new: NicConfig) -> set[str]:
    """Configures an interface anew in `current`; the paths of files that go away."""
    whole = next(nic for nic in read(stack, current).nics if nic.name == new.name)
    for name in stacks_of(stack):
        here = owned(name, current)
        old = next((nic for nic in DIALECTS[name].parse(here).nics if nic.name == new.name), None)
        if old is None:
            continue
        if not _differs(whole, new):
            return set()
        own = new
        if new.addresses and set(resolver_files.machine_wide(current)[0]) == set(whole.dns):
            machine = resolver.change(current, whole, new)
            current.update({path: text for path, text in machine.items() if text is not None})
        if whole.dns != old.dns or whole.search != old.search:
            # The servers are the machine's words alone, not the interface's.
            own = replace(new, dns=old.dns, search=old.search)
        changed = RENDERERS[name].change(here, old, own)
        gone = {path for path, text in changed.items() if text is None}
        current.update({path: text for path, text in changed.items() if text is not None})
        for path in gone:
            current.pop(path, None)
        return gone
    return set()


def _differs(old: NicConfig, new: NicConfig) -> bool:
    """Whether another configuration is wanted. A file is not touched for its order of addresses."""
    fields = ("method", "method6", "gateway", "gateway6")
    lists = ("addresses", "dns", "search", "routes")
    return any(getattr(old, name) != getattr(new, name) for name in fields) or any(
        set(getattr(old, name)) != set(getattr(new, name)) for name in lists
    )


def _renamed(
    stack: str, files: Files, current: Files, gone: set[str], plan: Sequence[Rendered]
) -> list[RenderedFile]:
    names = {item.old_name: item.placeholder for item in plan}
    macs = {
        item.source_mac.lower(): item.mac.lower()
        for item in plan
        if item.source_mac and item.mac and item.source_mac.lower() != item.mac.lower()
    }
    done = [RenderedFile(path, path, None) for path in sorted(gone)]
    for name in stacks_of(stack):
        for path, (new_path, text) in RENDERERS[name].rename(owned(name, current), names, macs).items():
            if new_path != path or text != files.get(path):
                # A profile of the system's is hidden by one of the same name, not replaced.
                hides = path.startswith(("/usr/", "/lib/")) or path not in files
                done.append(RenderedFile("" if hides else path, new_path, text))
    for path in current:
        if resolver_files.owns(path) and current[path] != files.get(path):
            done.append(RenderedFile(path, path, current[path]))
    return done


def verify(
    stack: str, files: Mapping[str, str], done: Sequence[RenderedFile], plan: Sequence[Rendered]
) -> None:
    """Parses `files` with the changes `done` and compares with the plan. Raises Failed."""
    wrong = differences(stack, files, done, plan)
    left = [words for words in wrong if "still names" in words or "no place to name" in words]
    if wrong and left == wrong:
        raise Refused(
            "; ".join(wrong),
            code="guest_network",
            hint="mend this at the source, or choose the network mode preserve",
        )
    if wrong:
        raise Failed(
            f"the rendered network configuration is not what was intended: {'; '.join(wrong)}",
            code="guest_network_render",
            hint="choose the network mode preserve for this guest and report this as a defect",
        )


def new_files(
    stack: str, config: NicConfig, name: str, index: int, files: Mapping[str, str]
) -> list[RenderedFile]:
    """A complete configuration for a guest whose files say nothing about the adapter.

    `name` is the adapter's placeholder. The files are called refloat-* as far as the stack allows.
    Raises Refused for what needs more than an adapter, or where no stack is known.
    """
    stacks = stacks_of(stack)
    if not stacks:
        raise Refused(
            "it is not certain what configures the guest's network",
            code="guest_network",
            hint="choose the network mode preserve",
        )
    if config.kind is not LinkKind.ETHERNET:
        raise Refused(f"{config.name} is a {config.kind}: it cannot be made anew", code="guest_network")
    return list(RENDERERS[stacks[0]].new_files(config, name, index, files))
