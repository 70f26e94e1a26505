"""`${VAR}` and kin, and secrets that stand in files of their own."""

from __future__ import annotations

import hashlib
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.secrets import expand
from gateway.config.snapshot import Secret
from gateway.config.units import Mistake

ENVIRON = {"A": "a", "EMPTY": "", "DOLLAR": "${A}$$"}


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("plain", "plain"),
        ("${A}", "a"),
        ("x${A}y${A}", "xaya"),
        ("${EMPTY}", ""),
        ("${NONE:-}", ""),
        ("${NONE:-d}", "d"),
        ("${EMPTY:-d}", "d"),
        ("${A:-d}", "a"),
        ("${A:?m}", "a"),
        ("${NONE:-${A}}", "a"),
        ("${NONE:-x${ALSO:-y}z}", "xyz"),
        ("${A:-${NONE}}", "a"),
        ("${A:?${NONE}}", "a"),
        ("${NONE:-a:b, {c: d}", "a:b, {c: d"),
        ("$${A}", "${A}"),
        ("$$", "$"),
        ("$A costs 5$", "$A costs 5$"),
        ("}", "}"),
        ("${DOLLAR}", "${A}$$"),
        ("os.environ/A", "a"),
        ("see os.environ/A", "see os.environ/A"),
    ],
)
def test_references_are_filled_in(written, meant):
    assert expand(written, ENVIRON) == meant


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("${NONE}", "NONE is not set"),
        ("os.environ/NONE", "NONE is not set"),
        ("${EMPTY:?}", "EMPTY is not set"),
        ("${NONE:?ask ${A}}", "NONE is not set: ask a"),
        ("${NONE:-${ALSO}}", "ALSO is not set"),
        ("${A", "write ${A}, ${A:-default} or ${A:?message}"),
        ("${A-d}", "write ${A}, ${A:-default} or ${A:?message}"),
        ("${A:-d", "`${` is never closed by `}`; a dollar sign itself is written `$$`"),
        ("${}", "`${` needs a variable's name; a dollar sign itself is written `$$`"),
        ("${1}", "`${` needs a variable's name; a dollar sign itself is written `$$`"),
    ],
)
def test_a_reference_that_cannot_be_filled_in_is_refused(written, message):
    with pytest.raises(Mistake) as caught:
        expand(written, ENVIRON)
    assert (caught.value.message, caught.value.quote) == (message, False)


@given(st.text())
def test_any_text_can_be_written_with_its_dollars_doubled(text):
    if not text.startswith("os.environ/"):
        assert expand(text.replace("$", "$$"), {}) == text


@given(st.text(alphabet="${}:-?A x", max_size=30))
def test_any_text_is_expanded_or_refused(text):
    said = "expanded"
    try:
        expand(text, {"A": "a"})
    except Mistake as mistake:
        said = mistake.message
    assert said


def test_interpolation_cannot_change_the_document(read):
    text = "providers: {p: {dialect: openai, base_url: https://h, headers: {x-a: '${V}'}}}"
    snapshot = read(text, {"V": 'a"}, evil: {b: c'})
    assert snapshot.providers["p"].headers == ((b"x-a", b"x-a", b'a"}, evil: {b: c'),)


def test_a_key_in_the_text_is_named_by_its_hash_and_never_shown():
    secret = Secret.from_text(" sk-1\n")
    assert secret.reveal() == "sk-1"
    assert secret.id == "sha256:" + hashlib.sha256(b"sk-1").hexdigest()[:12]
    assert (repr(secret), str(secret), f"{secret}") == (f"<Secret {secret.id}>",) * 3
    assert secret.refresh() is False


def test_a_key_in_a_file_is_read_again_when_it_is_rewritten(tmp_path):
    file = tmp_path / "key"
    file.write_text("sk-1\n")
    secret = Secret.from_file(str(file))
    before = secret.id
    assert secret.reveal() == "sk-1"
    assert secret.refresh() is False
    file.write_text("sk-22\n")
    assert secret.refresh() is True
    assert (secret.reveal(), secret.id) == ("sk-22", before)
    assert secret.refresh() is False


def test_a_key_follows_a_symbolic_link_that_is_swapped(tmp_path):
    for name in ("v1", "v2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "key").write_text(f"sk-{name}")
    link = tmp_path / "data"
    link.symlink_to("v1")
    secret = Secret.from_file(str(link / "key"))
    (tmp_path / "new").symlink_to("v2")
    (tmp_path / "new").replace(link)
    assert secret.refresh() is True
    assert secret.reveal() == "sk-v2"


@pytest.mark.parametrize("spoil", [lambda file: file.unlink(), lambda file: file.write_text(" \n"), lambda file: file.write_text("a b")],
                         ids=["gone", "empty", "not a key"])  # fmt: skip
def test_a_file_that_cannot_be_used_leaves_the_old_key_until_it_can(tmp_path, spoil):
    file = tmp_path / "key"
    file.write_text("sk-1")
    secret = Secret.from_file(str(file))
    spoil(file)
    assert secret.refresh() is False
    assert secret.reveal() == "sk-1"
    file.write_text("sk-new")
    assert secret.refresh() is True
    assert secret.reveal() == "sk-new"


def test_a_file_touched_without_a_new_key_is_no_change(tmp_path):
    file = tmp_path / "key"
    file.write_text("sk-1")
    secret = Secret.from_file(str(file))
    os.utime(file, ns=(1, 1))
    assert secret.refresh() is False


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe", b"a b", b"x" * 70_000])
def test_a_file_that_holds_no_key_is_refused(tmp_path, content):
    file = tmp_path / "key"
    file.write_bytes(content)
    with pytest.raises(ValueError):
        Secret.from_file(str(file))


def test_every_place_for_a_secret_takes_a_file(tmp_path, read):
    file = tmp_path / "key"
    file.write_text("sk-filed\n")
    snapshot = read(
        f"""
admin: {{token: file:{file}}}
clients: [{{name: a, key: file:{file}}}]
providers: {{p: {{dialect: openai, base_url: https://h, api_key: [sk-1, file:{file}], headers: {{x-a: file:{file}}}}}}}
""",
    )
    provider = snapshot.providers["p"]
    assert [key.reveal() for key in provider.credentials] == ["sk-1", "sk-filed"]
    assert provider.plan.credentials == tuple(key.id for key in provider.credentials)
    assert provider.headers == ((b"x-a", b"x-a", b"sk-filed"),)
    assert snapshot.admin.token is not None
    assert snapshot.admin.token.reveal() == "sk-filed"
    file.write_text("sk-rotated")
    assert [secret.refresh() for secret in (*provider.credentials, snapshot.admin.token)] == [False, True, True]


def test_an_empty_secret_file_is_a_problem_at_its_line(tmp_path, complain):
    file = tmp_path / "key"
    file.touch()
    assert complain(f"providers:\n  p: {{dialect: openai, base_url: https://h, api_key: file:{file}}}\n") == [
        "2:54: providers.p.api_key: is empty",
    ]
