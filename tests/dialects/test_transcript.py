"""What a client has got so far, and which answers nobody could continue."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.plan import Family
from gateway.dialects.transcript import MAX_TEXT_BYTES, transcript_for
from tests.dialects.answers import CHAT_REQUEST, DONE, RESPONSES_REQUEST, chat, chat_usage, chunk, data, named, responses, whole


def of_chat(*events):
    transcript = transcript_for(Family.CHAT, CHAT_REQUEST)
    for event in events:
        transcript.feed(event)
    return transcript


def of_responses(*events):
    transcript = transcript_for(Family.RESPONSES, RESPONSES_REQUEST)
    for event in events:
        transcript.feed(event)
    return transcript


def request(**changes):
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": True, **changes}).encode()


def responses_request(**changes):
    return json.dumps({"model": "m", "input": "Hi", "stream": True, **changes}).encode()


@pytest.mark.parametrize(
    "body",
    [
        request(),
        request(n=1),
        request(n=None, logprobs=False, top_logprobs=0, response_format={"type": "text"}, modalities=["text"], audio=None),
        request(tools=[{"type": "function", "function": {"name": "f"}}]),
        request(response_format=None, guided_json=None, seed=1, stop=["x"]),
    ],
)
def test_chat_requests_for_text_have_a_transcript(body):
    transcript = transcript_for(Family.CHAT, body)
    assert transcript.resumable
    assert not transcript.finished
    assert transcript.text == ""


@pytest.mark.parametrize(
    "body",
    [
        request(n=2),
        request(n=[1]),
        request(logprobs=True),
        request(top_logprobs=3),
        request(response_format={"type": "json_object"}),
        request(response_format={"type": "json_schema", "json_schema": {}}),
        request(response_format="json"),
        request(modalities=["text", "audio"]),
        request(modalities=["image"]),
        request(audio={"voice": "alloy", "format": "pcm16"}),
        request(guided_json={"type": "object"}),
        request(guided_choice=["a", "b"]),
        request(structured_outputs={"regex": "a"}),
        request(grammar="root ::= x"),
        request(messages="Hi"),
        b'{"model":"m"}',
        b"[]",
        b"not json",
    ],
)
def test_chat_requests_for_anything_but_one_text_have_none(body):
    assert transcript_for(Family.CHAT, body) is None


@pytest.mark.parametrize(
    "body",
    [
        responses_request(),
        responses_request(input=[{"role": "user", "content": "Hi"}]),
        responses_request(text={"format": {"type": "text"}, "verbosity": "low"}),
        responses_request(text={"verbosity": "low"}),
        responses_request(text=None, include=["reasoning.encrypted_content"], top_logprobs=None),
        responses_request(include=None),
    ],
)
def test_responses_requests_for_text_have_a_transcript(body):
    assert transcript_for(Family.RESPONSES, body).resumable


@pytest.mark.parametrize(
    "body",
    [
        responses_request(text={"format": {"type": "json_schema", "name": "x", "schema": {}}}),
        responses_request(text={"format": {"type": "json_object"}}),
        responses_request(text="json"),
        responses_request(top_logprobs=2),
        responses_request(include=["message.output_text.logprobs"]),
        responses_request(input=None),
        b'{"model":"m","prompt":{"id":"pmpt_1"}}',
        b"",
    ],
)
def test_responses_requests_for_anything_but_text_have_none(body):
    assert transcript_for(Family.RESPONSES, body) is None


@pytest.mark.parametrize("family", sorted(set(Family) - {Family.CHAT, Family.RESPONSES}))
def test_other_endpoints_have_no_transcript(family):
    assert transcript_for(family, CHAT_REQUEST) is None


@settings(deadline=None)
@given(st.lists(st.text()), st.data())
def test_a_cut_chat_stream_has_said_what_its_chunks_said(pieces, draw):
    events = chat(pieces)[: draw.draw(st.integers(0, len(pieces) + 1))]
    transcript = of_chat(b"".join(events))
    assert transcript.resumable
    assert transcript.text == "".join(pieces[: max(0, len(events) - 1)])
    assert transcript.head == ({"id": "chatcmpl-one", "model": "m-one", "created": 3} if events else {})
    assert transcript.introduced == bool(events)


@settings(deadline=None)
@given(st.lists(st.text()), st.data())
def test_a_cut_response_has_said_what_its_deltas_said(pieces, draw):
    events = responses(pieces)[: draw.draw(st.integers(2, len(pieces) + 4))]
    transcript = of_responses(*events)
    assert transcript.resumable
    assert transcript.text == "".join(pieces[: max(0, len(events) - 4)])
    assert transcript.head == {"id": "resp_one", "model": "m-one", "created_at": 3}
    assert transcript.sequence == len(events) - 1


@settings(deadline=None)
@given(st.text(alphabet="😀👍é a"), st.data())
def test_characters_cut_in_two_by_the_provider_are_whole_in_the_text(text, draw):
    units = [
        text.encode("utf-16-le", "surrogatepass")[at : at + 2].decode("utf-16-le", "surrogatepass")
        for at in range(0, 2 * len(text), 2)
    ]
    units = units[: draw.draw(st.integers(0, len(units)))]
    assert of_chat(*chat(units)[:-2]).text == whole("".join(units))
    assert of_responses(*responses(units)[:-4]).text == whole("".join(units))


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_events_are_read_as_they_are_written(end):
    event = b": note\nevent: message\nid: 7\ndata: " + b'{"choices":[{"delta":\ndata: {"content":"Hi"}}]}\n\n'
    transcript = of_chat((b"data:" + chunk({"content": "Oh "})[6:] + b": ping\n\n" + event).replace(b"\n", end))
    assert transcript.text == "Oh Hi"
    assert transcript.resumable


def test_an_answer_keeps_the_names_it_had_first():
    transcript = of_chat(data({"id": "a", "choices": []}), data({"id": "b", "model": "m", "choices": []}), chunk({"content": "Hi"}))
    assert transcript.head == {"id": "a", "model": "m", "created": 3}


def test_a_chat_stream_is_finished_when_it_says_why():
    transcript = of_chat(*chat(["Hi"])[:2])
    assert not transcript.finished
    transcript.feed(chunk({}, "stop"))
    assert transcript.finished
    assert not transcript.resumable


@pytest.mark.parametrize("status", ["completed", "incomplete", "failed"])
def test_a_response_is_finished_when_it_is_closed(status):
    transcript = of_responses(*responses([])[:4])
    assert not transcript.finished
    transcript.feed(responses([], status=status)[-1])
    assert transcript.finished
    assert not transcript.resumable


CHAT_REFUSALS = {
    "tool call": chunk({"tool_calls": [{"index": 0, "id": "call_1", "function": {"name": "f", "arguments": ""}}]}),
    "function call": chunk({"function_call": {"name": "f", "arguments": ""}}),
    "refusal": chunk({"refusal": "I"}),
    "audio": chunk({"audio": {"id": "audio_1", "transcript": "Hi"}}),
    "image": chunk({"images": [{"type": "image_url"}]}),
    "citations": chunk({"content": "Hi", "annotations": [{"type": "url_citation"}]}),
    "content in parts": chunk({"content": [{"type": "thinking", "thinking": []}]}),
    "signed thoughts": chunk({"reasoning_details": [{"type": "reasoning.text", "text": "Hm", "signature": "x"}]}),
    "encrypted thoughts": chunk({"reasoning_details": [{"type": "reasoning.encrypted", "data": "x"}]}),
    "signature beside the text": chunk({"content": "Hi", "extra_content": {"google": {"thought_signature": "x"}}}),
    "second choice": data({"choices": [{"index": 1, "delta": {"content": "Hi"}}]}),
    "log probabilities": data({"choices": [{"index": 0, "delta": {"content": "Hi"}, "logprobs": {"content": [{"token": "Hi"}]}}]}),
    "not JSON": b"data: {\n\n",
    "no object": b"data: [1]\n\n",
    "part of an event too long to be held": b'data: {"choices":[{"delta":{"content":"',
}


@pytest.mark.parametrize("event", CHAT_REFUSALS.values(), ids=CHAT_REFUSALS)
def test_what_a_chat_stream_may_not_hold(event):
    transcript = of_chat(*chat(["Hi"])[:2])
    assert transcript.resumable
    transcript.feed(event)
    assert not transcript.resumable
    transcript.feed(chunk({"content": "more"}))
    assert not transcript.resumable
    assert not transcript.finished
    assert transcript.text == ""


@pytest.mark.parametrize(
    "event",
    [
        chunk({"role": "assistant", "content": None, "tool_calls": [], "refusal": None, "function_call": None, "annotations": []}),
        chunk(
            {"content": "", "reasoning": "Hm", "reasoning_details": [{"type": "reasoning.text", "text": "Hm", "signature": None}]}
        ),
        chunk({"reasoning_content": "Hm"}),
        chunk({"name": "x", "index": 1}),
        data({"id": "", "model": "", "created": 0, "choices": [], "prompt_filter_results": [{"prompt_index": 0}]}),
        data({"choices": [{"index": 0, "delta": {}, "logprobs": {"content": [], "refusal": None}}]}),
        data({"choices": [None]}),
        data({"choices": None}),
        b": OPENROUTER PROCESSING\n\n",
        b"event: ping\n\n",
    ],
)
def test_signs_of_life_and_open_thoughts_change_nothing_in_a_chat_transcript(event):
    transcript = of_chat(event, *chat(["Hi"])[:2], event)
    assert transcript.resumable
    assert transcript.text == "Hi"
    assert transcript.head["id"] == "chatcmpl-one"


PLACE = {"item_id": "msg_one", "output_index": 0, "content_index": 0}
RESPONSES_REFUSALS = {
    "tool call": named("response.output_item.added", output_index=1, item={"type": "function_call", "id": "fc_1"}),
    "hosted tool": named("response.output_item.added", output_index=1, item={"type": "web_search_call", "id": "ws_1"}),
    "second message": named("response.output_item.added", output_index=1, item={"type": "message", "id": "msg_2", "content": []}),
    "item that is none": named("response.output_item.added", output_index=1, item=None),
    "sealed thought": named("response.output_item.added", output_index=1, item={"type": "reasoning", "encrypted_content": "x"}),
    "second part": named("response.content_part.added", **PLACE | {"content_index": 1}, part={"type": "output_text", "text": ""}),
    "refusal": named("response.refusal.delta", **PLACE, delta="I"),
    "citation": named("response.output_text.annotation.added", **PLACE, annotation={"type": "url_citation"}),
    "log probabilities": named("response.output_text.delta", **PLACE, delta="Hi", logprobs=[{"token": "Hi", "logprob": 0}]),
    "text elsewhere": named("response.output_text.delta", **PLACE | {"content_index": 1}, delta="Hi"),
    "text of another item": named("response.output_text.delta", **PLACE | {"output_index": 1}, delta="Hi"),
    "delta that is no text": named("response.output_text.delta", **PLACE, delta={"a": 1}),
    "audio": named("response.audio.delta", delta="AAAA"),
    "unknown": named("response.dance.added", output_index=0),
    "no type": data({"output_index": 0}),
    "not JSON": b"data: {\n\n",
}


@pytest.mark.parametrize("event", RESPONSES_REFUSALS.values(), ids=RESPONSES_REFUSALS)
def test_what_a_response_may_not_hold(event):
    transcript = of_responses(*responses(["Hi"])[:5])
    assert transcript.resumable
    assert transcript.text == "Hi"
    transcript.feed(event)
    assert not transcript.resumable


@pytest.mark.parametrize(
    "event",
    [
        named("response.output_item.added", output_index=0, item={"type": "message", "id": None, "content": []}),
        named("response.output_item.added", output_index=0, item={"type": "message", "id": "m", "content": [{"type": "refusal"}]}),
        named("response.output_text.delta", **PLACE, delta="Hi"),
    ],
)
def test_a_message_that_does_not_begin_as_published_is_not_continued(event):
    assert not of_responses(*responses([])[:2], event).resumable


@pytest.mark.parametrize(
    "part", [{"type": "refusal", "refusal": ""}, {"type": "output_audio"}, {"type": "output_text", "text": "Hi"}, None]
)
def test_a_part_that_is_not_empty_text_is_not_continued(part):
    assert not of_responses(*responses([])[:3], named("response.content_part.added", **PLACE, part=part)).resumable


@pytest.mark.parametrize(
    "event", [named("keepalive", sequence_number=9), named("ping"), named("response.queued"), b": ping\n\n", DONE]
)
def test_signs_of_life_change_nothing_in_a_response(event):
    transcript = of_responses(*responses(["Hi"])[:5], event)
    assert transcript.resumable
    assert transcript.text == "Hi"
    assert transcript.sequence == (9 if b"keepalive" in event else 4)


def test_a_response_whose_text_was_said_to_be_whole_is_not_continued():
    events = responses(["Hi"])
    assert not of_responses(*events[:5]).finished
    transcript = of_responses(*events[:6])
    assert transcript.finished
    assert not transcript.resumable


def test_a_response_may_be_continued_behind_a_thought_but_not_inside():
    events = responses(["Hi"], thoughts=["Hm", "hm"])
    states = [of_responses(*events[:count]).resumable for count in range(len(events))]
    assert states == [True] * 3 + [False] * 6 + [True] * 4 + [False] * 3
    thought = of_responses(*events[:10]).thoughts
    assert thought == {0: {"type": "reasoning", "id": "rs_one", "summary": [{"type": "summary_text", "text": "Hmhm"}]}}


def test_a_thought_that_turns_out_to_be_sealed_is_not_followed():
    done = named("response.output_item.done", output_index=0, item={"type": "reasoning", "encrypted_content": "x"})
    assert not of_responses(*responses(["Hi"], thoughts=["Hm"])[:7], done).resumable


def test_a_text_too_long_to_be_kept_is_not_continued():
    transcript = of_chat(chunk({"content": "é" * (MAX_TEXT_BYTES // 2)}))
    assert transcript.resumable
    transcript.feed(chunk({"content": "x"}))
    assert not transcript.resumable
    assert transcript.text == ""


def test_usage_is_kept_as_it_was_last_told():
    transcript = of_chat(chunk({"content": "Hi"}, usage=None), chunk({"content": "!"}, usage=chat_usage(5, 1)))
    assert transcript.usage == chat_usage(5, 1)
    transcript.feed(chunk({"content": "!"}, x_groq={"id": "req_1", "usage": chat_usage(5, 2)}))
    assert transcript.usage == chat_usage(5, 2)
    transcript.feed(chunk({"content": "!"}, usage={"queue_time": 1}))
    assert transcript.usage == chat_usage(5, 2)
    assert transcript.text == "Hi!!!"


def test_usage_is_complete_as_long_as_every_stream_has_told_its_own():
    transcript = of_chat(chunk({"content": "Hi"}, usage=chat_usage(5, 1)))
    transcript.resumed()
    assert transcript.usage_complete
    transcript.resumed()
    assert not transcript.usage_complete
    transcript.feed(chunk({"content": "!"}, usage=chat_usage(5, 1)))
    transcript.resumed()
    assert not transcript.usage_complete


def test_the_terminator_is_no_text():
    assert of_chat(DONE, chunk({"content": "Hi"})).text == "Hi"
