"""An interface's configuration in another subnet: pure arithmetic with addresses, and never a guess."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import replace

from refloat.errors import Refused
from refloat.model import NicConfig, NicMethod
from refloat.policy import NicRule, Readdress

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def readdressed(config: NicConfig, rules: Sequence[Readdress]) -> NicConfig:
    """The configuration with each address moved by the rule whose old subnet holds it.

    A gateway that the guest does not have is never added. Servers outside of the old subnets stay.
    Raises Refused for an address or a gateway that no rule covers, and for one that does not fit.
    """
    try:
        return _readdressed(config, rules)
    except ValueError as error:
        raise _refused(f"{config.name}: {error}", "mend the guest's configuration at the source") from error


def _readdressed(config: NicConfig, rules: Sequence[Readdress]) -> NicConfig:
    gateways = {family: _gateway(config, family, rules) for family in (4, 6)}
    return replace(
        config,
        addresses=tuple(_moved_interface(config, address, rules) for address in config.addresses),
        gateway=gateways[4],
        gateway6=gateways[6],
        dns=_servers(config.dns, rules),
        routes=tuple(
            replace(route, to=_moved_target(route.to, rules), via=_moved_or_same(route.via, rules))
            for route in config.routes
        ),
    )


def with_own_addresses(config: NicConfig, rule: NicRule) -> NicConfig:
    """The configuration with the addresses that the operator names. What the rule does not name of
    servers and search domains stays; gateways and routes of the old subnet go."""
    families = {ipaddress.ip_interface(address).version for address in rule.addresses}
    return replace(
        config,
        method=NicMethod.STATIC if 4 in families else NicMethod.NONE,
        method6=NicMethod.STATIC if 6 in families else NicMethod.NONE,
        addresses=rule.addresses,
        gateway=rule.gateway,
        gateway6=rule.gateway6,
        dns=rule.dns or config.dns,
        search=rule.search or config.search,
        routes=(),
    )


def _moved_interface(config: NicConfig, text: str, rules: Sequence[Readdress]) -> str:
    """One address with its prefix in the new subnet. Link-local addresses are the same everywhere."""
    old = ipaddress.ip_interface(text)
    if old.is_link_local:
        return text
    rule = _rule_of(old.ip, rules)
    if rule is None:
        raise _refused(
            f"no rule says where the address {text} of {config.name} goes",
            f"add {{from: {old.network}, to: ...}} to the mapping's readdress; the same subnet keeps it",
        )
    before, after = _network(rule.old), _network(rule.new)
    if old.network.prefixlen == before.prefixlen:
        prefix = after.prefixlen
    elif before.prefixlen == after.prefixlen:
        prefix = old.network.prefixlen
    else:
        raise _refused(
            f"{text} of {config.name} is in a subnet of another size than the rule's {before}",
            f"write the rule for {old.network}",
        )
    return f"{_moved(old.ip, rule)}/{prefix}"


def _gateway(config: NicConfig, family: int, rules: Sequence[Readdress]) -> str:
    text = config.gateway if family == 4 else config.gateway6
    if not text or ipaddress.ip_address(text).is_link_local:
        return text
    # The rules that move this interface's addresses come first: a named gateway belongs to its subnet.
    own = [_rule_of(ipaddress.ip_interface(address).ip, rules) for address in config.addresses]
    for rule in own:
        if rule is not None and rule.gateway and ipaddress.ip_address(rule.gateway).version == family:
            return rule.gateway
    rule = _rule_of(ipaddress.ip_address(text), rules)
    if rule is None:
        raise _refused(
            f"no rule says what becomes of the gateway {text} of {config.name}",
            "name the new gateway in the mapping's readdress rule",
        )
    return str(_moved(ipaddress.ip_address(text), rule))


def _servers(servers: Sequence[str], rules: Sequence[Readdress]) -> tuple[str, ...]:
    """Servers that a rule names replace all of the guest's."""
    named = tuple(dict.fromkeys(server for rule in rules for server in rule.dns))
    if not servers:
        return ()
    return named or tuple(_moved_or_same(server, rules) for server in servers)


def _moved_or_same(text: str, rules: Sequence[Readdress]) -> str:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return text
    rule = _rule_of(address, rules)
    return text if rule is None else str(_moved(address, rule))


def _moved_target(text: str, rules: Iterable[Readdress]) -> str:
    """A route to an old subnet leads to the new one; any other stays."""
    return next((str(_network(rule.new)) for rule in rules if rule.old == text), text)


def _rule_of(address: Address, rules: Sequence[Readdress]) -> Readdress | None:
    """The narrowest rule that holds this address."""
    fitting = [rule for rule in rules if address in _network(rule.old)]
    return max(fitting, key=lambda rule: _network(rule.old).prefixlen, default=None)


def _moved(address: Address, rule: Readdress) -> Address:
    """The same host in the new subnet, if it has room for that number."""
    before, after = _network(rule.old), _network(rule.new)
    host = int(address) - int(before.network_address)
    # The last address of an IPv4 subnet is its broadcast address (but for /31 and /32).
    last = after.num_addresses - (2 if after.version == 4 and after.prefixlen < 31 else 1)
    if host > last:
        raise _refused(
            f"{address} has no place in {after}: its host part is {host}",
            "name the adapter's new addresses in the policy's `nics`",
        )
    return ipaddress.ip_address(int(after.network_address) + host)


def _network(text: str) -> Network:
    return ipaddress.ip_network(text)


def _refused(message: str, hint: str) -> Refused:
    return Refused(message, code="readdress", hint=hint)
