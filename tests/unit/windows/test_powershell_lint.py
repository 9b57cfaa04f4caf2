"""The scripts of the Windows first boot are free of findings; and the lint finds what it is there for."""

from __future__ import annotations

import re
from importlib import resources

import pytest

from refloat.guest.firstboot.windows import staging
from tests.windows.powershell import CMDLETS_LATER, Finding, commands, lint

PARTS = list(staging.PARTS)


def _rules(text: str) -> str:
    return "; ".join(f"{finding.rule}" for finding in lint(text))


def test_the_whole_script_has_no_finding() -> None:
    found = lint(staging.script().decode())
    assert [str(finding) for finding in found] == []


def test_every_part_is_in_the_script_and_short() -> None:
    folder = resources.files("refloat.guest.firstboot.windows")
    assert sorted(path.name for path in folder.iterdir() if path.name.endswith(".ps1")) == sorted(PARTS)
    for name in PARTS:
        assert len(folder.joinpath(name).read_text("ascii").splitlines()) < 400


def test_every_function_is_called_and_defined_once() -> None:
    text = staging.script().decode()
    defined = [name.lower() for name in re.findall(r"^function ([\w-]+)", text, re.MULTILINE)]
    assert len(defined) == len(set(defined))
    assert set(defined) - commands(text) == set()


BAD = [
    # (what is wrong with it, the script)
    ("syntax", "if ($a) { Start-Sleep -Seconds 1"),
    ("syntax", "function A { 'x }"),
    ("syntax", "$a = $b ? 1 : 2"),
    ("syntax", "$a = $b ?? 2"),
    ("type", "$a = [ordered]@{ x = 1 }"),
    ("type", "[pscustomobject]@{ x = 1 }"),
    ("type", "$a = [IO.File]::ReadAllText('x')"),
    ("method", "$a = [IO.File]::ReadAllText('x')"),
    ("method", "$a = 'x'; $a.Substring(1)"),
    ("method", '"$($a.Foo()) x"'),
    ("static member", "$a = [int]::MaxValue"),
    ("operator of a later version", "if ($a -in @(1, 2)) { 1 }"),
    ("operator of a later version", "if ($a -notin @(1, 2)) { 1 }"),
    ("operator of a later version", "Start-Sleep -Seconds 1 && Start-Sleep -Seconds 2"),
    ("statement of a later version", "class A { }"),
    ("statement of a later version", "enum A { B }"),
    ("statement of a later version", "using module Foo"),
    ("statement of a later version", "workflow A { }"),
    ("command", "$a = Get-Content -Path x | ConvertFrom-Json"),
    ("command", "Get-CimInstance -ClassName Win32_Service"),
    ("command", "Get-Disk -Number 1"),
    ("command", "New-Object Net.WebClient"),
    ("command", "gci"),
    ("command", "Add-Type -TypeDefinition 'x'"),
    ("parameter -Raw", "Get-Content -Path x -Raw"),
    ("parameter -NoNewline", "Set-Content -Path x -Value y -NoNewline"),
    ("parameter -File", "Get-ChildItem -Path x -File"),
    ("short form", "Get-ChildItem -Path x | Where-Object Name -like 'y'"),
    ("short form", "Get-ChildItem -Path x | ForEach-Object Name"),
    ("redirection", "Start-Sleep -Seconds 1 *> $null"),
    ("variable of a later version", "Get-Content -Path $PSScriptRoot"),
    ("foreach over what may be nothing", "foreach ($x in $list) { $x }"),
    ("foreach over what may be nothing", "foreach ($x in Get-ChildItem -Path x) { $x }"),
    ("count of what may be one thing", "if ($list.Count -eq 0) { 1 }"),
    ("a comma binds stronger", "$a = @('x' + $b, 'y')"),
    ("a comma binds stronger", "$a = 'x', 'y' + $b"),
    ("automatic variable", "function A { $matches = 1 }"),
    ("automatic variable", "foreach ($input in @(1)) { 1 }"),
    ("hides the script's own", "$Stages = @(1)\nfunction A { $stages = @() }"),
    ("hides the script's own", "$Stages = @(1)\nfunction A($stages) { 1 }"),
    ("hides the script's own", "$Stages = @(1)\nfunction A { foreach ($stages in @(1)) { 1 } }"),
    ("since 3.0, but nothing asks", "# since 3.0\nfunction A { Get-Disk -Number 1 }\nfunction B { A }"),
    (
        "since 3.0, but nothing asks",
        "# since 3.0\nfunction A { Get-Disk -Number 1 }\n"
        "function Test-Command($n) { $n }\nif (Test-Command 'x') { 1 } else { A }",
    ),
    (
        "full language, but nothing asks",
        "# full language: x\nfunction A { $a.Foo() }\nfunction Test-Command($n) { $n }\n"
        "if (Test-Command 'x') { A }",
    ),
    ("a variable that is set nowhere", "function A($path) { $paht }"),
    ("a variable that is set nowhere", "function A { $b = 1 }\nfunction B { $b }"),
    ("a variable that is set nowhere", "function A { $script:Nothing }"),
    ("a variable that is set nowhere", 'function A { "x $nothing" }'),
    ("more arguments than", "function A($x) { $x }\nA 1 2"),
    ("more arguments than", "function A { 1 }\n$y = A 'x'"),
    ("command", "# since 5.0\nfunction A { Get-Disk -Number 1 }"),
]


@pytest.mark.parametrize(("rule", "text"), BAD)
def test_the_lint_finds(rule: str, text: str) -> None:
    assert rule in _rules(text)


GOOD = [
    "# since 3.0\nfunction A { Get-Disk -Number 1 }\n"
    "function Test-Command($n) { $n }\nif (Test-Command 'x') { A }",
    "# full language\nfunction A { $a.Foo() }\n"
    "function Test-FullLanguage { $true }\nif (Test-FullLanguage) { A }",
    "foreach ($x in @(Get-ChildItem -Path 'x')) { $x.Name }",
    "$a = @(('x' + $b), 'y')",
    "$a = '{0} {1}' -f $b, $c",
    "$name, $value = 'a=b' -split '=', 2",
    "if (@($a).Count -gt 0) { 1 }",
    "$Stages = @(1)\nfunction A { $script:Stages = @() }",
    "function A($z) { foreach ($y in @($z)) { & { $y + $z + $_ + $env:x + $true } } }\nA (1 + 2)",
    "$States = @{}\nfunction A { $States['x'] = 1 }",
    "Get-ChildItem -Path 'x' | Where-Object { $_.Name }",
]


@pytest.mark.parametrize("text", GOOD)
def test_the_lint_lets_pass(text: str) -> None:
    assert lint("$a = $b = $c = $x = 1\n" + text) == []


@pytest.mark.parametrize("name", sorted(CMDLETS_LATER))
def test_each_later_command_is_found_where_it_is_not_marked(name: str) -> None:
    assert Finding(1, "command", name) in lint(name)
