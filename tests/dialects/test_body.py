"""What is read from JSON bodies, against a naive tokenizer; the surgical edit."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

import gateway.dialects.body as body_module
from gateway.dialects.body import insert_model, read_json, read_json_prefix, replace_model


def naive_top_level(body):
    """[(key, start, end)] of an object's entries by walking its bytes, without any JSON library for the structure."""
    found, depth, at, key, start = [], 0, 0, None, None
    while at < len(body):
        byte = body[at : at + 1]
        if byte == b'"':
            end = at + 1
            while body[end : end + 1] != b'"':
                end += 2 if body[end : end + 1] == b"\\" else 1
            if depth == 1 and key is None:
                key = json.loads(body[at : end + 1])
            elif depth == 1 and start is None:
                start = at
            at = end + 1
            continue
        if byte in b"{[":
            if depth == 1 and start is None:
                start = at
            depth += 1
        elif byte in b"}]" or (byte == b"," and depth == 1):
            if depth == 1 and key is not None:
                found.append((key, start, len(body[:at].rstrip(b" \t\r\n"))))
                key = start = None
            depth -= byte in b"}]"
        elif byte not in b" \t\r\n:," and depth == 1 and start is None:
            start = at
        at += 1
    return found


KEYS = ["model", "stream", "messages", "x", "mod", "modelx", '"model"', "é"]
escapes = st.sampled_from(["plain", "first", "all"])
space = st.sampled_from(["", " ", "\n\t", "\r\n"])


def spell(text, way):
    if way == "plain":
        return json.dumps(text, ensure_ascii=False)
    if way == "first":
        return '"' + f"\\u{ord(text[0]):04X}" + json.dumps(text[1:])[1:]
    return '"' + "".join(f"\\u{ord(letter):04x}" for letter in text) + '"'


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.text(max_size=6)
    | st.sampled_from(["model", '"model":"x"', "\\", '\\"model": ']),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def bodies(draw):
    entries = draw(st.lists(st.tuples(st.sampled_from(KEYS), escapes, values, space), max_size=6))
    body = "{" + ",".join(f"{gap}{spell(key, way)}{gap}:{gap}{json.dumps(value)}{gap}" for key, way, value, gap in entries) + "}"
    return (draw(space) + body + draw(space)).encode()


@given(bodies())
def test_spans_duplicates_and_escaped_keys_agree_with_a_naive_tokenizer(body):
    facts = read_json(body)
    found = naive_top_level(body)
    models = [(start, end) for key, start, end in found if key == "model"]
    streams = [body[start:end] for key, start, end in found if key == "stream"]
    last = json.loads(body[slice(*models[-1])]) if models else None
    if models and not isinstance(last, str):
        assert not facts.valid
        assert facts.error
    elif len(models) > 1 or len(streams) > 1:
        assert facts.valid
        assert "duplicate" in facts.error
    else:
        assert (facts.valid, facts.error) == (True, "")
        assert facts.model == last
        assert facts.model_span == (models[0] if models else None)
        assert facts.stream == (streams == [b"true"])


@given(bodies(), st.text(min_size=1, max_size=8))
def test_the_edit_changes_the_model_and_no_other_byte(body, new):
    facts = read_json(body)
    if not facts.valid or facts.error:
        return
    before = json.loads(body)
    if facts.model_span is not None:
        start, end = facts.model_span
        edited = replace_model(body, facts.model_span, new)
        assert edited.startswith(body[:start])
        assert edited.endswith(body[end:])
        assert json.loads(edited) == {**before, "model": new}
    else:
        edited = insert_model(body, new)
        assert json.loads(edited) == {**before, "model": new}
        assert edited.endswith(body.lstrip()[1:])
    assert read_json(edited).model == new


@given(bodies(), st.data())
def test_a_prefix_tells_the_model_once_its_value_is_there(body, data):
    whole = read_json(body)
    cut = data.draw(st.integers(0, len(body)))
    facts = read_json_prefix(body[:cut])
    if whole.error:
        return
    if facts is None:
        assert whole.model_span is None or whole.model_span[1] >= cut
    else:
        assert (facts.model, facts.model_span) == (whole.model, whole.model_span)


def test_a_prefix_in_the_middle_of_a_long_value():
    prefix = b'{"model": "gpt-4o", "stream": true, "messages": [{"role": "user", "content": "aaaaaaaaaaaa'
    facts = read_json_prefix(prefix)
    assert (facts.model, facts.stream, facts.model_span) == ("gpt-4o", True, (10, 18))
    assert read_json_prefix(b'{"messages": [{"content": "' + b"a" * 1000) is None


@pytest.mark.parametrize(
    "prefix",
    [
        b"",
        b"  ",
        b"[1, 2",
        b"model",
        b'{"model"',
        b'{"model":',
        b'{"model" "x"',
        b'{"model":"x',
        b"{1:2",
        b'{"a":1 "model":"x"',
        b'{"a',
        b'{"model":"\\ud800"}',
    ],
)
def test_a_prefix_without_a_model(prefix):
    assert read_json_prefix(prefix) is None or read_json_prefix(prefix).model is None


def test_a_prefix_with_a_bad_model_says_so():
    assert read_json_prefix(b'{"model":1,"x":"').error
    assert read_json_prefix(b'{"model":"a","model":"b","x":"').error


@pytest.mark.parametrize(
    "body",
    [b"", b" ", b"{", b"[]", b'"x"', b"1", b"{} x", b"\xff", b'{"a":}', b"\xef\xbb\xbf{}", "{}".encode("utf-16"), b"[" * 5000],
)
def test_what_is_no_json_object_is_not_valid(body):
    facts = read_json(body)
    assert not facts.valid
    assert facts.error


@pytest.mark.parametrize("value", [b"null", b"1", b"[]", b"{}", b"true", b'"\\ud800"'])
def test_a_model_must_be_a_text(value):
    facts = read_json(b'{"model":' + value + b"}")
    assert not facts.valid
    assert "`model`" in facts.error


@pytest.mark.parametrize("body", [b'{"Model":"x"}', b'{"model":"a","MODEL":"b"}', b'{"Stream":true}', b'{"\\u004dodel":"x"}'])
def test_keys_that_some_readers_take_for_the_same_are_refused(body):
    facts = read_json(body)
    assert facts.valid
    assert "case" in facts.error


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"a","model":"b"}',
        b'{"model":"a","\\u006dodel":"b"}',
        b'{"model":"a","mode\\u006C":"b"}',
        b'{"\\u006dodel":"a","mod\\u0065l":"b"}',
        b'{"model":"a","stream":false,"stream":true}',
        b'{"model":"a","stream":false,"\\u0073tream":true}',
        b'{"model":"a","\\u0073tream":true,"s\\u0074ream":false}',
    ],
)
def test_duplicate_keys_are_refused_in_any_spelling(body):
    facts = read_json(body)
    assert facts.valid
    assert "duplicate" in facts.error


@pytest.mark.parametrize(
    "body",
    [
        b'{"messages":[{"content":"say \\"model\\": \\"b\\""}],"model":"a"}',
        b'{"tools":[{"properties":{"model":{"type":"string"}}}],"model":"a"}',
        b'{"metadata":{"x":"model"},"model":"a"}',
        b'{"x":"\\u006d\\u0073 \\ud83d\\ude00","model":"a"}',
        b'{"x":"\\ud83d","model":"a"}',
        b'{"x":NaN,"model":"a"}',
        b'{"mod\\u0065l":"a"}',
    ],
)
def test_other_occurrences_of_the_word_do_not_matter(body):
    facts = read_json(body)
    assert (facts.model, facts.error) == ("a", "")
    start, end = facts.model_span
    assert body[start:end] == b'"a"'


def test_an_escaped_model_name_is_read_and_replaced_whole():
    body = b'{"model" : "gpt\\u002d4 \\"x\\"" , "n":1}'
    facts = read_json(body)
    assert facts.model == 'gpt-4 "x"'
    assert replace_model(body, facts.model_span, 'a"b') == b'{"model" : "a\\"b" , "n":1}'


@pytest.mark.parametrize(
    ("value", "stream"),
    [("true", True), ("false", False), ("null", False), ("1", False), ('"true"', False)],
)
def test_only_true_asks_for_a_stream(value, stream):
    assert read_json(f'{{"stream":{value}}}'.encode()).stream is stream


SCHEMA = {"type": "function", "parameters": {"properties": {"file_id": {"type": "string"}}, "required": ["file_id"]}}


@pytest.mark.parametrize(
    ("document", "pins"),
    [
        ({"input": "hi"}, False),
        ({"input": "hi", "store": False}, False),
        ({"input": "hi", "store": True}, True),
        ({"input": "hi", "background": True}, True),
        ({"input": "hi", "previous_response_id": "resp_1"}, True),
        ({"input": "hi", "previous_response_id": None}, False),
        ({"input": "hi", "conversation": {"id": "conv_1"}}, True),
        ({"input": [[1, 2, 3], [4]]}, False),
        ({"input": ["a", "b"]}, False),
        ({"input": [{"type": "item_reference", "id": "rs_1"}]}, True),
        ({"input": [{"type": "reasoning", "encrypted_content": "gAAAA"}]}, True),
        ({"input": [{"type": "reasoning", "encrypted_content": None}]}, False),
        ({"input": [{"content": [{"type": "input_file", "file_id": "file-1"}]}]}, True),
        ({"messages": [{"content": [{"type": "file", "file": {"file_id": "file-1"}}]}]}, True),
        ({"messages": [{"content": "the word file_id"}], "store": True}, False),
        ({"messages": [], "tools": [SCHEMA]}, False),
        ({"input": "x", "tools": [{"type": "file_search", "vector_store_ids": ["vs_1"]}]}, True),
        ({"input": "x", "tools": [{"type": "code_interpreter", "container": {"type": "auto", "file_ids": ["file-1"]}}]}, True),
        ({"input": "x", "tools": [{"type": "code_interpreter", "container": {"type": "auto", "file_ids": []}}]}, False),
    ],
)
def test_bodies_that_belong_to_one_account(document, pins):
    assert read_json(json.dumps(document).encode()).pins is pins


def test_a_body_nested_beyond_reason_is_still_read():
    deep = b'{"model":"a","input":' + b"[" * 500 + b"]" * 500 + b"}"
    assert read_json(deep).model == "a"


@given(st.binary(max_size=100) | st.binary(max_size=60).map(lambda raw: b'{"model":' + raw))
def test_no_bytes_make_it_raise(body):
    facts = read_json(body)
    assert facts.valid or facts.error
    read_json_prefix(body)


LONG = st.text(min_size=1, max_size=40).map(lambda text: text * 7)
LEAPING = st.recursive(
    st.none() | st.booleans() | st.integers() | LONG | st.sampled_from(["model", "stream", "file_id", '"', "\\", 'a"b\\']),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS) | LONG, inner, max_size=4),
    max_leaves=20,
)


@given(
    st.lists(st.tuples(st.sampled_from(KEYS), LEAPING | st.just("gpt-4o")), max_size=6), st.sampled_from([None, 1]), st.booleans()
)
def test_reading_in_leaps_says_what_parsing_says_or_nothing(entries, indent, ascii_only):
    """Whatever the body, duplicates included: the short way may give up, but it may not differ."""
    body = (
        "{"
        + ",".join(f"{json.dumps(key)}:{json.dumps(value, indent=indent, ensure_ascii=ascii_only)}" for key, value in entries)
        + "}"
    ).encode()
    leapt = body_module._read_in_leaps(body)
    if leapt is not None:
        parsed = read_json(body)
        assert not parsed.error
        assert (leapt.model, leapt.stream, leapt.model_span, leapt.pins) == (
            parsed.model,
            parsed.stream,
            parsed.model_span,
            parsed.pins,
        )


def test_a_large_plain_body_is_read_in_leaps():
    """A megabyte in a few strings, with escapes and brackets in them."""
    text = 'say \\"{[model]}\\" \\\\ ' * 40_000
    body = json.dumps({"messages": [{"role": "user", "content": text}], "model": "gpt-4o", "stream": True}).encode()
    facts = body_module._read_in_leaps(body)
    assert facts is None or (facts.model, facts.stream) == ("gpt-4o", True)
    plain = json.dumps(
        {"messages": [{"role": "user", "content": "{[ model ]} " * 80_000}], "model": "gpt-4o", "stream": True}
    ).encode()
    facts = body_module._read_in_leaps(plain)
    assert facts is not None
    assert (facts.model, facts.stream) == ("gpt-4o", True)
    assert plain[slice(*facts.model_span)] == b'"gpt-4o"'
    assert read_json(plain).model_span == facts.model_span
