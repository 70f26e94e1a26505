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
        HELLO.replace(b"\n", b"\r\n"),
    ],
)
def test_content_in_a_chat_stream(event):
    assert chat().read(event) is Part.CONTENT


@pytest.mark.parametrize("frame", [b"data: no JSON at all\n\n", b'data: {"id":\r\n\r\n', b"event: x\ndata: {'a': 1}\n\n"])
def test_a_frame_that_is_no_json_is_noise(frame):
    assert chat().read(frame) is Part.NOISE
    assert responses().read(frame) is Part.NOISE


@pytest.mark.parametrize("frame", [b"data: [1, 2]\n\n", b'data: "text"\n\n', b"data: 7\n\n"])
def test_json_that_is_no_object_is_nobodys_noise(frame):
    assert chat().read(frame) is Part.CONTENT
    assert responses().read(frame) is Part.CONTENT


def test_half_a_surrogate_pair_is_a_word_like_any_other():
    event = b'data: {"choices":[{"index":0,"delta":{"content":"\\ud83d"},"finish_reason":null}]}\n\n'
    assert chat().read(event) is Part.CONTENT
    finish = b'data: {"choices":[{"index":0,"delta":{"content":"\\ude00"},"finish_reason":"stop"}]}\n\n'
    reader = chat()
    reader.read(finish)
    assert reader.finished


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
        assert reader.good_bytes in (0, len(HELLO))
        assert reader.error_payload() == payload
        assert not reader.ended


def test_what_came_before_an_error_is_told_apart_from_it():
    for reader, before in ((chat(), HELLO * 2), (responses(), named("response.output_text.delta", delta="Hi") + b": ping\n\n")):
        assert reader.skim(before + ERRORS[0] + before) is Part.ERROR
        assert reader.good_bytes == len(before)


@pytest.mark.parametrize("event", [e for e in ERRORS if b"choices" not in e])
@pytest.mark.parametrize("family", [Family.IMAGES, Family.AUDIO])
def test_errors_are_seen_among_pictures_and_sound(event, family):
    more = named("image_generation.partial_image" if family is Family.IMAGES else "speech.audio.delta", audio="aGk=")
    for rest in (b"", DONE):
        reader = DIALECTS["openai"].stream(family)
        reader.read(more)
        assert reader.skim(more + event + rest) is Part.ERROR
        assert reader.good_bytes == len(more)


@pytest.mark.parametrize("event", [e for e in ERRORS if b"choices" not in e])
def test_errors_look_the_same_in_streams_without_a_reader_of_their_own(event):
    for family in (Family.RESPONSES, Family.AUDIO, Family.OTHER):
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


@pytest.mark.parametrize("done", [DONE, b"data:[DONE]\n\n", b"data: [DONE]", b"data: [DONE]\r\n\r\n"])
def test_done_does_not_make_a_response_whole_that_never_completed(done):
    text = named("response.output_text.delta", delta="Hi")
    for begun in ([], [text]):
        reader = responses()
        for event in begun:
            reader.read(event)
        assert reader.read(done) is Part.BROKEN
        assert reader.skim(text + done) is Part.BROKEN
        assert reader.good_bytes == len(text)
        assert not reader.finished
        assert not reader.ended


def test_done_behind_a_completed_response_is_part_of_the_stream():
    reader = responses()
    assert reader.skim(named("response.completed", response=RESPONSE) + DONE) is Part.END
    assert reader.read(DONE) is Part.END


def test_other_streams_end_cleanly_with_their_body():
    reader = DIALECTS["openai"].stream(Family.OTHER)
    assert reader.finished
    assert reader.read(b": ping\n\n") is Part.LIFE
    assert reader.read(data({"thing": "Hi"})) is Part.CONTENT
    final = data({"thing": "Hi", "usage": {"input_tokens": 14, "output_tokens": 1}})
    assert reader.skim(final) is Part.CONTENT
    assert reader.usage == (14, 1)
    assert DIALECTS["openai"].stream(Family.OTHER).read(final) is Part.CONTENT
    assert not reader.ended
    assert reader.terminator() == b""


USAGE = {"type": "tokens", "input_tokens": 14, "output_tokens": 1, "input_token_details": {"text_tokens": 4}}
MEDIA = {
    "generation": (Family.IMAGES, "image_generation.partial_image", "image_generation.completed"),
    "edit": (Family.IMAGES, "image_edit.partial_image", "image_edit.completed"),
    "speech": (Family.AUDIO, "speech.audio.delta", "speech.audio.done"),
    "transcript": (Family.AUDIO, "transcript.text.delta", "transcript.text.done"),
    "diarized": (Family.AUDIO, "transcript.text.segment", "transcript.text.done"),
}
SPELLINGS = {
    "named": named,
    "typed": lambda kind, **payload: data({"type": kind, **payload}, spaced=True),
    "typed last": lambda kind, **payload: data({**payload, "type": kind}),
    "only named": lambda kind, **payload: f"event: {kind}\n".encode() + data(payload),
    "crlf": lambda kind, **payload: named(kind, **payload).replace(b"\n", b"\r\n"),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("kind", MEDIA)
def test_pictures_and_sound_end_with_their_last_event(kind, spelling):
    family, more, last = MEDIA[kind]
    spell = SPELLINGS[spelling]
    event = spell(more, b64_json="aGk=", audio="aGk=", delta="Hi", partial_image_index=0)
    end = spell(last, b64_json="aGk=", text="Hi", usage=USAGE)
    for first, rest in (("read", "skim"), ("skim", "skim"), ("read", "read")):
        reader = DIALECTS["openai"].stream(family)
        assert reader.read(b": ping\n\n") is Part.LIFE
        assert not reader.finished
        assert getattr(reader, first)(event) is Part.CONTENT
        assert getattr(reader, rest)(spell(more, b64_json="aGk=", partial_image_index=1)) is Part.CONTENT
        assert not reader.finished
        assert getattr(reader, rest)(end) is Part.CONTENT
        assert (reader.finished, reader.usage, reader.terminator()) == (True, (14, 1), b"")
        # Another picture may follow, but nothing that was said or sung.
        assert reader.ended is (family is Family.AUDIO)
        assert reader.skim(b": ping\n\n") is Part.CONTENT
        assert reader.finished
    alone = DIALECTS["openai"].stream(family)
    assert alone.read(end) is Part.CONTENT
    assert alone.finished


@pytest.mark.parametrize("kind", MEDIA)
def test_done_is_the_end_of_pictures_and_sound_only_behind_their_last_event(kind):
    family, more, last = MEDIA[kind]
    for way in ("read", "skim"):
        reader = DIALECTS["openai"].stream(family)
        assert reader.skim(named(more) + named(last)) is Part.CONTENT
        assert getattr(reader, way)(DONE) is Part.END
        assert reader.ended
        reader = DIALECTS["openai"].stream(family)
        assert getattr(reader, way)(DONE) is Part.BROKEN
        reader.read(named(more))
        assert getattr(reader, way)(DONE) is Part.BROKEN
        assert reader.skim(named(more) + DONE) is Part.BROKEN
        assert reader.good_bytes == len(named(more))
        assert not reader.ended


PART_OF_FIRST = named("image_generation.partial_image", b64_json="aGk=", partial_image_index=0)
PART = named("image_generation.partial_image", b64_json="aGk=", partial_image_index=1)
PICTURE = named("image_generation.completed", b64_json="aGk=", usage=USAGE)


@pytest.mark.parametrize(
    ("events", "finished"),
    [
        ([PART_OF_FIRST, PICTURE, PART_OF_FIRST], False),
        ([PART_OF_FIRST, PICTURE, PART_OF_FIRST, PART, PICTURE], True),
        ([PART_OF_FIRST, PART_OF_FIRST, PART, PART, PICTURE], False),
        ([PART_OF_FIRST, PART_OF_FIRST, PICTURE, PART], False),
        ([PART_OF_FIRST, PART_OF_FIRST, PICTURE, PART, PICTURE], True),
        ([PICTURE, PICTURE], True),
        ([PICTURE, PART], False),
    ],
)
def test_as_many_pictures_have_to_be_completed_as_were_begun(events, finished):
    for cut in range(len(events) + 1):
        reader = DIALECTS["openai"].stream(Family.IMAGES)
        for event in events[:cut]:
            assert reader.read(event) is Part.CONTENT
        if events[cut:]:
            assert reader.skim(b"".join(events[cut:])) is Part.CONTENT
        assert (reader.finished, reader.ended) == (finished, False)


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("sizes", [600, 1100, 4000])
def test_events_too_long_to_be_held_are_understood_by_their_ends(spelling, sizes):
    spell = SPELLINGS[spelling]
    long = "QUJD" * 2000
    more = spell("image_generation.partial_image", b64_json=long, partial_image_index=0)
    end = spell("image_generation.completed", b64_json=long, usage=USAGE)
    stream = more + more + end + b": ping\n\n" + end
    told = []
    splitter, reader = EventSplitter(max_event=1000), DIALECTS["openai"].stream(Family.IMAGES)
    for at in range(0, len(stream), sizes):
        block = splitter.feed(stream[at : at + sizes])
        if block:
            assert reader.skim(block) is Part.CONTENT
            # Of what is only half there, the relay knows by itself.
            told.append(reader.finished)
    assert reader.skim(splitter.take_rest()) is Part.CONTENT
    assert told.index(True) == len(told) - 1
    assert reader.usage == (14, 1)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_long_transcript_is_understood_by_its_ends_too(spelling):
    spell = SPELLINGS[spelling]
    end = spell("transcript.text.done", text="x" * 5000, usage=USAGE)
    reader = DIALECTS["openai"].stream(Family.AUDIO)
    reader.read(spell("transcript.text.delta", delta="x"))
    for at in range(0, len(end), 1000):
        assert not reader.finished
        assert reader.skim(end[at : at + 1000]) is Part.CONTENT
    assert (reader.finished, reader.ended, reader.usage) == (True, True, (14, 1))


def test_whole_events_behind_the_end_of_a_long_one_are_read_too():
    reader = DIALECTS["openai"].stream(Family.IMAGES)
    long = named("image_generation.partial_image", b64_json="A" * 3000, partial_image_index=0)
    reader.read(long[:2000])
    reader.skim(long[2000:2500])
    rest = long[2500:]
    assert reader.skim(rest + PICTURE) is Part.CONTENT
    assert reader.finished
    reader.read(long[:2000])
    assert reader.skim(rest + PART + ERRORS[0]) is Part.ERROR
    assert reader.good_bytes == len(rest + PART)


@pytest.mark.parametrize("word", ["transcript.text.done", "speech.audio.done", "error", "[DONE]", "image_generation.completed"])
def test_what_was_spoken_is_never_taken_for_the_stream_s_own_words(word):
    reader = DIALECTS["openai"].stream(Family.AUDIO)
    for event in (named("transcript.text.delta", delta=word), data({"type": "transcript.text.delta", "delta": f'"{word}"'})):
        assert reader.read(event) is Part.CONTENT
        assert reader.skim(event * 2) is Part.CONTENT
        assert (reader.finished, reader.ended) == (False, False)


def test_a_silent_beginning_of_a_transcript_is_not_content():
    reader = DIALECTS["openai"].stream(Family.AUDIO)
    assert reader.read(named("transcript.text.delta", delta="")) is Part.LIFE
    assert not reader.finished


@pytest.mark.parametrize("family", [Family.IMAGES, Family.AUDIO])
def test_pictures_and_sound_in_words_of_a_provider_s_own_are_whole_when_the_body_ends(family):
    own = data({"object": "transcription.chunk", "choices": [{"delta": {"content": "Hi"}}]})
    reader = DIALECTS["openai"].stream(family)
    assert not reader.finished  # an answer without a word is none
    assert reader.read(b": ping\n\n") is Part.LIFE
    assert not reader.finished
    assert reader.read(own) is Part.CONTENT
    assert reader.skim(own * 2 + data([1]) + b"data: hi\n\n") is Part.CONTENT
    assert reader.finished
    assert reader.skim(data({"usage": {"input_tokens": 3, "output_tokens": 4}})) is Part.CONTENT
    assert reader.usage == (3, 4)
    assert reader.skim(own + DONE) is Part.END


def test_kin_of_the_published_words_mean_what_they_say():
    reader = DIALECTS["openai"].stream(Family.IMAGES)
    for kind in ("image_generation.started", "image_generation.partial_succeeded", "image_generation.partial_failed"):
        assert reader.skim(named(kind, image_index=0)) is Part.CONTENT
        assert not reader.finished
    for kind in ("image_generation.done", "image_generation.counted"):
        reader.skim(named(kind))
        assert reader.finished


def test_words_of_a_provider_s_own_do_not_end_what_the_published_ones_began():
    reader = DIALECTS["openai"].stream(Family.AUDIO)
    reader.read(data({"object": "greeting"}))
    assert reader.finished
    reader.skim(named("speech.audio.delta", audio="aGk="))
    assert reader.read(data({"object": "statistics"})) is Part.CONTENT
    assert not reader.finished


@pytest.mark.parametrize("family", [Family.CHAT, Family.COMPLETIONS, Family.RESPONSES, Family.AUDIO, Family.OTHER])
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


@pytest.mark.parametrize("family", [Family.CHAT, Family.RESPONSES, Family.IMAGES, Family.OTHER])
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
                    [
                        "choices",
                        "delta",
                        "index",
                        "finish_reason",
                        "usage",
                        "error",
                        "type",
                        "response",
                        "x_groq",
                        "text",
                        "partial_image_index",
                    ]
                ),
                x,
            )
        ),
    )
)
def test_no_json_makes_a_reader_raise(document):
    for family in (Family.CHAT, Family.RESPONSES, Family.AUDIO, Family.OTHER):
        event = data(document)
        assert DIALECTS["openai"].stream(family).read(event) in Part
        assert DIALECTS["openai"].stream(family).skim(event) in Part
