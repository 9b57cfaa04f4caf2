"""Enough of PowerShell 2.0 to run the first-boot script here: a reading of its language, not the real one.

Where 2.0 differs from later versions it is taken at its word: a loop over nothing runs once, one thing has no
Count. What the script's commands do is the model's (windows_model.py). An unknown construct is an error.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field

from tree_sitter import Node

from tests.windows.powershell import _nodes, _parsed, _text
from tests.windows.ps_expressions import Expressions, part_of, single
from tests.windows.ps_values import (
    Block,
    PowerShellError,
    Thing,
    Value,
    collapsed,
    flat,
    plus,
    spread,
    text_of,
    truth,
)

Command = Callable[["Call"], Value]


class Exited(Exception):
    pass


class _Return(Exception):
    def __init__(self, output: list[Value]) -> None:
        self.output = output


class _Break(Exception):
    pass


class _Continue(Exception):
    pass


@dataclass
class Call:
    """A command's call: by position, by name (lower case; True for a switch), and what the pipe gives it."""

    name: str
    positional: list[Value]
    named: dict[str, Value]
    piped: list[Value]
    interpreter: Interpreter

    def get(self, name: str, number: int | None = None) -> Value:
        if name in self.named:
            return self.named[name]
        return self.positional[number] if number is not None and number < len(self.positional) else None


@dataclass
class Interpreter(Expressions):
    """`commands` by name in lower case; `program` runs an external one and gives its exit code and output."""

    commands: dict[str, Command]
    program: Callable[[str, list[str]], tuple[int, list[str]]]
    environment: dict[str, str]
    scopes: list[dict[str, Value]] = field(default_factory=lambda: [{}])
    functions: dict[str, Node] = field(default_factory=dict)

    def run(self, text: str, without: Collection[str] = ()) -> None:
        """The script to its end, or to its exit; `without` these functions of it."""
        self.scopes = [
            {"pid": 4, "host": Thing({"Version": "2.0"}), "true": True, "false": False, "null": None}
        ]
        language = Thing({"LanguageMode": "ConstrainedLanguage"})
        self.scopes[0]["executioncontext"] = Thing({"SessionState": language})
        root, functions = _read(text)
        self.functions = {name: node for name, node in functions.items() if name not in without}
        with contextlib.suppress(Exited):
            list(self.statements(root))

    # ------------------------------------------------------------ statements

    def statements(self, node: Node | None) -> Iterator[Value]:
        """Everything that the statements below this node leave in the pipeline."""
        for child in node.children if node else ():
            if child.type in ("statement_list", "statement_block", "script_block", "script_block_body"):
                yield from self.statements(child)
            elif child.is_named and child.type not in ("comment", "function_statement", "empty_statement"):
                yield from self.statement(child)

    def statement(self, node: Node) -> Iterator[Value]:
        handler = getattr(self, f"_{node.type}", None)
        if handler is None:
            raise NotImplementedError(f"{node.type}: {_text(node)[:80]}")
        yield from handler(node)

    def _if_statement(self, node: Node) -> Iterator[Value]:
        condition = next(child for child in node.children if child.type == "pipeline")
        if truth(self.value(condition)):
            yield from self.statements(part_of(node, "statement_block"))
            return
        for clauses in (child for child in node.children if child.type == "elseif_clauses"):
            for clause in clauses.children:
                if truth(self.value(part_of(clause, "pipeline"))):
                    yield from self.statements(part_of(clause, "statement_block"))
                    return
        for clause in (child for child in node.children if child.type == "else_clause"):
            yield from self.statements(part_of(clause, "statement_block"))

    def _while_statement(self, node: Node) -> Iterator[Value]:
        condition = part_of(node, "while_condition")
        yield from self._loop(lambda: truth(self.value(condition)), node)

    def _for_statement(self, node: Node) -> Iterator[Value]:
        list(self.statements(part_of(node, "for_initializer")))
        condition, step = part_of(node, "for_condition"), part_of(node, "for_iterator")
        yield from self._loop(lambda: truth(self.value(condition)), node, lambda: self.value(step))

    def _loop(
        self, goes_on: Callable[[], bool], node: Node, step: Callable[[], Value] = lambda: None
    ) -> Iterator[Value]:
        while goes_on():
            try:
                yield from self.statements(part_of(node, "statement_block"))
            except _Break:
                return
            except _Continue:
                pass
            step()

    def _foreach_statement(self, node: Node) -> Iterator[Value]:
        items = self.value(part_of(node, "pipeline"))
        for item in items if isinstance(items, list) else [items]:
            self.assign(part_of(node, "variable"), item)
            try:
                yield from self.statements(part_of(node, "statement_block"))
            except _Break:
                return
            except _Continue:
                continue

    def _switch_statement(self, node: Node) -> Iterator[Value]:
        value = self.value(part_of(part_of(node, "switch_condition"), "pipeline"))
        for clause in part_of(part_of(node, "switch_body"), "switch_clauses").children:
            if text_of(self.value(clause.children[0])).lower() == text_of(value).lower():
                yield from self.statements(part_of(clause, "statement_block"))

    def _try_statement(self, node: Node) -> Iterator[Value]:
        output: list[Value] = []
        try:
            for value in self.statements(part_of(node, "statement_block")):
                output.append(value)
        except PowerShellError as error:
            yield from output
            self.scopes[-1]["_"] = Thing({"Exception": Thing({"Message": str(error)})})
            catch = part_of(part_of(node, "catch_clauses"), "catch_clause")
            yield from self.statements(part_of(catch, "statement_block"))
            return
        yield from output

    def _flow_control_statement(self, node: Node) -> Iterator[Value]:
        word = node.children[0].type
        value = next((child for child in node.children if child.type == "pipeline"), None)
        if word == "return":
            raise _Return(self.outputs(value) if value else [])
        if word == "throw":
            raise PowerShellError(text_of(self.value(value)) if value else "thrown")
        raise {"break": _Break, "continue": _Continue, "exit": Exited}[word]

    def _pipeline(self, node: Node) -> Iterator[Value]:
        yield from self.outputs(node)

    # ------------------------------------------------------------ pipelines

    def value(self, node: Node) -> Value:
        """What a pipeline or an expression gives: nothing, one thing, or a list. An expression alone keeps an
        array as it is."""
        part = list(single(node))[-1]
        if hasattr(self, f"_x_{part.type}") and part.type not in ("pipeline", "pipeline_chain", "command"):
            return self.expression(part)
        return collapsed(self.outputs(node))

    def outputs(self, node: Node) -> list[Value]:
        if node.type in (
            "pipeline",
            "while_condition",
            "for_condition",
            "for_iterator",
            "switch_clause_condition",
        ):
            return [item for child in node.children if child.is_named for item in self.outputs(child)]
        if node.type == "pipeline_chain":
            piped: list[Value] = []
            for number, part in enumerate(child for child in node.children if child.is_named):
                piped = self.command(part, piped) if part.type == "command" else spread(self.expression(part))
                assert number == 0 or part.type == "command"
            return piped
        if node.type == "assignment_expression":
            self._assignment(node)
            return []
        if node.type == "command":
            return self.command(node, [])
        if node.type in ("if_statement", "statement_list"):
            return list(self.statement(node) if node.type == "if_statement" else self.statements(node))
        if any(part.type == "post_increment_expression" for part in single(node)):
            self.expression(node)
            return []
        return spread(self.expression(node))

    def _assignment(self, node: Node) -> None:
        left, operator, right = (child for child in node.children if child.is_named)
        value = self.value(right)
        target = list(single(left))[-1]
        if target.type == "array_literal_expression":
            names = [child for child in target.children if child.is_named]
            values = value if isinstance(value, list) else [value]
            for number, name in enumerate(names):
                rest: Value = values[number:] if number == len(names) - 1 else values[number : number + 1]
                self.assign(list(single(name))[-1], collapsed(rest))
            return
        if _text(operator) == "+=":
            value = plus(self.expression(target), value)
        self.assign(target, value)

    def assign(self, target: Node, value: Value) -> None:
        if target.type == "element_access":
            holder, key = (child for child in target.children if child.is_named)
            self.expression(holder)[self.expression(key)] = value
            return
        name = _text(target).lstrip("$").lower()
        if name.startswith("script:"):
            self.scopes[0][name.partition(":")[2]] = value
        else:
            self.scopes[-1][name] = value

    def command(self, node: Node, piped: list[Value]) -> list[Value]:
        positional, named = self._arguments(node)
        first = node.children[0]
        if first.type == "command_invokation_operator":
            inside = next(child for child in node.children if child.type == "command_name_expr")
            target = self._invoked(inside)
            if isinstance(target, Block):
                return self.block(target)
            code, output = self.program(text_of(target), [text_of(item) for item in flat(positional)])
            self.scopes[0]["lastexitcode"] = code
            return list(output)
        name = _text(first).lower()
        if name in self.functions:
            return self.function(name, positional)
        if name in ("where-object", "foreach-object"):
            return self._filter(name, positional[0], piped)
        if name == "out-null":
            return []
        if name not in self.commands:
            raise PowerShellError(f"the term {name} is not recognized")
        try:
            return spread(self.commands[name](Call(name, positional, named, piped, self)))
        except PowerShellError:
            if text_of(named.get("erroraction")).lower() == "silentlycontinue":
                return []
            raise

    def _invoked(self, node: Node) -> Value:
        part = list(single(node))[-1]
        if part.type == "path_command_name":
            holder, member = part.children
            return self.member(self.expression(holder), _text(member).lstrip("."))
        return self.expression(part)

    def _filter(self, name: str, block: Block, piped: list[Value]) -> list[Value]:
        found = []
        for item in piped:
            output = self._called(block.node, {"_": item})
            if name == "foreach-object":
                found += [one for value in output for one in spread(value)]
            elif truth(collapsed(output)):
                found.append(item)
        return found

    def _arguments(self, node: Node) -> tuple[list[Value], dict[str, Value]]:
        positional: list[Value] = []
        named: dict[str, Value] = {}
        waiting = ""
        for group in (child for child in node.children if child.type == "command_elements"):
            for part in group.children:
                if part.type in ("command_argument_sep", "redirection"):
                    continue
                if part.type == "command_parameter":
                    waiting = _text(part).lstrip("-").rstrip(":").lower()
                    named[waiting] = True
                    continue
                value = _text(part) if part.type == "generic_token" else self.expression(part)
                if waiting and waiting not in _SWITCHES:
                    named[waiting] = value
                else:
                    positional.append(value)
                waiting = ""
        return positional, named

    def function(self, name: str, positional: list[Value]) -> list[Value]:
        node = self.functions[name]
        lists = [part for part in _nodes(node, deep=3) if part.type == "parameter_list"]
        names = [
            _text(part).lstrip("$").lower()
            for one in lists
            for part in _nodes(one)
            if part.type == "variable"
        ]
        assert len(positional) <= len(names), name
        given = dict.fromkeys(names) | dict(zip(names, positional, strict=False))
        return self._called(part_of(node, "script_block"), given)

    def block(self, block: Block) -> list[Value]:
        return self._called(block.node, {})

    def _called(self, node: Node, variables: dict[str, Value]) -> list[Value]:
        self.scopes.append(dict(variables))
        output: list[Value] = []
        try:
            for value in self.statements(node):
                output.append(value)
        except _Return as returned:
            output += returned.output
        finally:
            self.scopes.pop()
        return [one for value in output for one in spread(value)]


@functools.cache
def _read(text: str) -> tuple[Node, dict[str, Node]]:
    """The tree of a script, and its functions by lower-case name."""
    root = _parsed(text.replace("\r", "")).root
    functions = {}
    for node in _nodes(root):
        if node.type == "function_statement":
            name = next(part for part in node.children if part.type == "function_name")
            functions[_text(name).lower()] = node
    return root, functions


_SWITCHES = {
    "passthru", "wait", "force", "recurse", "quiet", "usebasicparsing", "resetserveraddresses", "confirm",
}  # fmt: skip
