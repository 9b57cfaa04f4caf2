"""SELinux labels for new files, from the guest's own policy. A whole relabel is never asked for.

The offline kernel knows nothing of the guest's policy: what it creates is unlabeled, and an enforcing
guest denies its services such files. So each new file gets the label that the guest's file_contexts(5)
has for its path, as `restorecon` would give it.
"""

from __future__ import annotations

import re
import stat
from dataclasses import dataclass
from functools import cached_property

from refloat.guest.tree import Tree

XATTR = "security.selinux"
_CONFIG = "/etc/selinux/config"
_LIMIT = 16 * 1024 * 1024
_TYPES = {"--": stat.S_IFREG, "-d": stat.S_IFDIR, "-l": stat.S_IFLNK}
_OTHER_TYPES = frozenset({"-b", "-c", "-p", "-s"})
_POLICY_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_CONTEXT = re.compile(r"[A-Za-z0-9_.:,-]{3,256}")
_META = frozenset("\\.^$?*+|[({")
# The patterns come from the guest. Ours are short paths; only a pattern that repeats what may match in
# several ways, or repeats often, could take long on them, and no policy has such for our paths.
_TOKENS = re.compile(r"\\.|\[\^?\]?(?:[^\]\\]|\\.)*\]|[()|*+?{]", re.DOTALL)
_PATTERN_LIMIT = 1000  # characters
_REPETITIONS = 4
_OPTIONS = 6


@dataclass(frozen=True)
class Rule:
    """One line of file_contexts: for paths that match `pattern`, of `kind` (an S_IF*, 0 for all)."""

    pattern: str
    kind: int
    context: str

    @cached_property
    def stem(self) -> str:
        """What every matching path starts with."""
        end = next((at for at, char in enumerate(self.pattern) if char in _META), len(self.pattern))
        # A repetition may mean that the character before it is not there at all.
        return (
            self.pattern[: end - 1] if self.pattern[end : end + 1] in ("?", "*", "{") else self.pattern[:end]
        )

    @cached_property
    def _is_cheap(self) -> bool:
        """Whether no path could take it long: no group with a choice in it is repeated, little is at all."""
        if len(self.pattern) > _PATTERN_LIMIT:
            return False
        tokens = [match[0] for match in _TOKENS.finditer(self.pattern)]
        choices = [False]  # of each open group: whether it may match in several ways
        for match in _TOKENS.finditer(self.pattern):
            token, after = match[0], f"{self.pattern} "[match.end()]
            if token == "(":
                choices.append(False)
            elif token == ")" and len(choices) > 1:
                inner = choices.pop()
                if inner and after in "*+{":
                    return False
                choices[-1] |= inner
            elif token in "|*+?{":
                choices[-1] = True
        repeated = sum(token in "*+{" for token in tokens)
        return repeated <= _REPETITIONS and tokens.count("?") <= _OPTIONS

    @property
    def is_plain(self) -> bool:
        return not _META & set(self.pattern.replace("\\", ""))

    def matches(self, path: str, kind: int) -> bool:
        if self.kind not in (0, kind) or not path.startswith(self.stem):
            return False
        if not self._is_cheap:
            return False
        try:
            return re.fullmatch(self.pattern, path) is not None
        except re.error:
            return False


@dataclass(frozen=True)
class Labels:
    """A policy's labels. `aliases` are prefixes that count as others (file_contexts.subs)."""

    rules: tuple[Rule, ...]
    aliases: tuple[tuple[str, str], ...] = ()

    def of(self, path: str, kind: int) -> tuple[tuple[str, bytes], ...]:
        """The extended attributes of a new file at `path`; none where the policy has no label for it.

        As libselinux does: a path that is written out in full wins, else the last pattern that matches.
        """
        meant = self._substituted(path)
        matching = [rule for rule in self.rules if rule.matches(meant, kind)]
        if not matching:
            return ()
        best = next((rule for rule in reversed(matching) if rule.is_plain), matching[-1])
        if best.context == "<<none>>":
            return ()
        return ((XATTR, best.context.encode() + b"\0"),)

    def _substituted(self, path: str) -> str:
        for old, new in self.aliases:
            if path == old or path.startswith(f"{old}/"):
                return new + path[len(old) :]
        return path


NO_LABELS = Labels(())


def labels(tree: Tree) -> Labels:
    """The labels of the policy that the guest uses; none where SELinux is disabled or not installed."""
    config = _assignments(tree.read_optional(_CONFIG))
    policy = config.get("SELINUXTYPE", "")
    if config.get("SELINUX", "disabled").lower() == "disabled" or not _POLICY_NAME.fullmatch(policy):
        return NO_LABELS
    base = f"/etc/selinux/{policy}/contexts/files/file_contexts"
    rules = [rule for end in ("", ".local") for rule in parse(_read(tree, base + end))]
    aliases = [pair for end in (".subs_dist", ".subs") for pair in _pairs(_read(tree, base + end))]
    return Labels(tuple(rules), tuple(aliases))


def parse(text: str) -> tuple[Rule, ...]:
    """The rules of a file_contexts; lines that are none are left out."""
    rules = []
    for line in text.split("\n"):
        words = line.split()
        if len(words) not in (2, 3) or not words[0].startswith("/"):
            continue
        if words[1] in _OTHER_TYPES and len(words) == 3:
            continue
        kind = _TYPES.get(words[1], 0) if len(words) == 3 else 0
        if words[-1] == "<<none>>" or _CONTEXT.fullmatch(words[-1]):
            rules.append(Rule(words[0], kind, words[-1]))
    return tuple(rules)


def _read(tree: Tree, path: str) -> str:
    return tree.read_text(path, _LIMIT) if tree.is_file(path) else ""


def _pairs(text: str) -> list[tuple[str, str]]:
    words = (line.split() for line in text.split("\n"))
    return [(pair[0], pair[1]) for pair in words if len(pair) == 2 and pair[0].startswith("/")]


def _assignments(text: str) -> dict[str, str]:
    pairs = (line.partition("=") for line in text.split("\n") if not line.lstrip().startswith("#"))
    return {key.strip(): value.strip() for key, separator, value in pairs if separator}
