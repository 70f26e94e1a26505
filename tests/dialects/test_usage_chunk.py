"""The question for a stream's usage, and the chunk that answers it: asked without touching the rest, taken out without a trace."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.dialects.usage_chunk import ask_for_usage, without_usage
from tests.dialects.answers import CHAT_REQUEST, DONE, chat, chat_usage, chunk, data

EXTRA = data({"id": "c", "choices": [], "usage": chat_usage(1, 2)})
PIECES = ["Hi", ' "usage": {} "choices": [] ', "."]


@pytest.mark.parametrize(
    ("body", "asked"),
    [
        (CHAT_REQUEST, b'{"stream_options":{"include_usage":true},' + CHAT_REQUEST[1:]),
        (b' {\n "model": "m" }\n', b' {"stream_options":{"include_usage":true},\n "model": "m" }\n'),
        (
            b'{"x": {"stream_options": 1}, "y": "\\"stream_options\\": {"}',
            b'{"stream_options":{"include_usage":true},"x": {"stream_options": 1}, "y": "\\"stream_options\\": {"}',
        ),
    ],
)
def test_the_question_is_put_first_and_the_rest_stays_as_it_is(body, asked):
    assert ask_for_usage(body) == asked
    assert json.loads(asked) == {"stream_options": {"include_usage": True}, **json.loads(body)}


@pytest.mark.parametrize("options", ['{"include_usage":true}', '{"include_usage":false}', "{}", "null"])
@pytest.mark.parametrize("key", ["stream_options", "stream\\u005foptions"])
def test_a_client_that_speaks_of_it_is_left_alone(options, key):
    assert ask_for_usage(f'{{"model":"m","{key}":{options}}}'.encode()) is None
    assert ask_for_usage(f'{{"{key}":{options},"model":"m"}}'.encode()) is None


@settings(deadline=None)
@given(
    st.dictionaries(st.text(max_size=5), st.text(max_size=5) | st.lists(st.integers(), max_size=2), min_size=1),
    st.sampled_from([None, 1]),
)
def test_whatever_a_body_holds_the_question_is_all_that_is_new(body, indent):
    assert json.loads(ask_for_usage(json.dumps(body, indent=indent).encode())) == {
        "stream_options": {"include_usage": True},
        **body,
    }


@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("grouped", [True, False])
def test_the_extra_chunk_is_taken_out_and_nothing_else(newline, grouped):
    asked = [event.replace(b"\n", newline) for event in [b": hi\n\n", *chat(PIECES, usage=(1, 2))]]
    plain = [event.replace(b"\n", newline) for event in [b": hi\n\n", *chat(PIECES)]]
    blocks = [b"".join(asked)] if grouped else asked
    assert b"".join(map(without_usage, blocks)) == b"".join(plain)


@pytest.mark.parametrize(
    "extra",
    [
        EXTRA,
        b"event: chunk\n" + EXTRA,
        b'data: {"choices" : [ ], "usage" : {"prompt_tokens": 1}}\n\n',
        b'data: {"choices": [],\ndata: "usage": {}}\n\n',
    ],
)
def test_however_it_is_written(extra):
    assert without_usage(extra) == b""
    assert without_usage(extra + DONE) == DONE


@pytest.mark.parametrize(
    "event",
    [
        chunk({"content": "a"}, usage=None),
        chunk({}, "stop", usage=chat_usage(1, 2)),
        chunk({"content": '"usage": {}, "choices": []'}),
        data({"choices": [], "usage": None}),
        data({"choices": [], "prompt_filter_results": [], "x": "usage"}),
        data({"usage": chat_usage(1, 2)}),
        b'data: {"choices": [], "usage": {\n\n',
        b": usage\n\n",
    ],
)
def test_what_says_more_than_usage_or_nothing_of_it_stays(event):
    assert without_usage(event) == event
    assert without_usage(event + EXTRA + event) == event + event
