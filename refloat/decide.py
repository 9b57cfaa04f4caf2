"""What to do about a guest: adapt, skip or refuse, always with reasons. Pure: facts in, decision out."""

from __future__ import annotations

import fnmatch
import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from refloat.errors import Refused
from refloat.model import (
    Action,
    Decision,
    DiskBus,
    GuestFacts,
    LinkKind,
    NetworkMode,
    NicConfig,
    NicMethod,
    NicModel,
    PlannedNic,
    SourceNic,
    SourceVM,
)
from refloat.policy import AdaptChoice, NicRule, PinNames, Policy, Readdress, Rebuild
from refloat.readdress import readdressed, with_own_addresses
from refloat.seen_network import compared, fits
from refloat.windows import needs as windows_needs


def decide(
    facts: GuestFacts,
    source: SourceVM,
    disk_bus: DiskBus,
    nic_model: NicModel,
    choice: AdaptChoice,
    nics: Sequence[PlannedNic] = (),
    destination_cpu_level: int | None = None,
    refusals: Sequence[str] = (),
) -> Decision:
    """The decision for this guest on that hardware, under the policy's choice; `nics` as they are planned.

    `destination_cpu_level` is the x86-64 level of the destination's processor, where it is known;
    `refusals` are why this guest must not be adapted, if it would be.
    """
    if choice is AdaptChoice.NEVER:
        return Decision(Action.SKIP, ("the policy says: never adapt",))
    if facts.problems:
        return Decision(Action.REFUSE, facts.problems)
    firmwares = facts.firmwares or (facts.firmware,)
    if source.firmware not in firmwares:
        installed = " and ".join(firmwares)
        return Decision(
            Action.REFUSE,
            (f"the platform says firmware {source.firmware}, the disk is installed for {installed}",),
        )
    if destination_cpu_level is not None and destination_cpu_level < facts.cpu_level:
        return Decision(
            Action.REFUSE,
            (
                f"{facts.os_name} needs a processor of the level x86-64-v{facts.cpu_level},"
                f" the destination's has x86-64-v{destination_cpu_level}",
            ),
        )
    needs = [*_needs(facts, source, disk_bus, nic_model), *_rewrites(nics)]
    if refusals and (needs or choice is AdaptChoice.ALWAYS):
        return Decision(Action.REFUSE, tuple(refusals))
    if needs:
        return Decision(Action.ADAPT, tuple(needs))
    if choice is AdaptChoice.ALWAYS:
        return Decision(Action.ADAPT, ("nothing needs it, but the policy says: always adapt",))
    same = f"source and destination hardware are compatible ({disk_bus}, {nic_model})"
    return Decision(Action.SKIP, (same, "nothing is staged in the guest: the verdict needs outside evidence"))


def _needs(facts: GuestFacts, source: SourceVM, disk_bus: DiskBus, nic_model: NicModel) -> list[str]:
    reasons = [
        f"initramfs of kernel {kernel.version} lacks {', '.join(kernel.missing)}"
        for kernel in facts.kernels
        if kernel.missing
    ]
    reasons += [f"{words}: the guest's own tool makes it anew" for words in _not_extended(facts)]
    buses = {disk.bus for disk in source.disks} - {disk_bus}
    if buses:
        reasons.append(f"disks move from {', '.join(sorted(buses))} to {disk_bus}")
        reasons += [f"{name} changes with the disk bus" for name in facts.unstable_names]
    models = {nic.model for nic in source.nics} - {nic_model}
    if models:
        new = "are new to Windows" if facts.windows else "are renamed"
        reasons.append(f"adapters move from {', '.join(sorted(models))} to {nic_model}, and {new}")
    return [*reasons, *(windows_needs(facts.windows, disk_bus) if facts.windows else [])]


def _not_extended(facts: GuestFacts) -> list[str]:
    return [
        f"nothing can be appended to the initramfs of kernel {kernel.version} ({kernel.cannot_extend})"
        for kernel in facts.kernels
        if kernel.cannot_extend
    ]


def rebuild_refusals(facts: GuestFacts, rebuild: Rebuild) -> list[str]:
    """Why a guest is not adapted whose own tool would have to run."""
    if rebuild is Rebuild.ALLOWED:
        return []
    advice = (
        f"with `rebuild: allowed` in its policy the guest's own {facts.initramfs_tool} may make it anew, "
        "confined in the controller; or make it anew in the guest"
    )
    return [f"{words}: {advice}" for words in _not_extended(facts)]


def _rewrites(nics: Sequence[PlannedNic]) -> list[str]:
    new = (NetworkMode.READDRESS, NetworkMode.DHCP)
    return [f"adapter {nic.source_mac}: {nic.reason}" for nic in nics if nic.mode in new]


# ---------------------------------------------------------------- network

# Names by the slot, as the kernel of a VMware guest gives them; names that the kernel only counts.
_SLOT_NAME = re.compile(r"ens\d+")
_COUNTED_NAME = re.compile(r"(?:eth|wlan)\d+")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_.-]{1,15}")
_AUTOMATIC = (NicMethod.DHCP, NicMethod.AUTO)


@dataclass(frozen=True)
class Place:
    """Where an adapter goes: its planned MAC, its network there, and the rules for the subnets of that."""

    nic: SourceNic
    mac: str
    network: str
    rules: tuple[Readdress, ...] = ()


@dataclass(frozen=True)
class Match:
    """Which interface belongs to an adapter, and by what evidence; or None, and why."""

    config: NicConfig | None
    why: str


def match_nics(nics: Sequence[SourceNic], configs: Sequence[NicConfig]) -> dict[str, Match]:
    """By the source's MAC: the guest's interface of each adapter. Only evidence counts, never an order."""
    physical = [config for config in configs if config.kind is LinkKind.ETHERNET]
    free = [config for config in physical if not _shadowed(config, physical)]
    if not free:
        return {nic.mac: Match(None, "the guest's files configure no interface") for nic in nics}
    found: dict[str, Match] = {}
    for evidence in (_by_mac, _by_slot, fits, _by_pattern):
        waiting = [nic for nic in nics if nic.mac not in found]
        pairs = [(nic, config) for nic in waiting for config in free if evidence(nic, config)]
        for nic, config in pairs:
            # What fits two of the other side proves nothing.
            if sum(nic is one or config is other for one, other in pairs) == 1:
                found[nic.mac] = Match(config, _EVIDENCE[evidence].format(nic.mac, nic.guest_name))
                free.remove(config)
    # An interface that is tied to another address belongs to none of these adapters.
    free = [config for config in free if not config.mac]
    open_nics = [nic for nic in nics if nic.mac not in found]
    if len(open_nics) == len(free) == 1 and not _contradict(open_nics[0], free[0]):
        found[open_nics[0].mac] = Match(free[0], "it is the only one left")
    names = ", ".join(config.name for config in free)
    for nic in open_nics:
        why = f"which of {names} belongs to adapter {nic.mac} is not certain" if free else ""
        found.setdefault(nic.mac, Match(None, why or "the guest's files configure no interface for it"))
    return found


def _by_mac(nic: SourceNic, config: NicConfig) -> bool:
    return config.mac.lower() == nic.mac.lower()


def _by_slot(nic: SourceNic, config: NicConfig) -> bool:
    return bool(nic.guest_name) and not config.mac and nic.guest_name == config.name


def _by_pattern(nic: SourceNic, config: NicConfig) -> bool:
    """networkd's names may be patterns; a name of its own comes first, as a rule in an earlier file."""
    return bool(nic.guest_name) and not config.mac and fnmatch.fnmatchcase(nic.guest_name, config.name)


_EVIDENCE = {
    _by_mac: "the guest's files tie it to {0}",
    _by_slot: "its slot gives it the name {1}",
    fits: "the platform saw these addresses on {0}",
    _by_pattern: "its slot gives it the name {1}",
}


def _shadowed(config: NicConfig, configs: Sequence[NicConfig]) -> bool:
    """Whether a pattern in an earlier file takes the interface that this configuration names: its own is
    never read then."""
    return any(
        other.name != config.name
        and fnmatch.fnmatchcase(config.name, other.name)
        and bool(other.sources and config.sources)
        and _file(other) < _file(config)
        for other in configs
    )


def _file(config: NicConfig) -> str:
    return posixpath.basename(config.sources[0])


def _contradict(nic: SourceNic, config: NicConfig) -> bool:
    """Two names by slot that differ: this interface is not that adapter's."""
    both = _SLOT_NAME.fullmatch(nic.guest_name) and _SLOT_NAME.fullmatch(config.name)
    return bool(both) and nic.guest_name != config.name


def plan_nics(
    places: Sequence[Place], configs: Sequence[NicConfig], policy: Policy, windows: bool = False
) -> tuple[PlannedNic, ...]:
    """What happens to each adapter. `configs` are all interfaces of the guest's files. Windows names no
    adapter by its slot, and its names cannot be tied to one: each new adapter starts with DHCP.

    Never a guess: where it is not certain which interface belongs to an adapter, nothing is rewritten.
    Raises Refused where the policy asks for other addresses and does not say which.
    """
    if windows:
        places = [replace(place, nic=replace(place.nic, guest_name="")) for place in places]
        # Nor does an entry shadow another there, as a file of networkd's does.
        plain = [replace(config, sources=()) for config in configs]
        planned = plan_nics(places, plain, _without_pins(policy))
        rules = {place.nic.mac: place.rules for place in places}
        return tuple(_new_to_windows(nic, configs, policy, bool(rules[nic.source_mac])) for nic in planned)
    matches = match_nics([place.nic for place in places], configs)
    alone = len(places) == 1
    return tuple(_plan_nic(place, matches[place.nic.mac], configs, policy, alone) for place in places)


def _without_pins(policy: Policy) -> Policy:
    rules = tuple(replace(rule, pin_names=None) for rule in policy.nics)
    return replace(policy, pin_names=PinNames.NEVER, nics=rules)


def _new_to_windows(
    nic: PlannedNic, configs: Sequence[NicConfig], policy: Policy, elsewhere: bool
) -> PlannedNic:
    """Says what becomes of an adapter whose old configuration stays behind with the old adapter: its own name
    servers are restored beside DHCP, unless it is `elsewhere`, in another subnet."""
    own = [one.sources for one in configs if nic.config and one.name == nic.config.name]
    if nic.config and len(own) == 1:
        nic = replace(nic, config=replace(nic.config, sources=own[0]))
    if nic.mode is not NetworkMode.PRESERVE:
        return nic
    said = nic.reason.partition("; nothing ties")[0]
    dns = ", ".join(nic.config.dns) if nic.config and nic.config.method is NicMethod.DHCP else ""
    wanted = policy.nic(nic.source_mac).network or policy.network
    if dns and wanted is NetworkMode.RESTORE and not elsewhere:
        return replace(nic, mode=wanted, reason=f"{said}, but its own name servers {dns}")
    without = f", without its own name servers {dns}" if dns else ""
    return replace(nic, reason=f"{said}; Windows starts a new adapter with DHCP{without}")


def _plan_nic(
    place: Place, match: Match, configs: Sequence[NicConfig], policy: Policy, alone: bool
) -> PlannedNic:
    """By the guest's files and what the platform saw. What the files do not have cannot be restored from
    them: it is written anew."""
    if match.why.endswith("not certain"):
        return _plan_known(place, match, configs, policy, alone)
    seen = compared(place.nic, match.config, _above(match.config, configs))
    planned = _plan_known(place, replace(match, config=seen.config), configs, policy, alone)
    if seen.platform and planned.mode is NetworkMode.RESTORE:
        planned = replace(planned, mode=NetworkMode.READDRESS)
    return replace(planned, reason="; ".join(filter(None, (planned.reason, seen.said))))


def _plan_known(
    place: Place, match: Match, configs: Sequence[NicConfig], policy: Policy, alone: bool
) -> PlannedNic:
    rule = policy.nic(place.nic.mac)
    mode = rule.network or (NetworkMode.READDRESS if rule.addresses else policy.network)
    config, above = match.config, _above(match.config, configs)
    keep = _Keeper(place, config, above, rule.pin_names or policy.pin_names, alone)
    if mode is NetworkMode.PRESERVE:
        return keep("the policy says: preserve the guest's networking", chosen=True)
    if config is None:
        return _unconfigured(place, match, rule, keep)
    static = [one for one in (config, *above) if _is_static(one)]
    if mode is NetworkMode.DHCP and (static or config.method is not NicMethod.DHCP):
        if above:
            names = ", ".join(one.name for one in above)
            return keep(f"the policy says dhcp, but {names} stands on {config.name}")
        return _planned(place, NetworkMode.DHCP, _dhcp(config), (), "the policy says: dhcp")
    if rule.addresses:
        wanted = with_own_addresses(config, rule)
        reason = f"{config.name} ({match.why}) gets {', '.join(rule.addresses)} by policy"
        return _planned(place, NetworkMode.READDRESS, wanted, above, reason)
    if not static:
        return keep(f"{config.name} uses {_methods(config)}: nothing to restore")
    return _static(place, match, config, above, static, mode)


def _static(
    place: Place,
    match: Match,
    config: NicConfig,
    above: tuple[NicConfig, ...],
    static: Sequence[NicConfig],
    mode: NetworkMode,
) -> PlannedNic:
    """A mapping with rules means that its network is another subnet there."""
    said = "; ".join(f"{one.name} is static with {', '.join(one.addresses)}" for one in static)
    reason = f"{said} ({match.why})"
    if mode is NetworkMode.RESTORE and not place.rules:
        return _planned(place, NetworkMode.RESTORE, config, above, reason)
    if not place.rules:
        raise Refused(
            f"the policy says readdress, but no rule says what {place.nic.network!r} becomes",
            code="readdress",
            hint="add `readdress` to its mapping, or the adapter's addresses to the policy's `nics`",
        )
    new, new_above = readdressed(config, place.rules), tuple(readdressed(one, place.rules) for one in above)
    now = ", ".join(address for one in (new, *new_above) for address in one.addresses)
    return _planned(place, NetworkMode.READDRESS, new, new_above, f"{reason}; there it is {now}")


def _unconfigured(place: Place, match: Match, rule: NicRule, keep: _Keeper) -> PlannedNic:
    """An adapter of which the guest's files say nothing: only the operator's word on it makes a new file."""
    if match.why.endswith("not certain"):
        return keep(match.why)
    blank = NicConfig(place.nic.guest_name, NicMethod.DHCP)
    if rule.addresses:
        wanted = with_own_addresses(blank, rule)
        reason = f"{match.why}; it gets {', '.join(rule.addresses)} by policy"
        return _planned(place, NetworkMode.READDRESS, wanted, (), reason)
    if rule.network is NetworkMode.DHCP:
        return _planned(place, NetworkMode.DHCP, blank, (), f"{match.why}; the policy says: dhcp")
    return keep(match.why)


def _planned(
    place: Place, mode: NetworkMode, config: NicConfig | None, above: tuple[NicConfig, ...], reason: str
) -> PlannedNic:
    return PlannedNic(place.mac, place.nic.mac, place.network, mode, config, reason, above=above)


@dataclass(frozen=True)
class _Keeper:
    """Leaves an adapter's configuration alone; its old name is tied to the planned MAC where it may be."""

    place: Place
    config: NicConfig | None
    above: tuple[NicConfig, ...]
    names: PinNames
    alone: bool

    def __call__(self, reason: str, *, chosen: bool = False) -> PlannedNic:
        pin, why = self._pin(chosen)
        if self.config and self.config.mac and self.place.mac != self.place.nic.mac:
            why += f"; its files tie it to {self.config.mac}, which it no longer has"
        planned = _planned(self.place, NetworkMode.PRESERVE, self.config, self.above, f"{reason}{why}")
        return replace(planned, pin=pin)

    def _pin(self, chosen: bool) -> tuple[str, str]:
        """The name, and what is to be said of it."""
        if self.config is None or not _PLAIN_NAME.fullmatch(self.config.name):
            return "", ""  # not known, or a pattern that may hold there as well
        name = self.config.name
        if self.names is PinNames.NEVER or (self.names is PinNames.AUTO and chosen):
            return "", f"; nothing ties the name {name} to the adapter (pin_names: {self.names})"
        if _COUNTED_NAME.fullmatch(name) and not self.alone:
            return "", f"; {name} is a name that the kernel counts: it cannot be tied to one of several"
        return name, f"; the name {name} is tied to {self.place.mac}"


def _above(config: NicConfig | None, configs: Sequence[NicConfig]) -> tuple[NicConfig, ...]:
    """What stands on this interface, however high, the lowest first."""
    names = {config.name} if config else set()
    found: list[NicConfig] = []
    for _ in configs:
        more = [one for one in configs if one.name not in names and names & set(one.members)]
        names |= {one.name for one in more}
        found += more
    return tuple(found)


def _is_static(config: NicConfig) -> bool:
    return NicMethod.STATIC in (config.method, config.method6) and bool(config.addresses)


def _methods(config: NicConfig) -> str:
    used = [method for method in (config.method, config.method6) if method in _AUTOMATIC]
    return " and ".join(dict.fromkeys(used)) or "no address of its own"


def _dhcp(config: NicConfig) -> NicConfig:
    """The same interface with nothing of its own but its name, its MTU and what ties it to an adapter."""
    method6 = NicMethod.AUTO if config.method6 is NicMethod.STATIC else config.method6
    return replace(
        config,
        method=NicMethod.DHCP,
        method6=method6,
        addresses=(),
        gateway="",
        gateway6="",
        dns=(),
        search=(),
        routes=(),
    )
