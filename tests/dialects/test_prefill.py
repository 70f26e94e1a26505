"""How a request asks for the rest of an answer: what is added, and that nothing else changes."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.plan import Family, Prefill
from gateway.dialects.prefill import beginning, continuation_body
from gateway.dialects.transcript import transcript_for
from tests.dialects.answers import CHAT_REQUEST, RESPONSES_REQUEST, chat, responses

ASKED = [prefill for prefill in Prefill if prefill is not Prefill.NONE]
FINAL = ',"add_generation_prompt":false,"continue_final_message":true'


def heard(text, family=Family.CHAT):
    made, request, count = (chat, CHAT_REQUEST, 2) if family is Family.CHAT else (responses, RESPONSES_REQUEST, 5)
    transcript = transcript_for(family, request)
    transcript.feed(b"".join(made([text])[:count]))
    assert transcript.resumable
    return transcript


@pytest.mark.parametrize(
    ("prefill", "sign", "flags"),
    [
        (Prefill.PLAIN, "", ""),
        (Prefill.PREFIX, ',"prefix":true', ""),
        (Prefill.PREFIX_ECHOED, ',"prefix":true', ""),
        (Prefill.CONTINUE_FINAL, "", FINAL),
    ],
)
def test_the_text_so_far_becomes_the_last_message(prefill, sign, flags):
    body = '{ "model":"m" ,"messages" : [ {"role":"user","content":"é\\u00e9"} ] , "seed":1.0 }\n'
    wanted = '{ "model":"m" ,"messages" : [ {"role":"user","content":"é\\u00e9"} ,{"role":"assistant","content":"Oh \\"né\\""%s}] , "seed":1.0 %s}\n'
    made = continuation_body(body.encode(), heard('Oh "né"'), prefill)
    assert made.decode() == wanted % (sign, flags)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ('"Hi\\n"', '[{"role":"user","content":"Hi\\n"},{"role":"assistant","content":"Oh"}]'),
        ('[ {"type":"item_reference","id":"x"}]', '[ {"type":"item_reference","id":"x"},{"role":"assistant","content":"Oh"}]'),
    ],
)
def test_the_input_of_a_response_becomes_or_is_a_list(given, wanted):
    body = '{"input": %s,"model":"m"}'
    made = continuation_body((body % given).encode(), heard("Oh", Family.RESPONSES), Prefill.PLAIN)
    assert made.decode() == body % wanted


@pytest.mark.parametrize(
    "body",
    [
        '{"messages":[{"role":"user","content":"Hi"},{"role":"assistant","content":"{"}]}',
        '{"messages":[]}',
        '{"messages":["Hi"]}',
        '{"messages":{"role":"user"}}',
        '{"messages":[{"role":"user"}],"messages":[{"role":"user"}]}',
        '{"messages":[{"role":"user"}],"\\u006dessages":[{"role":"user"}]}',
        '{"input":"Hi"}',
    ],
)
@pytest.mark.parametrize("prefill", ASKED)
def test_a_conversation_without_a_place_for_it_is_asked_again(body, prefill):
    assert continuation_body(body.encode(), heard("Oh"), prefill) is None


@pytest.mark.parametrize("key", ["add_generation_prompt", "continue_final_message", "continue_final\\u005fmessage"])
def test_flags_that_the_client_set_are_not_set_twice(key):
    body = b'{"messages":[{"role":"user"}],"%b":true}' % key.encode()
    assert continuation_body(body, heard("Oh"), Prefill.CONTINUE_FINAL) is None
    assert continuation_body(body, heard("Oh"), Prefill.PLAIN) is not None


@pytest.mark.parametrize("text", ["", " \n", "\ud83d"])
@pytest.mark.parametrize("prefill", ASKED)
def test_without_a_text_to_begin_with_the_request_is_asked_again(text, prefill):
    assert continuation_body(CHAT_REQUEST, heard(text), prefill) is None


def test_a_target_that_takes_no_beginning_is_asked_again():
    assert continuation_body(CHAT_REQUEST, heard("Oh"), Prefill.NONE) is None


def test_a_text_that_no_request_can_hold_is_asked_for_again():
    assert continuation_body(CHAT_REQUEST, heard("\ude00 Oh"), Prefill.PLAIN) is None


@pytest.mark.parametrize(
    ("text", "begun"),
    [("Oh", "Oh"), ("Oh \n\u00a0", "Oh"), (" Oh", " Oh"), ("Oh \ud83d", "Oh"), ("Oh 😀", "Oh 😀"), ("e\u0301", "e\u0301")],
)
def test_neither_space_nor_half_a_character_ends_a_beginning(text, begun):
    assert beginning(text) == begun
    assert json.loads(continuation_body(CHAT_REQUEST, heard(text), Prefill.PLAIN))["messages"][-1]["content"] == begun


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=6) | st.sampled_from(['"messages":[', "}", "]", "\\"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
users = st.fixed_dictionaries({"role": st.sampled_from(["user", "system", "tool"]), "content": json_values})


@settings(deadline=None)
@given(
    st.lists(users, min_size=1, max_size=3),
    st.dictionaries(st.sampled_from(["model", "x", "tools", "}", "é"]), json_values),
    st.sampled_from([None, 2]),
    st.text(min_size=1),
    st.sampled_from(ASKED),
)
def test_whatever_the_body_holds_only_the_message_and_the_flags_are_new(messages, rest, indent, text, prefill):
    asked = {"messages": messages, **rest}
    made = continuation_body(json.dumps(asked, indent=indent).encode(), heard(text), prefill)
    if not text.strip():
        assert made is None
        return
    document = json.loads(made)
    message = document["messages"].pop()
    assert message.pop("prefix", False) is (prefill in {Prefill.PREFIX, Prefill.PREFIX_ECHOED})
    assert message == {"role": "assistant", "content": text.rstrip()}
    final = prefill is Prefill.CONTINUE_FINAL
    assert (document.pop("add_generation_prompt", None), document.pop("continue_final_message", None)) == (
        (False, True) if final else (None, None)
    )
    assert document == asked
    assert list(document) == list(asked)
