"""YAML to data with positions: what YAML allows and a configuration must not."""

from __future__ import annotations

import pytest

from gateway.config import document
from gateway.config.document import Findings, decode, read, render


def data_of(text):
    findings = Findings("g.yaml")
    data = read(text, findings)
    return data, [str(problem) for problem in findings.problems], findings


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "g.yaml:1:1: the file is empty; `gateway init` writes one to start from"),
        ("# nothing\n", "g.yaml:1:1: the file is empty; `gateway init` writes one to start from"),
        ("---\n", "g.yaml:1:1: the file is empty; `gateway init` writes one to start from"),
        ("- a\n", "g.yaml:1:1: the file must hold a mapping, with keys such as `providers:` and `routes:`"),
        ("providers\n", "g.yaml:1:1: the file must hold a mapping, with keys such as `providers:` and `routes:`"),
        ("a:\n\tb: 1\n", "g.yaml:2:1: a tab cannot indent in YAML: use spaces"),
        ("a: 1\n---\nb: 2\n", "g.yaml:2:1: only one YAML document per file"),
        ("a: @b\n", "g.yaml:1:4: a value cannot begin with @: put it in quotes"),
        (
            "a: 1\nb: [1\n",
            "g.yaml:3:1: not valid YAML: did not find expected ',' or ']' while parsing a flow sequence, begun in line 2",
        ),
        ("a: b: c\n", "g.yaml:1:5: not valid YAML: mapping values are not allowed in this context"),
        ("a: *b\n", "g.yaml:1:4: not valid YAML: found undefined alias"),
        ("a: x\nb: \x07\n", "g.yaml:2:4: a control character does not belong here"),
        ("a: &a {b: *a}\n", "g.yaml:1:4: an alias contains itself"),
        ("a: &a\n  <<: *a\n", "g.yaml:1:4: an alias contains itself"),
        ("a: " + "[" * 40 + "]" * 40, "g.yaml:1:36: nested too deeply"),
    ],
)
def test_a_text_that_cannot_be_read_has_one_precise_problem(text, message):
    data, problems, _ = data_of(text)
    assert (data, problems) == (None, [message])


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("a: 1\nb: 2\na: 3\n", ["g.yaml:3:1: a: duplicate key; the first is in line 1"]),
        ("on: 1\n", ["g.yaml:1:1: the key on is not a string: put it in quotes"]),
        ("a: {1: x, [2]: y}\n", ["g.yaml:1:5: a: the key 1 is not a string: put it in quotes",
                                 "g.yaml:1:11: a: the key is not a string: put it in quotes"]),
        ("a: !!python/object:os.system x\n", ["g.yaml:1:4: a: the tag !!python/object:os.system has no meaning here: remove it"]),
        ("a: !secret x\n", ["g.yaml:1:4: a: the tag !secret has no meaning here: remove it"]),
        ("a: !!int x\n", ["g.yaml:1:4: a: does not fit its YAML tag: put it in quotes"]),
        ("a: {<<: 5, b: 1}\n", ["g.yaml:1:9: a: `<<` takes a mapping or a list of mappings"]),
    ],
)  # fmt: skip
def test_what_yaml_allows_and_we_do_not_is_reported_where_it_stands(text, problems):
    assert data_of(text)[1] == problems


def test_yaml_1_1_values_come_as_yaml_reads_them_but_dates_stay_text():
    data, problems, _ = data_of("a: off\nb: 1:30\nc: 0123\nd: 2024-10-21\ne: 1_000\nf: =\ng: 'off'\nh: ~\ni: 1.5\n")
    assert data == {"a": False, "b": 90, "c": 83, "d": "2024-10-21", "e": 1000, "f": "=", "g": "off", "h": None, "i": 1.5}
    assert problems == []


def test_aliases_and_merges_are_written_out_and_own_keys_win():
    data, problems, findings = data_of(
        "base: &base {x: 1, y: 2}\nmore: &more {y: 3, z: 4}\na: *base\nb:\n  <<: [*base, *more]\n  x: 9\n",
    )
    assert problems == []
    assert data is not None
    assert data["a"] == {"x": 1, "y": 2}
    assert data["b"] == {"x": 9, "y": 2, "z": 4}
    assert findings.spots["b", "x"][:4] == (6, 6, 6, 3)
    assert findings.spots["b", "z"].line == 2


def test_aliases_written_out_do_not_share_their_data():
    data, _, _ = data_of("a: &x {k: [1]}\nb: *x\n")
    assert data is not None
    data["a"]["k"].append(2)
    assert data["b"] == {"k": [1]}


def test_a_few_lines_cannot_grow_without_end():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    data, problems, _ = data_of("\n".join(lines))
    assert data is None
    assert problems[0].endswith("too large with its aliases written out")


def test_merges_cannot_grow_without_end_either():
    lines = ["a0: &a0 {k: 1}"]
    lines += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}" for n in range(1, 10)]
    data, problems, _ = data_of("\n".join(lines))
    assert data is None
    assert problems[0].endswith("too large with its aliases written out")


def test_positions_count_from_one_and_know_key_and_value():
    _, _, findings = data_of("a:\n  - b: cd\n    e: [f, g]\n")
    assert findings.spots["a", 0, "b"] == (2, 8, 2, 5, "cd")
    assert findings.spots["a", 0, "e", 1][:2] == (3, 12)
    assert render(("a", 0, "e", 1)) == "a[0].e[1]"


def test_bytes_that_are_not_utf_8_are_found_in_their_line():
    findings = Findings("g.yaml")
    assert decode(b"a: 1\nb: \xff\n", findings) is None
    assert [str(problem) for problem in findings.problems] == ["g.yaml:2:4: not UTF-8"]


def test_a_byte_order_mark_is_no_content():
    assert decode(b"\xef\xbb\xbfa: 1\n", Findings("g.yaml")) == "a: 1\n"


def test_a_file_of_megabytes_is_refused_unread():
    findings = Findings("g.yaml")
    assert decode(b"a" * (document.MAX_BYTES + 1), findings) is None
    assert "1 MiB" in str(findings.problems[0])
