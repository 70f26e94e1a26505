"""Token counts as reported, never estimated; shapes from the providers' API references."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects.registry import DIALECTS

CHAT = {"prompt_tokens": 19, "completion_tokens": 10, "total_tokens": 29, "prompt_tokens_details": {"cached_tokens": 0}}
RESPONSES = {"input_tokens": 36, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": 87, "total_tokens": 123}


def usage(document, **style):
    return DIALECTS["openai"].usage(json.dumps(document, **style).encode())


@pytest.mark.parametrize(
    ("reported", "counts"),
    [
        (CHAT, (19, 10)),
        (RESPONSES, (36, 87)),
        ({"prompt_tokens": 8, "total_tokens": 8}, (8, 0)),
        ({"type": "duration", "seconds": 27}, None),
        ({"prompt_tokens": "8"}, None),
        ({"prompt_tokens": -1, "completion_tokens": 2}, None),
        ({"prompt_tokens": True}, None),
        (None, None),
        ([], None),
    ],
)
@pytest.mark.parametrize("size", [10, 200_000])
def test_usage_of_small_and_large_answers(reported, counts, size):
    for style in ({}, {"separators": (",", ":")}, {"indent": 2}):
        assert usage({"data": "x" * size, "usage": reported, "metadata": {}}, **style) == counts


def test_text_that_looks_like_usage_is_not_counted():
    for size in (10, 200_000):
        text = '"usage":{"prompt_tokens":1,"completion_tokens":2}' + "x" * size
        assert usage({"choices": [{"message": {"content": text}}]}) is None
        assert usage({"choices": [{"message": {"content": text}}], "usage": CHAT}) == (19, 10)


def test_usage_elsewhere_in_a_small_answer_is_not_its_own():
    assert usage({"tools": [{"usage": CHAT}]}) is None


@pytest.mark.parametrize(
    "body", [b"", b"x", b'"usage"', b'{"usage":', b'[{"usage":{}}]', b'{"usage":{"prompt_tokens":1' + b" " * 100_000]
)
def test_what_cannot_be_read_is_none(body):
    assert DIALECTS["azure"].usage(body) is None


@given(st.binary(max_size=80), st.integers(0, 1))
def test_no_bytes_make_it_raise(noise, long):
    DIALECTS["openai"].usage(noise + b'"usage":' + noise + b" " * 70_000 * long)
