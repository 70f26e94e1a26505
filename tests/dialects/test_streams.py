"""What stream events mean; event shapes from the providers' API references and captures."""

import json

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import APIError, OpenAI
from openai._streaming import Stream

from gateway.core.plan import Family
from gateway.core.sse import EventSplitter
from gateway.dialects.base import Part
from gateway.dialects.registry import DIALECTS


def chat():
    return DIALECTS["openai"].stream(Family.CHAT)


def responses():
    return DIALECTS["openai"].stream(Family.RESPONSES)


def data(payload, *, spaced=False):
    text = json.dumps(payload) if spaced else json.dumps(payload, separators=(",", ":"))
    return b"data: " + text.encode() + b"\n\n"


def chunk(delta, *, finish=None, index=0, spaced=False, **more):
    choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
    return data({"id": "chatcmpl-1", "object": "chat.completion.chunk", "choices": [choice], **more}, spaced=spaced)


def named(kind, **payload):
    return f"event: {kind}\n".encode() + data({"type": kind, **payload})


DONE = b"data: [DONE]\n\n"
ROLE = chunk({"role": "assistant", "content": "", "refusal": None})
HELLO = chunk({"content": "Hello"})


@pytest.mark.parametrize(
    "event",
    [
        ROLE,
        chunk({"role": "assistant", "content": None}),
        chunk({"role": "assistant", "content": "", "tool_calls": []}),
        chunk({}),
        b": OPENROUTER PROCESSING\n\n",
        b": keep-alive\n\n",
        b"event: ping\n\n",
        b"id: 1\nretry: 3000\n\n",
        data({"id": "", "object": "", "choices": [], "prompt_filter_results": [{"prompt_index": 0}]}),
        data({"id": "x", "choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2}}),
        data({"id": "x", "choices": [], "error": None}),
        data({"id": "x", "choices": [None]}),
    ],
)
def test_signs_of_life_in_a_chat_stream_are_not_content(event):
    assert chat().read(event) is Part.LIFE


@pytest.mark.parametrize(
    "event",
    [
        HELLO,
        chunk({"content": "Hello"}, spaced=True),
        chunk({"refusal": "I"}),
        chunk({"reasoning_content": "Let"}),
        chunk({"reasoning": "Let"}),
        chunk({"tool_calls": [{"index": 0, "id": "call_1", "function": {"name": "f", "arguments": ""}}]}),
        chunk({"function_call": {"name": "f"}}),
        chunk({"audio": {"id": "audio_1"}}),
        chunk({"content": [{"type": "thinking", "thinking": []}]}),
        chunk({}, finish="stop"),
        data({"id": "cmpl-1", "choices": [{"text": "Hi", "index": 0, "finish_reason": None}]}),
        data({"id": "cmpl-1", "choices": [{"text": "", "index": 0, "finish_reason": "length"}]}),
        b"data: no JSON at all\n\n",
        HELLO.replace(b"\n", b"\r\n"),
    ],
)
def test_content_in_a_chat_stream(event):
    assert chat().read(event) is Part.CONTENT


ERRORS = [
    data({"error": {"message": "The server had an error", "type": "server_error", "param": None, "code": None}}),
    data({"error": {"message": "x"}}, spaced=True),
    data({"error": "Internal error"}),
    b'event: error\ndata: {"error":{"message":"x"}}\n\n',
    b'event:error\ndata: {"message":"x"}\n\n',
    b"event: error\ndata: gone\n\n",
    data({"type": "error", "code": "server_error", "message": "x", "param": None}),
    data({"object": "error", "message": "x", "type": "internal", "code": 500}),
    data(
        {"id": "gen-1", "error": {"code": 502, "message": "x"}, "choices": [{"delta": {"content": ""}, "finish_reason": "error"}]}
    ),
    data({"id": "gen-1", "choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "error"}]}),
]


@pytest.mark.parametrize("event", ERRORS)
@pytest.mark.parametrize("family", [Family.CHAT, Family.COMPLETIONS])
def test_errors_inside_a_200_are_seen_before_and_after_commit(event, family):
    payload = event[event.index(b"data: ") + 6 : -2]
    for ways in (
        lambda reader: reader.read(event),
        lambda reader: reader.skim(event),
        lambda reader: reader.skim(HELLO + event),
        lambda reader: reader.skim(event + DONE),
    ):
        reader = DIALECTS["openai"].stream(family)
        reader.read(HELLO)
        assert ways(reader) is Part.ERROR
        assert reader.error_payload() == payload
        assert not reader.ended


@pytest.mark.parametrize("event", [e for e in ERRORS if b"choices" not in e])
def test_errors_look_the_same_in_streams_without_a_reader_of_their_own(event):
    for family in (Family.RESPONSES, Family.AUDIO):
        reader = DIALECTS["openai"].stream(family)
        assert reader.read(event) is Part.ERROR
        if b"event:error" not in event and b"gone" not in event:
            assert DIALECTS["openai"].stream(family).skim(event) is Part.ERROR


@pytest.mark.parametrize(
    "text",
    [
        "error",
        '"error"',
        '{"error": {"message": "boom"}}',
        "data: [DONE]",
        "[DONE]\n\n",
        '"finish_reason":"stop"',
        '"usage":{"prompt_tokens":1,"completion_tokens":2}',
        "\nevent: error\ndata: x",
        "response.completed",
        '{"type":"response.completed"}',
        'event: response.failed\ndata: {"type":"response.failed"}',
        '"response":{',
    ],
)
def test_what_a_model_writes_is_never_taken_for_the_stream_s_own_words(text):
    reader = chat()
    for event in (chunk({"content": text}), chunk({"content": text}, spaced=True)):
        assert reader.read(event) is Part.CONTENT
        assert reader.skim(event * 2) is Part.CONTENT
    assert (reader.finished, reader.ended, reader.usage) == (False, False, None)

    reader = responses()
    event = named("response.output_text.delta", delta=text, item_id="msg_1", output_index=0)
    assert reader.read(event) is Part.CONTENT
    assert reader.skim(event * 2) is Part.CONTENT
    assert (reader.finished, reader.ended, reader.usage) == (False, False, None)


@given(st.text(max_size=60), st.booleans())
def test_no_text_confuses_the_scans(text, spaced):
    reader = chat()
    reader.read(chunk({"role": "assistant"}, spaced=spaced))
    assert reader.skim(chunk({"content": text}, spaced=spaced)) is Part.CONTENT
    assert not reader.finished
    assert not reader.ended


@pytest.mark.parametrize("spaced", [False, True])
def test_a_whole_chat_stream(spaced):
    reader = chat()
    assert reader.read(chunk({"role": "assistant", "content": ""}, spaced=spaced)) is Part.LIFE
    assert reader.read(chunk({"content": "Hello"}, spaced=spaced)) is Part.CONTENT
    assert reader.skim(chunk({"content": " you"}, spaced=spaced) * 3) is Part.CONTENT
    assert not reader.finished
    assert reader.terminator() == b""
    assert reader.skim(chunk({}, finish="stop", spaced=spaced)) is Part.CONTENT
    assert reader.finished
    assert reader.terminator() == DONE
    usage = {"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21, "prompt_tokens_details": {"cached_tokens": 0}}
    assert reader.skim(data({"id": "x", "choices": [], "usage": usage}, spaced=spaced)) is Part.CONTENT
    assert reader.usage == (9, 12)
    assert reader.skim(DONE) is Part.END
    assert reader.ended
    assert reader.terminator() == b""


def test_groq_reports_usage_in_its_own_field():
    reader = chat()
    reader.read(HELLO)
    reader.skim(chunk({}, finish="stop", x_groq={"id": "req_1", "usage": {"prompt_tokens": 3, "completion_tokens": 4}}))
    assert reader.usage == (3, 4)


def test_usage_that_is_null_in_every_chunk_is_no_usage():
    reader = chat()
    reader.read(chunk({"content": "a"}, usage=None))
    assert reader.skim(chunk({"content": "b"}, usage=None)) is Part.CONTENT
    assert reader.usage is None


def test_a_stream_of_two_choices_has_finished_when_both_have():
    reader = chat()
    reader.read(HELLO)
    reader.skim(chunk({"content": "x"}, index=1))
    reader.skim(chunk({}, finish="stop"))
    assert not reader.finished
    reader.skim(chunk({"content": "y"}, index=1) + chunk({}, finish="stop", index=1))
    assert reader.finished


def test_parallel_tool_calls_are_not_further_choices():
    reader = chat()
    reader.read(chunk({"tool_calls": [{"index": 0, "function": {"name": "f"}}]}))
    reader.skim(chunk({"tool_calls": [{"index": 1, "function": {"name": "g"}}]}))
    reader.skim(chunk({}, finish="tool_calls"))
    assert reader.finished


def test_a_terminator_without_its_blank_line_ends_the_stream():
    reader = chat()
    reader.read(HELLO)
    assert reader.read(b"data: [DONE]") is Part.END


def test_end_is_told_for_a_block_that_ends_with_the_terminator():
    reader = chat()
    reader.read(HELLO)
    assert reader.skim(HELLO + chunk({}, finish="stop") + DONE) is Part.END
    assert reader.finished


@pytest.mark.parametrize(
    "event",
    [
        named("response.created", response={"id": "resp_1", "error": None, "status": "in_progress"}),
        named("response.in_progress", response={"id": "resp_1", "error": None}),
        named("response.queued", response={"id": "resp_1"}),
        named("response.output_item.added", output_index=0, item={"id": "msg_1", "type": "message", "content": []}),
        named("response.content_part.added", part={"type": "output_text", "text": ""}),
        named("response.reasoning_summary_part.added", part={"type": "summary_text", "text": ""}),
        named("response.web_search_call.in_progress", item_id="ws_1"),
        named("response.web_search_call.searching", item_id="ws_1"),
        named("response.output_text.delta", delta=""),
        data({"type": "response.created", "response": {}}, spaced=True),
        named("keepalive", sequence_number=3),
        b": ping\n\n",
    ],
)
def test_signs_of_life_in_a_responses_stream_are_not_content(event):
    reader = responses()
    assert reader.read(event) is Part.LIFE
    assert reader.skim(event) is Part.CONTENT
    assert not reader.ended


@pytest.mark.parametrize(
    "event",
    [
        named("response.output_text.delta", delta="Hi", item_id="msg_1"),
        named("response.refusal.delta", delta="I"),
        named("response.function_call_arguments.delta", delta="{"),
        named("response.reasoning_summary_text.delta", delta="Let"),
        named("response.audio.delta", delta="UklGRg=="),
        named("response.output_text.done", text=""),
        named("response.output_item.done", item={"type": "message"}),
        data({"type": "response.output_text.delta", "delta": "Hi"}, spaced=True),
        data({"something": "else"}),
        b"data: [1, 2]\n\n",
    ],
)
def test_content_in_a_responses_stream(event):
    assert responses().read(event) is Part.CONTENT


RESPONSE = {"id": "resp_1", "object": "response", "error": None, "usage": {"input_tokens": 11, "output_tokens": 5}}


@pytest.mark.parametrize("kind", ["response.completed", "response.incomplete"])
def test_a_responses_stream_ends_with_its_response(kind):
    for event in (named(kind, response=RESPONSE), data({"type": kind, "response": RESPONSE}, spaced=True)):
        for way in ("read", "skim"):
            reader = responses()
            assert getattr(reader, way)(event) is Part.END
            assert (reader.ended, reader.finished, reader.usage) == (True, True, (11, 5))
            assert reader.terminator() == b""


def test_a_failed_response_is_an_error_and_an_end():
    event = named("response.failed", response={**RESPONSE, "error": {"code": "server_error", "message": "x"}})
    for way in ("read", "skim"):
        reader = responses()
        assert getattr(reader, way)(event) is Part.ERROR
        assert json.loads(reader.error_payload())["response"]["error"]["code"] == "server_error"
        assert reader.ended


@pytest.mark.parametrize("with_name", [True, False])
def test_a_final_response_too_long_to_be_held_ends_the_stream_only_when_it_is_whole(with_name):
    long = {"type": "response.completed", "response": {"output": ["x" * 5000], "usage": {"input_tokens": 1, "output_tokens": 2}}}
    event = (b"event: response.completed\n" if with_name else b"") + data(long)
    splitter, reader = EventSplitter(max_event=1000), responses()
    reader.read(named("response.output_text.delta", delta="Hi"))
    parts = []
    for at in range(0, len(event), 600):
        block = splitter.feed(event[at : at + 600])
        if block:
            assert not reader.ended
            parts.append(reader.skim(block))
    assert parts[-1] is Part.END
    assert set(parts[:-1]) == {Part.CONTENT}
    assert reader.usage == (1, 2)


def test_a_final_response_that_breaks_off_does_not_end_the_stream():
    reader = responses()
    reader.skim(b'event: response.completed\ndata: {"type":"response.completed","response":{"output":[')
    reader.skim(b'"xxxxxxxxxxxxxxx')
    assert not reader.ended
    assert not reader.finished


def test_other_streams_end_cleanly_with_their_body():
    reader = DIALECTS["openai"].stream(Family.AUDIO)
    assert reader.finished
    assert reader.read(b": ping\n\n") is Part.LIFE
    assert reader.read(data({"type": "transcript.text.delta", "delta": "Hi"})) is Part.CONTENT
    final = data(
        {"type": "transcript.text.done", "text": "Hi", "usage": {"type": "tokens", "input_tokens": 14, "output_tokens": 1}}
    )
    assert reader.skim(final) is Part.CONTENT
    assert reader.usage == (14, 1)
    assert DIALECTS["openai"].stream(Family.AUDIO).read(final) is Part.CONTENT
    assert not reader.ended
    assert reader.terminator() == b""


@pytest.mark.parametrize("family", [Family.CHAT, Family.COMPLETIONS, Family.RESPONSES, Family.AUDIO])
def test_the_in_band_error_makes_the_official_sdk_raise(family):
    frame = DIALECTS["openai"].stream(family).error_event("stream_broken", 'cut "here"\nand there')
    before = named("response.output_text.delta", delta="Hi") if family is Family.RESPONSES else HELLO
    response = httpx2.Response(200, content=before + frame, request=httpx2.Request("POST", "http://gateway/v1/x"))
    seen = []
    with OpenAI(api_key="k", base_url="http://gateway/v1") as client:
        stream = Stream(cast_to=dict, response=response, client=client)
        with pytest.raises(APIError) as raised:
            seen.extend(stream)
    assert len(seen) == 1
    assert raised.value.code == "stream_broken"
    assert raised.value.message == 'cut "here"\nand there'


@pytest.mark.parametrize("family", [Family.CHAT, Family.RESPONSES, Family.AUDIO])
def test_the_in_band_error_is_an_error_for_our_own_reader(family):
    reader = DIALECTS["openai"].stream(family)
    assert reader.read(reader.error_event("deadline", "too late")) is Part.ERROR


@given(st.binary(max_size=200), st.sampled_from(list(Family)))
def test_no_bytes_make_a_reader_raise(noise, family):
    reader = DIALECTS["azure"].stream(family)
    for event in (noise, b"data: " + noise + b"\n\n", b'data: {"error":' + noise, b'data: {"choices":[' + noise + b"]}\n\n"):
        assert reader.read(event) in Part
        assert reader.skim(event) in Part


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=3),
        lambda x: (
            st.lists(x)
            | st.dictionaries(
                st.sampled_from(
                    ["choices", "delta", "index", "finish_reason", "usage", "error", "type", "response", "x_groq", "text"]
                ),
                x,
            )
        ),
    )
)
def test_no_json_makes_a_reader_raise(document):
    for family in (Family.CHAT, Family.RESPONSES, Family.AUDIO):
        event = data(document)
        assert DIALECTS["openai"].stream(family).read(event) in Part
        assert DIALECTS["openai"].stream(family).skim(event) in Part
