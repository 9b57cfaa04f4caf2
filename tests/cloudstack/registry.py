"""Which function carries out which API command, and what a command is given."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.cloudstack.cloud import Cloud
from tests.cloudstack.jobs import Started
from tests.cloudstack.model import Key
from tests.cloudstack.params import Params


@dataclass(frozen=True)
class Call:
    """One request of one key; p: its parameters."""

    cloud: Cloud
    p: Params
    key: Key
    published: dict[str, Any]  # parameters.json's commands

    def may(self, name: str) -> bool:
        """Whether the key's role permits a command (DynamicRoleBasedAPIAccessChecker)."""
        spec = self.published.get(name)
        if spec is None or name in self.key.denied:
            return False
        if self.key.allowed is not None:
            return name in self.key.allowed
        return not spec.get("admin") or self.root_admin

    @property
    def root_admin(self) -> bool:
        return self.key.role == "Admin"


Answer = dict[str, Any]
Handler = Callable[[Call], Answer | Started]
COMMANDS: dict[str, Handler] = {}


def command(name: str) -> Callable[[Handler], Handler]:
    def register(handler: Handler) -> Handler:
        COMMANDS[name] = handler
        return handler

    return register


def listing(name: str, items: list[Answer], call: Call) -> Answer:
    """A list response: empty is an empty object, without count (ListResponse); page and pagesize are
    honoured."""
    size, page = call.p.whole("pagesize"), call.p.whole("page")
    if not items:
        return {}
    chosen = items
    if size is not None and size > 0:
        first = ((page or 1) - 1) * size
        chosen = items[first : first + size]
    return {"count": len(items), name: chosen}
