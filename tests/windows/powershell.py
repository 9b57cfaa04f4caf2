"""A lint of PowerShell against what versions 2.0 to 5.1 and the constrained language lack. Own lists.

No PowerShell runs where this is tested: the syntax is tree-sitter's, the rest are rules over its tree. What
may be used at all is listed, so that a command or parameter nobody thought of is a finding.

A function whose comment begins with "# since 3.0" may use what came with Windows 8 (CMDLETS_LATER), one with
"# full language" may call methods; both may be called only where a condition asks whether that is there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import tree_sitter
import tree_sitter_powershell
from tree_sitter import Node

_LANGUAGE = tree_sitter.Language(tree_sitter_powershell.language())

_COMMON = {"erroraction", "errorvariable", "outvariable", "verbose"}
# Commands of PowerShell 2.0 with the parameters that they had then (of those that we use or might).
CMDLETS: dict[str, set[str]] = {
    "add-content": {"path", "literalpath", "value", "encoding", "force"},
    "add-type": {"memberdefinition", "name", "namespace", "passthru", "typedefinition"},
    "foreach-object": {"process", "begin", "end"},
    "get-childitem": {"path", "literalpath", "filter", "recurse", "force", "include", "exclude", "name"},
    "get-command": {"name", "commandtype", "module"},
    "get-content": {"path", "literalpath", "encoding", "totalcount", "readcount"},
    "get-date": {"date", "format", "uformat"},
    "get-item": {"path", "literalpath", "force"},
    "get-itemproperty": {"path", "literalpath", "name"},
    "get-service": {"name", "displayname"},
    "get-wmiobject": {"class", "filter", "namespace", "query", "property"},
    "invoke-wmimethod": {"class", "name", "inputobject", "argumentlist", "path", "namespace"},
    "new-item": {"path", "itemtype", "force", "value", "name"},
    "new-itemproperty": {"path", "name", "propertytype", "value", "force"},
    "new-timespan": {"seconds", "minutes", "hours", "days", "start", "end"},
    "out-null": set(),
    "remove-item": {"path", "literalpath", "recurse", "force"},
    "remove-itemproperty": {"path", "name", "force"},
    "select-object": {"first", "last", "property", "expandproperty", "unique"},
    "set-content": {"path", "literalpath", "value", "encoding", "force"},
    "set-itemproperty": {"path", "name", "value", "type", "force"},
    "sort-object": {"property", "descending", "unique"},
    "start-process": {
        "filepath", "argumentlist", "windowstyle", "wait", "passthru", "nonewwindow", "workingdirectory",
        "redirectstandardoutput", "redirectstandarderror", "redirectstandardinput",
    },
    "start-service": {"name"},
    "start-sleep": {"seconds", "milliseconds"},
    "test-connection": {"computername", "count", "quiet"},
    "test-path": {"path", "literalpath", "pathtype"},
    "where-object": {"filterscript"},
}  # fmt: skip
# Commands of Windows 8 and Server 2012 (PowerShell 3.0) that a marked function may use; parameters as above.
CMDLETS_LATER: dict[str, set[str]] = {
    "get-disk": {"number"},
    "get-netipaddress": {"interfaceindex", "addressfamily"},
    "get-netroute": {"interfaceindex", "destinationprefix", "addressfamily"},
    "invoke-webrequest": {"uri", "method", "body", "contenttype", "headers", "usebasicparsing", "timeoutsec"},
    "new-netipaddress": {"interfaceindex", "ipaddress", "prefixlength"},
    "new-netroute": {"interfaceindex", "destinationprefix", "nexthop", "routemetric"},
    "remove-netipaddress": {"confirm"},
    "remove-netroute": {"confirm"},
    "set-disk": {"number", "isoffline", "isreadonly"},
    "set-dnsclient": {"interfaceindex", "connectionspecificsuffix"},
    "set-dnsclientserveraddress": {"interfaceindex", "serveraddresses", "resetserveraddresses"},
    "set-netipinterface": {"interfaceindex", "addressfamily", "dhcp", "interfacemetric"},
}
# Types that the constrained language converts to and that .NET 2.0 has.
TYPES = {"int", "uint32", "bool", "string", "datetime", "hashtable", "char", "ref"}
OPERATORS_LATER = {"-in", "-notin", "-shl", "-shr", "-cin", "-iin", "-cnotin", "-inotin"}
STATEMENTS_LATER = {"class_statement", "enum_statement"}
WORDS_LATER = {"using", "workflow", "inlinescript", "parallel", "sequence", "configuration"}
VARIABLES_LATER = {"psitem", "psscriptroot", "pscommandpath", "isxwindows", "isislinux"}
# Variables that PowerShell sets by itself: to assign them fails, or misleads what is called.
AUTOMATIC = {
    "args", "error", "executioncontext", "false", "home", "host", "input", "lastexitcode", "matches",
    "myinvocation", "pid", "profile", "psitem", "pwd", "shellid", "stacktrace", "this", "true",
}  # fmt: skip# Of these and of those above, the values that may be read.
READABLE = AUTOMATIC | {"_", "null", "erroractionpreference", "progresspreference"}

SINCE, FULL = "since 3.0", "full language"
_GUARDS = {SINCE: "Test-Command", FULL: "Test-FullLanguage"}


@dataclass(frozen=True)
class Finding:
    line: int
    rule: str
    text: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.rule}: {self.text}"


@dataclass(frozen=True)
class Script:
    """A parsed script: its functions by lower-case name, each with its mark and its number of parameters;
    and its own variables."""

    root: Node
    marks: dict[str, str]
    parameters: dict[str, int]
    variables: dict[str, str]


def lint(text: str) -> list[Finding]:
    """Every finding, by line. A text that is no PowerShell has its syntax errors as findings."""
    script = _parsed(text)
    found = [
        Finding(node.start_point.row + 1, rule, _short(node))
        for node in _nodes(script.root)
        for rule in _faults(node, script)
    ]
    return sorted(set(found), key=lambda finding: (finding.line, finding.rule, finding.text))


def commands(text: str) -> set[str]:
    """The names of all commands that are called, in lower case."""
    return {
        _text(name).lower()
        for node in _nodes(_parsed(text).root)
        if node.type == "command" and (name := node.child_by_field_name("command_name")) is not None
    }


def _parsed(text: str) -> Script:
    root = tree_sitter.Parser(_LANGUAGE).parse(text.encode()).root_node
    marks, parameters, variables = {}, {}, {}
    for node in _nodes(root):
        if node.type == "function_statement":
            marks[_function_name(node)] = _mark(node)
            lists = [part for part in _nodes(node, deep=3) if part.type == "parameter_list"]
            parameters[_function_name(node)] = sum(
                part.type == "variable" and _is_bound(part) for one in lists for part in _nodes(one)
            )
        elif node.type == "assignment_expression" and _function(node) is None:
            for variable in _assigned(node):
                variables[_name(variable).lower()] = _name(variable)
    return Script(root, marks, parameters, variables)


# ---------------------------------------------------------------- rules


def _faults(node: Node, script: Script) -> Iterator[str]:
    if node.is_error or node.is_missing:
        yield "syntax"
    if node.type == "command":
        yield from _command_faults(node, script)
    if node.type == "comparison_operator" and _text(node).lower() in OPERATORS_LATER:
        yield "operator of a later version"
    if node.type in STATEMENTS_LATER or (
        node.type == "function_statement" and _text(node).split()[0].lower() in WORDS_LATER
    ):
        yield "statement of a later version"
    if node.type == "pipeline" and any(child.type in ("&&", "||") for child in _nodes(node, deep=2)):
        yield "operator of a later version"
    if node.type == "type_literal" and _text(node).strip("[]").lower() not in TYPES:
        yield "type"
    if node.type == "invokation_expression" and _mark_of(node, script) != FULL:
        yield "method"
    if node.type == "member_access":
        yield from _member_faults(node, script)
    if node.type == "redirection" and not _text(node).strip().startswith((">", "2>")):
        yield "redirection of a later version"
    if node.type == "foreach_statement" and not _is_list(_collection(node)):
        yield "foreach over what may be nothing: PowerShell 2.0 goes through it once; write @(...)"
    if node.type in ("additive_expression", "multiplicative_expression") and node.child_count > 1:
        yield from _comma_faults(node)
    if node.type == "variable":
        yield from _variable_faults(node, script)


def _command_faults(node: Node, script: Script) -> Iterator[str]:
    named = node.child_by_field_name("command_name")
    if named is None or named.type != "command_name":
        return  # & (...): a program
    name = _text(named).lower()
    if name in WORDS_LATER:
        yield "statement of a later version"
        return
    if name in script.marks:
        mark = script.marks[name]
        if mark and not (_mark_of(node, script) == mark or _is_guarded(node, _GUARDS[mark])):
            yield f"{mark}, but nothing asks before it is called"
        if _arguments(node) > script.parameters[name]:
            yield f"more arguments than {name} has parameters"
        return
    known = CMDLETS | (CMDLETS_LATER if _mark_of(node, script) == SINCE else {})
    if name not in known:
        yield "command"
        return
    if name == "add-type" and _mark_of(node, script) != FULL:
        yield "command"
    for child in _nodes(node, deep=2):
        if child.type == "command_parameter" and child.parent and child.parent.parent == node:
            word = _text(child).lstrip("-").rstrip(":").lower()
            if word not in known[name] | _COMMON:
                yield f"parameter {_text(child)}"
    if name in ("where-object", "foreach-object") and "{" not in _text(node):
        yield "short form of a later version"


def _member_faults(node: Node, script: Script) -> Iterator[str]:
    target, member = node.children[0], _text(node.children[-1]).lower()
    if "::" in _text(node)[len(_text(target)) :][:2] and _mark_of(node, script) != FULL:
        yield "static member"
    if member == "count" and not _is_list(target):
        yield "count of what may be one thing: PowerShell 2.0 gives nothing for it; write @(...).Count"


def _comma_faults(node: Node) -> Iterator[str]:
    """`@('a' + $b, 'c')` is 'a' + ($b, 'c'): a comma binds stronger than a plus."""
    for child in node.children:
        inner = child
        while inner.child_count == 1:
            inner = inner.children[0]
        if inner.type == "array_literal_expression" and any(part.type == "," for part in inner.children):
            yield "a comma binds stronger than this operator"


def _variable_faults(node: Node, script: Script) -> Iterator[str]:
    name = _name(node).lower()
    if name in VARIABLES_LATER:
        yield "variable of a later version"
    if not _is_bound(node):
        if not _is_known(node, script):
            yield "a variable that is set nowhere"
        return
    if name in AUTOMATIC:
        yield "automatic variable"
    if ":" not in _text(node) and _function(node) is not None and name in script.variables:
        yield f"hides the script's own ${script.variables[name]}"


def _is_known(node: Node, script: Script) -> bool:
    """Whether the variable is one of the function's, the script's, or PowerShell's own."""
    name, text = _name(node).lower(), _text(node).lower()
    if text.startswith("$env:") or name in READABLE:
        return True
    function = _function(node)
    if name in script.variables and (function is None or text.startswith("$script:") or ":" not in text):
        return True
    around = function or script.root
    return any(
        other.type == "variable"
        and _name(other).lower() == name
        and _is_bound(other)
        and ":" not in _text(other)
        for other in _nodes(around)
        if function is not None or _function(other) is None
    )


def _arguments(command: Node) -> int:
    """How many are given by position."""
    elements = [part for part in command.children if part.type == "command_elements"]
    skipped = ("command_argument_sep", "redirection", "command_parameter")
    return sum(part.type not in skipped for one in elements for part in one.children)


def _is_bound(node: Node) -> bool:
    """Whether the variable gets its value here: by assignment, as parameter, or in a loop."""
    if node.parent and node.parent.type in ("parameter_list", "script_parameter", "foreach_statement"):
        return True
    statement = _ancestor(node, "assignment_expression")
    return statement is not None and node in _assigned(statement)


# ---------------------------------------------------------------- the tree


def _nodes(node: Node, deep: int = 10_000) -> Iterator[Node]:
    yield node
    if deep > 0:
        for child in node.children:
            yield from _nodes(child, deep - 1)


def _text(node: Node) -> str:
    return (node.text or b"").decode()


def _short(node: Node) -> str:
    return re.sub(r"\s+", " ", _text(node))[:60]


def _name(variable: Node) -> str:
    return _text(variable).lstrip("$").rpartition(":")[2].strip("{}")


def _ancestor(node: Node, *types: str) -> Node | None:
    up = node.parent
    while up is not None and up.type not in types:
        up = up.parent
    return up


def _function(node: Node) -> Node | None:
    return _ancestor(node, "function_statement")


def _function_name(function: Node) -> str:
    return next(_text(child).lower() for child in function.children if child.type == "function_name")


def _mark(function: Node) -> str:
    """What the comment just above the function begins with, if it is a mark."""
    lines = []
    above = function.prev_sibling
    if above is None and function.parent is not None and function.parent.type == "statement_list":
        above = function.parent.prev_sibling
    row = function.start_point.row
    while above is not None and above.type == "comment" and above.end_point.row == row - 1:
        lines.append(_text(above).lstrip("# "))
        row, above = above.start_point.row, above.prev_sibling
    return next((mark for mark in _GUARDS if lines and lines[-1].startswith(mark)), "")


def _mark_of(node: Node, script: Script) -> str:
    function = _function(node)
    return script.marks[_function_name(function)] if function is not None else ""


def _is_guarded(node: Node, guard: str) -> bool:
    """Whether an if around the call asks with `guard`, in the condition of this very branch."""
    inner, up = node, node.parent
    while up is not None:
        if up.type in ("if_statement", "elseif_clause"):
            condition = up.child_by_field_name("condition") or next(c for c in up.children if c.is_named)
            taken = next((c for c in up.children if c.type == "statement_block"), None)
            if guard in _text(condition) and inner in (condition, taken):
                return True
        inner, up = up, up.parent
    return False


def _assigned(statement: Node) -> list[Node]:
    """The variables left of the sign: "$h['x'] = 1" and "$o.p = 1" change what is there, and bind none."""
    left = statement.children[0]
    return [
        node
        for node in _nodes(left)
        if node.type == "variable" and _ancestor(node, "element_access", "member_access", "cast_type") is None
    ]


def _collection(loop: Node) -> Node:
    """Of `foreach ($x in ...)`."""
    named = [child for child in loop.children if child.is_named]
    return next(child for child in named[1:] if child.type != "comment")


def _is_list(node: Node) -> bool:
    """Whether it is @(...) as a whole."""
    while node.child_count == 1 and node.type != "array_expression":
        node = node.children[0]
    return node.type == "array_expression"
