"""What is read from JSON bodies, against a naive tokenizer; the surgical edit."""

import json
import re
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gateway.dialects.body as body_module
import gateway.dialects.leap as leap_module
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


@pytest.mark.parametrize(
    "body", [b'{"Model":"x"}', b'{"model":"a","MODEL":"b"}', b'{"Stream":true}', b'{"\\u004dodel":"x"}', b'{"\xc5\xbftReam":true}']
)
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


class Pairs(list):
    """An object's entries in their order, duplicates included."""


def top_level(body):
    return json.loads(body, object_pairs_hook=Pairs)


class Lenient:
    """A reader that takes more than JSON: comments, other quotes or none, trailing commas, broken UTF-8, and what follows the end."""

    SPACE = re.compile(r"(?:\s|\ufeff|//[^\n]*|\#[^\n]*|/\*.*?\*/)*", re.DOTALL)
    STRING = re.compile(r'"((?:[^"\\]|\\.)*)"' + r"|'((?:[^'\\]|\\.)*)'|([A-Za-z_$][\w$]*)", re.DOTALL)
    OTHER = re.compile(r"[^\s,:{}\[\]\"'/#]+")

    def __init__(self, body):
        self.text, self.at = body.decode("utf-8", "ignore"), 0

    def take(self, *tokens):
        self.at = self.SPACE.match(self.text, self.at).end()
        for token in tokens:
            if self.text.startswith(token, self.at):
                self.at += len(token)
                return token
        return None

    def string(self):
        self.take()
        found = self.STRING.match(self.text, self.at)
        if found is None:
            raise ValueError
        self.at = found.end()
        raw = next(group for group in found.groups() if group is not None)
        return re.sub(r"\\(u[0-9a-fA-F]{4}|.)", self.unescaped, raw, flags=re.DOTALL)

    @staticmethod
    def unescaped(escape):
        if len(escape[1]) > 1:
            return chr(int(escape[1][1:], 16))
        return dict(zip("bfnrt", "\b\f\n\r\t", strict=True)).get(escape[1], escape[1])

    def value(self):
        opening = self.take("{", "[")
        if opening is None:
            try:
                return self.string()
            except ValueError:
                found = self.OTHER.match(self.text, self.at)
                if found is None:
                    raise
                self.at = found.end()
                return found[0]
        items = Pairs()
        closing = "}" if opening == "{" else "]"
        while not self.take(closing):
            key = self.string() if opening == "{" else None
            if key is not None and not self.take(":", "="):
                raise ValueError
            items.append((key, self.value()))
            if not self.take(",", ";"):
                if not self.take(closing):
                    raise ValueError
                break
        return items


gaps = st.sampled_from(["", "", "", " ", "\n", "\t \r\n "])
texts = st.sampled_from(
    [
        "",
        "x" * 300,
        "model",
        "file_id",
        '"',
        "\\",
        "],",
        '],"model":"b',
        "}]}",
        '"}],"stream":true,"x":"',
        "[](http://x)",
        "a[0] = 1; // b",
        "é",
        "\n",
    ]
) | st.text(max_size=8)
rich_keys = st.sampled_from(["messages", "content", "n", "tools", "text", "models", "mod", ""])
odd_keys = st.sampled_from(["model", "stream", "Model", "é", "k" * 70, "store", "file_id", "item_reference"])


def written(value, gap, way):
    """The value as JSON, with gaps wherever they may stand and its keys in one spelling."""
    if isinstance(value, Pairs):
        return gap + "{" + ",".join(spaced(key, item, gap, way) for key, item in value) + gap + "}" + gap
    if isinstance(value, list):
        return gap + "[" + ",".join(written(item, gap, way) for item in value) + gap + "]" + gap
    return gap + json.dumps(value, ensure_ascii=way != "plain") + gap


def spaced(key, value, gap, way):
    return gap + (spell(key, way) if key else '""') + gap + ":" + written(value, gap, "plain")


rich_values = st.recursive(
    texts | st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(st.tuples(rich_keys | rich_keys | rich_keys | odd_keys, inner), max_size=4).map(Pairs)
    ),
    max_leaves=12,
)
models = st.tuples(st.just("model"), texts)
streams = st.tuples(st.just("stream"), st.booleans())
others = st.tuples(rich_keys, rich_values)
odd_entries = st.tuples(odd_keys, rich_values) | models | streams


@st.composite
def rich_bodies(draw):
    """Mostly what may be sent: one model, one choice to stream, lists and objects before, between and behind."""
    entries = [*draw(st.lists(others, min_size=1, max_size=4)), draw(models), draw(streams)]
    if draw(st.integers(0, 3)) == 0:
        entries.append(draw(odd_entries))
    way = draw(st.sampled_from(["plain"] * 9 + ["first", "all"]))
    gap = draw(gaps)
    body = "{" + ",".join(spaced(key, value, gap, way) for key, value in draw(st.permutations(entries))) + "}"
    return (gap + body + draw(gaps)).encode()


def read_without_parsing(body, free_leaps):
    """What is read of a large body, where few leaps are free and no number of brackets is too many."""
    with mock.patch.multiple(leap_module, _FREE_LEAPS=free_leaps, _LEAP_BYTES=1 << 30, _FREE_BRACKETS=1 << 30):
        return body_module._read_in_leaps(body)


@settings(max_examples=300)
@given(rich_bodies(), st.integers(0, 30))
def test_what_is_read_is_what_a_reader_of_pairs_finds(body, free_leaps):
    facts = read_without_parsing(body, free_leaps) or read_json(body)
    pairs = top_level(body)
    keys = [key for key, _ in pairs]
    models = [value for key, value in pairs if key == "model"]
    if "Model" in keys:
        assert "case" in facts.error
    elif models and not isinstance(models[-1], str):
        assert not facts.valid
    elif keys.count("model") > 1 or keys.count("stream") > 1:
        assert (facts.valid, "duplicate" in facts.error) == (True, True)
    else:
        assert (facts.valid, facts.error) == (True, "")
        assert facts.model == (models[0] if models else None)
        assert facts.stream is (dict(pairs).get("stream") is True)
        assert facts.pins is body_module._pins(json.loads(body), body)
        if models:
            edited = replace_model(body, facts.model_span, "other")
            assert top_level(edited) == [(key, "other" if key == "model" else value) for key, value in pairs]
        else:
            assert facts.model_span is None


ATTACKS = [
    b'],"model":"b"',
    b'},"model":"b"',
    b",'model':'b'",
    b',model:"b"',
    b',"mod\\u0065l":"b"',
    b',"mod\xffel":"b"',
    b',"MODEL":"b"',
    b',"model"/**/:"b"',
    b',"model"="b"',
    b'/*"*/',
    b'//"\n',
    b'#"\n',
    b"}",
    b"]",
    b"]}",
    b"]}]}",
    b"{",
    b'"',
    b",",
    b"\0",
    b"\xef\xbb\xbf",
    b'}{"model":"b"}',
    b"]/**/",
    b"]\n   x:1",
    b'],"a":1/**/,"model":"b"',
    b'],"a":{"b":1},"model":"b"',
    b'],"a":{},model:"b"',
]


@st.composite
def attacked_bodies(draw):
    """A body with something put in, mostly behind a bracket or a comma."""
    body = draw(rich_bodies())
    for attack in draw(st.lists(st.sampled_from(ATTACKS), min_size=1, max_size=3)):
        marks = [found.end() for found in re.finditer(rb"[\]},]", body)]
        place = draw(st.sampled_from(marks) | st.sampled_from(marks) | st.integers(0, len(body)))
        body = body[:place] + attack + body[place:]
    return body


@settings(max_examples=400)
@given(attacked_bodies(), st.integers(0, 12))
def test_no_lenient_reader_finds_another_model(body, free_leaps):
    """What is broken is refused, or every reader that takes it at all reads the same."""
    facts = read_without_parsing(body, free_leaps)
    if facts is None:
        return
    try:
        pairs = Lenient(body).value()
    except ValueError:
        return
    assert [value for key, value in pairs if str(key).lower() == "model"] == ([] if facts.model is None else [facts.model])
    assert [value == "true" for key, value in pairs if str(key).lower() == "stream"] in ([], [facts.stream])


RICH = 'He said "no" to it. ' * 10 + "[1] "
TOOL = {"type": "function", "parameters": {"properties": {"x": {"enum": ["a", "b"]}}, "required": ["x"]}}


def rich_messages():
    return [{"role": "user", "content": RICH * 2} for _ in range(600)]


@pytest.mark.parametrize(
    "document",
    [
        {"model": "a", "stream": True, "messages": rich_messages()},
        {"messages": rich_messages(), "model": "a", "stream": True},
        {"messages": rich_messages(), "model": "a", "tools": [TOOL], "response_format": {"type": "text"}, "stream": True},
        {"model": "a", "stream": True, "messages": rich_messages(), "tools": [TOOL] * 100, "metadata": {"x": "y"}, "n": 1},
        {"model": "a", "stream": True, "metadata": {"x": "y"}, "input": rich_messages()},
        {"model": "a", "stream": True, "input": [[1, 2, 3]] * 100 + [list(range(40_000))]},
        {"model": "a", "stream": True, "messages": [{"role": "user", "content": [{"type": "text", "text": RICH[:-4] * 4}]}] * 300},
        {"model": "a", "stream": True, "big": {f"k{at}": RICH for at in range(1000)}, "n": None},
    ],
    ids=range(8),
)
@pytest.mark.parametrize("indent", [None, 3])
def test_large_bodies_of_many_strings_are_read_without_parsing(document, indent):
    body = json.dumps(document, indent=indent).encode()
    assert len(body) > 64 * 1024
    facts = body_module._read_in_leaps(body)
    assert facts is not None
    assert (facts.model, facts.stream, facts.pins) == ("a", True, False)
    assert body[slice(*facts.model_span)] == b'"a"'


@pytest.mark.parametrize(
    "document",
    [
        {"model": "a", "messages": [*rich_messages(), {"content": [{"type": "file", "file": {"file_id": "file-1"}}]}]},
        {
            "model": "a",
            "messages": [{"content": [{"file_id": "x"}, RICH]}, *rich_messages(), {"content": [{"file_id": "x"}, RICH]}],
        },
        {"messages": rich_messages(), "model": "a", "tools": [{"type": "file_search", "vector_store_ids": ["vs_1"]}]},
        {"model": "a", "messages": rich_messages(), "tools": [{"type": "file_search", "vector_store_ids": ["vs_1"]}]},
        {"model": "a", "messages": rich_messages(), "tool_resources": {"file_search": {"vector_store_ids": ["vs_1"]}}},
        {"model": "a", "input": [*rich_messages(), {"type": "item_reference", "id": "rs_1"}]},
        {"input": rich_messages(), "model": "a", "previous_response_id": "resp_1"},
        {"input": rich_messages(), "n": 1, "previous_response_id": "resp_1"},
    ],
    ids=range(8),
)
def test_references_in_large_bodies_are_found(document):
    body = json.dumps(document).encode()
    assert read_json(body).pins
    assert read_json(body.replace(b"file_id", b"fil\\u0065_id").replace(b"store_ids", b"store\\u005fids")).pins


MIDDLE = json.dumps({"model": "a", "stream": True, "messages": rich_messages()})[:-1].encode()


@pytest.mark.parametrize(
    "ending",
    [
        b',"model":"b"}',
        b',"n":1,"model":"b"}',
        b',"n":[1],"model":"b"}',
        b',"n":{"x":{}},"model":"b"}',
        b',"stream":false}',
        b',"mod\\u0065l":"b"}',
        b',"s\\u0074ream":false}',
        b',"Model":"b"}',
        b',"x":1,"model":"b","big":[' + b"[1,2]," * 20_000 + b"0]}",
    ],
)
def test_a_second_key_behind_a_rich_list_is_refused(ending):
    facts = read_json(MIDDLE + ending)
    assert facts.valid
    assert "duplicate" in facts.error or "case" in facts.error


@pytest.mark.parametrize(
    "ending",
    [
        b"",
        b"]",
        b"} x",
        b"}}",
        b'}{"model":"b"}',
        b'},"n":1}',
        b"\xff}",
        b",}",
        b" /* */}",
        b" // x\n}",
        b",'model':'b'}",
        b',model:"b"}',
        b',"model"="b"}',
        b';"model":"b"}',
        b'\n   "n":1}',
        b',"n":1/**/}',
        b',"n":tru}',
    ],
)
def test_what_is_no_json_behind_a_rich_list_is_refused(ending):
    facts = read_json(MIDDLE + ending)
    assert not facts.valid
    assert facts.error


@pytest.mark.parametrize(
    "start",
    [b"\xef\xbb\xbf", b"/**/", b"[", b"\0", b"{{", b'{"n":NaN x,', b'{"\xff":1,', b'{"n":{/**/"x":1},', b'{"n":[]}[{"x":1},'],
)
def test_what_is_no_json_before_a_rich_list_is_refused(start):
    facts = read_json(start + MIDDLE[start.startswith(b"{") :] + b"}")
    assert not facts.valid


@pytest.mark.parametrize(
    "joint",
    [
        b" /* */",
        b" // x\n",
        b"# x\n",
        b",'model':'b'",
        b',model:"b"',
        b', model = "b"',
        b',"model"="b"',
        b',"model"/**/:"b"',
        b',"mod\xffel":"b"',
        b',\0"model":"b"',
        b',,"model":"b"',
        b';"model":"b"',
        b'\n   "model":"b"',
        b',"n":1/**/,"model":"b"',
        b',"n":"x",model:"b"',
        b',"n":{"x":1},model:"b"',
    ],
)
def test_what_is_a_key_to_some_readers_only_is_refused(joint):
    facts = read_json(MIDDLE + joint + b',"x":[1]}')
    assert not facts.valid


@pytest.mark.parametrize("ending", [b"}", b',"n":1}', b',"n":[1]}', b"}{", b',"n":{}}'])
def test_a_model_behind_the_end_of_the_object_is_not_read(ending):
    body = b'{"messages":' + json.dumps(rich_messages()).encode() + ending + b',"x":[1],"model":"a","y":"' + b"y" * 2000 + b'"}'
    assert not read_json(body).valid


@pytest.mark.parametrize("ending", [b" x}", b",}", b"}}", b"} {}", b""])
def test_what_is_no_json_behind_one_long_string_is_refused(ending):
    assert not read_json(b'{"model":"a","input":["' + b"x" * 100_000 + b'"]' + ending).valid


def test_a_key_of_the_same_name_in_a_nested_object_is_told_apart():
    tool = json.dumps([{"x": [1], "model": "b", "stream": False}] * 3).encode()
    for body in (MIDDLE + b',"tools":' + tool + b"}", b'{"tools":' + tool + b"," + MIDDLE[1:] + b"}"):
        facts = read_json(body)
        assert (facts.model, facts.stream, facts.error) == ("a", True, "")
        assert body[slice(*facts.model_span)] == b'"a"'


@pytest.mark.parametrize(
    ("document", "most"),
    [
        ({}, None),
        ({"max_tokens": 7}, 7),
        ({"max_tokens": 7, "max_completion_tokens": 5}, 5),
        ({"max_tokens": 7, "max_output_tokens": 6}, 6),
        ({"max_tokens": 7, "max_completion_tokens": None}, 7),
        ({"max_tokens": 7, "max_completion_tokens": -1}, 7),
        ({"max_tokens": 0}, 0),
        ({"max_tokens": 7, "n": 3}, 21),
        ({"max_tokens": 7, "n": 2, "best_of": 5}, 35),
        ({"max_tokens": 7, "best_of": 5}, 35),
        ({"max_tokens": 7, "n": 0}, 7),
        ({"max_tokens": 7, "n": -3}, 7),
        ({"max_tokens": 7, "n": True, "best_of": "3"}, 7),
        ({"max_tokens": True}, None),
        ({"max_tokens": "7"}, None),
        ({"max_tokens": 7.5}, None),
        ({"max_tokens": [7]}, None),
        ({"n": 5}, None),
    ],
)
def test_the_bound_of_an_answer_is_read_in_bodies_of_any_size(document, most):
    assert read_json(json.dumps({"model": "m", **document}).encode()).max_output == most
    text = {"messages": [{"role": "user", "content": "x" * 100_000}]}
    rich = {"messages": rich_messages()}
    odd = {"n": document.pop("n")} if "n" in document else {}
    for shape in (
        {"model": "m", **document, **odd, **text},
        {"model": "m", **text, **document, **odd},
        {"model": "m", **document, **rich, **odd},
        {"model": "m", **rich, **document, **odd},
        {**odd, **rich, **document, "model": "m"},
        {**rich, **document, **odd, "tools": [{"type": "function", "function": {"name": "f", "parameters": {"n": {}}}}]},
    ):
        body = json.dumps(shape).encode()
        assert len(body) > body_module.LARGE_BYTES
        assert read_json(body).max_output == most
        facts = body_module._read_in_leaps(body)
        assert facts is None or facts.max_output == most
    assert body_module._read_in_leaps(json.dumps({"model": "m", **rich, **document}).encode()) is not None


def test_what_is_no_text_is_known_of_a_small_body_only():
    parts = [{"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}]
    small = {"model": "m", "messages": [{"role": "user", "content": "x"}, {"role": "user", "content": parts}]}
    media = read_json(json.dumps(small).encode()).media
    assert (media.tokens, media.bytes) == (765, 25)
    assert "765" in repr(media)
    pinned = [{"type": "file", "file": {"file_id": "file-1"}}, *parts]
    facts = read_json(json.dumps({"messages": [{"content": pinned}, {"content": parts}]}).encode())
    assert facts.pins
    assert facts.media.tokens == 5000 + 2 * 765
    assert read_json(json.dumps({**small, "messages": [{"content": [{"type": "text", "text": "x"}]}]}).encode()).media is None
    assert read_json(json.dumps({**small, "user": "x" * 70_000}).encode()).media is None
