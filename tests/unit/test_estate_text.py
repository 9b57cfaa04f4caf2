"""What is wrong with an estate is said at once, each with its line; what YAML could hide is refused."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from refloat.errors import Refused
from refloat.estate.load import MOST_SAID, load_estate, parse_estate
from refloat.estate.text import DEEPEST, LARGEST, MOST_NODES, NotRead, read
from refloat.simulated.world import Protected, estate

WRONG = """\
version: 1
sites:
  a: {platform: libvirt, uri: "qemu:///system", networks: {prod: {kind: brigde}}}
  b:
    platform: vsphere
    server: x
    password: {file: /p}
  c: {platform: xen}
mappings:
  - {from: x, to: prod, test: nope}
  - {from: x, to: prod, test: prod}
policies:
  gold:
    mcas: keep
    probes:
      - {port: 22}
      - kind: http
        path: nope
      - {kind: foo}
protected:
  web: {site: dc9, vm: web, policy: gold}
targets:
  web: {protected: web, site: a}
  web: {protected: web, site: a}
"""
FOUND = [
    (3, "sites.a.networks.prod.kind", "Input should be 'user', 'network' or 'bridge'"),
    (4, "sites.b.user", "is missing"),
    (8, "sites.c.platform", "'xen'"),
    (10, "mappings.0.test", "network 'nope' is not declared; declared: prod"),
    (11, "mappings.1.from", "'x' is mapped twice"),
    (14, "policies.gold.mcas", "is no word of the estate here"),
    (18, "policies.gold.probes.1.path", "'nope' is no path"),
    (19, "policies.gold.probes.2.kind", "a probe's kind is tcp, icmp"),
    (21, "protected.web.site", "'dc9' is not declared; declared: a, b, c"),
    (23, "targets.web", "say either `controller` and `disks`, or `provision`"),
    (24, "targets.web", "stands twice, first on line 23"),
]


def test_everything_that_is_wrong_is_said_with_its_line() -> None:
    with pytest.raises(Refused) as caught:
        parse_estate(WRONG, "estate.yaml")
    said = caught.value.message.splitlines()
    assert len(said) == len(FOUND), said
    for line, (number, place, words) in zip(said, FOUND, strict=True):
        assert line.startswith(f"estate.yaml:{number}: {place}: ") and words in line
    assert caught.value.code == "bad_estate" and caught.value.hint


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: 1\nb: &x [1]\nc: *x", 2, "anchors"),
        ("a: 1\nb: *x", 2, "anchors"),
        ("a: 1\nb: !!python/object:os.system x", 2, "the tag tag:yaml.org,2002:python/object"),
        ("a: 1\nb: !own x", 2, "the tag !own is refused"),
        ("a: 1\n<<: {b: 2}", 2, "merge"),
        ("a:\n  - [", 3, "no YAML"),
        ("a: 1\n---\nb: 2", 2, "another document"),
        ("a: 1\n? [b]\n: 2", 2, "a name is one word"),
        ("a: 1\nb: 2026-13-45", 2, "quote it"),
        ("a: 1\nb: " + "9" * 5000, 2, "quote it"),
        ("a: " + "[" * (DEEPEST + 1), 1, "levels"),
        ("a: [" + "1," * MOST_NODES + "]", 1, "values"),
        ("a: " + "x" * LARGEST, 0, "bytes"),
        ("a: \x01", 0, "a character that YAML does not allow"),
        ("a: \ud800", 0, "half characters"),
    ],
)
def test_what_no_estate_is_written_in(text: str, line: int, words: str) -> None:
    with pytest.raises(NotRead, match=words) as caught:
        read(text)
    assert caught.value.wrong.line == line


def test_a_bomb_is_refused_at_once() -> None:
    """A billion laughs: nine levels of ten references each."""
    names = "abcdefghi"
    lines = ["a: &a [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]" for old, new in itertools.pairwise(names)]
    begun = time.process_time()
    with pytest.raises(Refused, match=r"bomb:1: anchors"):
        parse_estate("\n".join(lines), "bomb")
    assert time.process_time() - begun < 1


@pytest.mark.parametrize("text", ["", "5", "[1, 2]", "just a text"])
def test_a_text_that_is_no_mapping(text: str) -> None:
    with pytest.raises(Refused, match=r"e:1: the estate: is no mapping"):
        parse_estate(text, "e")


PIECES = [
    *("version: 1\n", "sites:", "targets:", "mappings:", "policies:", "protected: {a: {site: a, vm: b}}\n"),
    *("sites: {a: {platform: libvirt, uri: x}}\n", "\n  ", "\n", " ", "- ", "a", "from", "to: ", "x: ", ","),
    *("[", "]", "{", "}", "&a ", "*a", "!!", "? ", ":", "|", "> ", "'", '"', "#", "%", "---\n", "~", "<<: "),
    *("0x", "1_0", "1:30", "1e400", ".inf", ".nan", "2026-99-99", "yes", "\t", "\x85", "\u2028", "\0"),
]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=25).map("".join) | st.text(max_size=60))
def test_any_text_is_an_estate_or_is_refused(text: str) -> None:
    try:
        parse_estate(text, "e")
    except Refused as refused:
        assert refused.code == "bad_estate" and refused.message.startswith("e:")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sites: {a b: {platform: simulated, uri: /w}}", "e:1: sites.a b: a name has 1 to 41 letters"),
        ("policies: {a: {nics: {10:20:30:40:50:59: {}}}}", "e:1: policies.a.nics"),
        ("policies:\n  a:\n    nics:\n      eth0: {}", "e:4: policies.a.nics.eth0: a MAC address is like"),
        ("policies: {a: {luks_keys: {x: /k}}}", "luks_keys.x: a UUID is like"),
    ],
)
def test_what_would_fit_is_said_in_words(text: str, words: str) -> None:
    with pytest.raises(Refused) as caught:
        parse_estate(text, "e")
    assert words in caught.value.message and "pattern" not in caught.value.message


def test_only_so_many_are_said() -> None:
    text = (
        "version: 1\nsites: {}\nprotected:\n"
        + "".join(f"  p{n}: {{}}\n" for n in range(100))
        + "targets: {}\n"
    )
    with pytest.raises(Refused) as caught:
        parse_estate(text, "e")
    said = caught.value.message.splitlines()
    assert len(said) == MOST_SAID + 1 and said[-1] == f"and {200 - MOST_SAID} more"


def test_a_file_that_does_not_end_is_read_only_so_far(tmp_path: Path) -> None:
    (tmp_path / "endless").symlink_to("/dev/zero")
    with pytest.raises(Refused, match="bytes"):
        load_estate(tmp_path / "endless")


def test_values_are_those_of_yaml_and_each_has_its_line() -> None:
    text = "a:\n  b: [1, two,\n    3.5]\n  c: {d: null, e: on}\n'f g': |\n  text\n"
    found = read(text)
    assert found.data == yaml.safe_load(text)
    assert (
        found.lines[("a", "b", 2)] == 3 and found.lines[("a", "c", "e")] == 4 and found.lines[("f g",)] == 5
    )
    assert found.line(("a", "c", "none", "such")) == 4, "what is missing is on its parent's line"


def test_a_thousand_targets_are_read_within_a_moment() -> None:
    form = estate(Path("/world"), [Protected(number) for number in range(1, 1001)], {})
    text = yaml.safe_dump(form, sort_keys=False)
    begun = time.process_time()
    assert len(parse_estate(text, "large").targets) == 1000
    assert time.process_time() - begun < 5 and len(text) < LARGEST / 2
