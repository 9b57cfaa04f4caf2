"""Faults that a test injects, by command and by the how manyeth call of it."""

from dataclasses import dataclass, field

KINDS = ("error", "close_before", "close_after", "hang", "garbage", "page")


@dataclass
class Fault:
    """error: the code and text, without effect. close_before and close_after: the connection is cut without
    an
    answer, the request lost or carried out. hang: carried out, and no answer within `seconds`. garbage: 200
    with
    half of the JSON. page: an HTML page of a proxy with `code`."""

    command: str  # "*": every command
    kind: str
    nth: int = 1
    times: int = 1
    code: int = 503
    text: str = "injected"
    seconds: float = 5.0


@dataclass
class Faults:
    planned: list[Fault] = field(default_factory=list)
    seen: dict[str, int] = field(default_factory=dict)
    hit: list[Fault] = field(default_factory=list)

    def add(self, fault: Fault) -> Fault:
        """From now on: the fault's nth call of its command (counted from here) and the `times` - 1 after
        it."""
        assert fault.kind in KINDS, fault.kind
        fault.nth += self.seen.get(fault.command, 0)
        self.planned.append(fault)
        return fault

    def clear(self) -> None:
        self.planned.clear()

    def next(self, command: str) -> Fault | None:
        found = None
        for name in (command, "*"):
            number = self.seen[name] = self.seen.get(name, 0) + 1
            for fault in self.planned:
                if fault.command == name and fault.nth <= number < fault.nth + fault.times:
                    found = found or fault
        if found is not None:
            self.hit.append(found)
        return found
