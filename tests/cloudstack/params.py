"""The parameters of one request, read as CloudStack's ParamProcessWorker reads them.

Names are case-blind; the fields of a map (`details[0].cpuNumber=2`) keep their case.
"""

import re
from collections.abc import Mapping

from tests.cloudstack.errors import refuse

FIELD = re.compile(r"(?P<name>[^\[\]]+)\[(?P<index>[^\]]*)\](?:\.(?P<field>.+))?")


class Params:
    def __init__(self, command: str, raw: Mapping[str, str]) -> None:
        self.command = command
        self.plain: dict[str, str] = {}
        self.grouped: dict[str, dict[str, dict[str, str]]] = {}
        for key, value in raw.items():
            match = FIELD.fullmatch(key)
            if match is None:
                self.plain[key.lower()] = value
                continue
            group = self.grouped.setdefault(match["name"].lower(), {}).setdefault(match["index"], {})
            group[match["field"] or "value"] = value

    def names(self) -> set[str]:
        return set(self.plain) | set(self.grouped)

    def get(self, name: str) -> str | None:
        return self.plain.get(name)

    def need(self, name: str) -> str:
        value = self.plain.get(name)
        if not value:
            raise refuse(
                f"Unable to execute API command {self.command.lower()} due to missing parameter {name}"
            )
        return value

    def flag(self, name: str, default: bool = False) -> bool:
        value = self.plain.get(name)
        return default if value is None else value.lower() == "true"

    def whole(self, name: str) -> int | None:
        """An integer or None; 431 with CloudStack's words when it is none."""
        value = self.plain.get(name)
        if value is None:
            return None
        try:
            return int(value)
        except ValueError:
            raise self.invalid(name, value) from None

    def words(self, name: str) -> list[str]:
        value = self.plain.get(name)
        return [part for part in value.split(",") if part] if value else []

    def groups(self, name: str) -> list[dict[str, str]]:
        """`name[0].a=..&name[1].a=..` as a list of maps, in the order of their index."""
        found = self.grouped.get(name, {})
        return [found[index] for index in sorted(found)]

    def merged(self, name: str) -> dict[str, str]:
        """`details[0].a=1&details[0].b=2` as one map."""
        return {key: value for group in self.groups(name) for key, value in group.items()}

    def invalid(self, name: str, value: str) -> Exception:
        return refuse(
            f"Unable to execute API command {self.command.lower()} due to invalid value. Invalid parameter "
            f"{name} value={value} due to incorrect long value format, or entity does not exist or due to "
            "incorrect parameter annotation for the field in api cmd class."
        )
