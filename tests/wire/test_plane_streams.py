"""Event streams through the whole gateway: whole events, every byte, one commit point, and never an end that looks whole but is not."""

import asyncio
import json
import random
import re

import pytest

from tests.wire.plane import (
    ANSWER,
    DONE,
    ROLE,
    SSE,
    STOP,
    STREAM_BODY,
    chat,
    chunked,
    delta,
    error_of,
    event,
    plane,
    post,
    serving,
    whole_request,
)
from tests.wire.upstream_script import both_loops, moved_time, skip, turns

PING = b": ping\n\n"
HELLO = delta(content="hello")
USAGE = event({"id": "c", "object": "chat.completion.chunk", "choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2}})
GOOD = [PING, ROLE, PING, HELLO, delta(content=' wor"error"ld\n\n'), PING, STOP, USAGE, DONE]
ERROR = event({"error": {"message": "The server is overloaded", "type": "server_error", "code": "server_error"}})


def streaming(*pieces, end="clean", head=SSE):
    """Answer with these pieces, each in a packet of its own as far as may be, and then `clean`, `cut` or `linger`."""

    async def script(visit):
        while True:
            await whole_request(visit)
            visit.write(head)
            for piece in pieces:
                visit.write(chunked(piece, end=False))
                await turns(3)
            if end == "clean":
                visit.write(b"0\r\n\r\n")
            elif end == "cut":
                await visit.writer.drain()
                visit.close()
                return
            else:
                await visit.gone()
                return

    return script


async def piece_of(client):
    """Read one chunk; the last one is empty."""
    size = int(await client.reader.readuntil(b"\r\n"), 16)
    return (await client.reader.readexactly(size + 2))[:-2]


async def pieces_of(client):
    """Read a chunked answer: head and chunks as they were framed."""
    head = await client.reader.readuntil(b"\r\n\r\n")
    assert b"\r\ntransfer-encoding: chunked\r\n" in head
    pieces = []
    while piece := await piece_of(client):
        pieces.append(piece)
    return head, pieces


def last_error(body):
    """Return the error in the last event, after which nothing may come."""
    last = re.split(rb"\n\n", body)[-2]
    assert body.endswith(last + b"\n\n")
    assert b"[DONE]" not in body
    data = next(line for line in last.split(b"\n") if line.startswith(b"data: "))
    return json.loads(data[6:])["error"]


@both_loops
async def test_a_stream_arrives_whole():
    async with plane(streaming(*GOOD)) as stage:
        client = await stage.connect()
        for _ in range(2):
            client.send(chat(STREAM_BODY))
            response = await client.response()
            assert (response.status, response.body) == (200, b"".join(GOOD))
            assert response.get(b"content-type") == b"text/event-stream"
            assert response.get(b"x-accel-buffering") == b"no"
            await stage.quiet()
        record = await stage.watch.ended_all(2)
        assert (record.ending, record.usage, record.stream) == ("ok", (1, 2), True)
        assert len(stage.upstreams[0].visits) == 1


@both_loops
@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"])
async def test_however_the_providers_bytes_are_split_events_leave_whole(newline):
    events = [each.replace(b"\n", newline) for each in GOOD]
    if newline == b"\r":
        events.append(b": the end\r\r")  # a CR at the very end may yet become CRLF
    body = b"".join(events)
    ends = {sum(map(len, events[: index + 1])) for index in range(len(events))}
    rng = random.Random(7)
    cuts = [sorted(rng.sample(range(1, len(body)), rng.randrange(1, 12))) for _ in range(25)]
    streams = [[body[a:b] for a, b in zip([0, *cut], [*cut, len(body)], strict=True)] for cut in cuts]
    left = list(streams)

    async def script(visit):
        while True:
            await whole_request(visit)
            visit.write(SSE)
            for piece in left.pop(0):
                visit.write(chunked(piece, end=False))
                await turns(2)
            visit.write(b"0\r\n\r\n")

    async with plane(script) as stage:
        client = await stage.connect()
        for pieces in streams:
            client.send(chat(STREAM_BODY))
            _, got = await pieces_of(client)
            whole = b"".join(got)
            assert whole == body[: len(whole)], pieces
            at = 0
            for piece in got:
                at += len(piece)
                assert at in ends, (pieces, piece)
            assert whole.startswith(body[: body.index(b"[DONE]") + 6])


@both_loops
async def test_byte_by_byte_is_a_split_too():
    body = b"".join(GOOD)

    async def script(visit):
        await whole_request(visit)
        await visit.write_split(SSE + chunked(body))

    async with plane(script) as stage:
        response = await stage.ask(chat(STREAM_BODY))
    assert response.body == body


@both_loops
@pytest.mark.parametrize("end", ["clean", "cut"])
async def test_signs_of_life_commit_nothing(end):
    dying = streaming(PING, ROLE, b": OPENROUTER PROCESSING\n\n", delta(content=""), b"retry: 3\n\n", end=end)
    async with plane(dying, streaming(*GOOD)) as stage:
        response = await stage.ask(chat(STREAM_BODY))
        record = await stage.watch.ended_all(1)
    assert (response.status, response.body) == (200, b"".join(GOOD))
    assert (response.get(b"x-gateway-provider"), response.get(b"x-gateway-attempts")) == (b"two", b"2")
    assert (record.ending, record.saved_by, record.stream_broken) == ("ok", "failover", False)


FIRSTS = {
    "text": delta(content="a"),
    "reasoning": delta(reasoning_content="hm"),
    "refusal": delta(refusal="no"),
    "tool call": delta(tool_calls=[{"index": 0, "id": "t", "function": {"name": "f", "arguments": ""}}]),
    "function call": delta(function_call={"name": "f"}),
    "audio": delta(audio={"data": "AA=="}),
    "finish": STOP,
    "completion": event({"object": "text_completion", "choices": [{"index": 0, "text": "a", "finish_reason": None}]}),
}


@moved_time
@pytest.mark.parametrize("kind", FIRSTS)
async def test_the_first_content_of_any_kind_is_passed_on_at_once(kind):
    first = FIRSTS[kind]
    async with plane(streaming(PING, ROLE, first, end="linger"), streaming(*GOOD)) as stage:
        client = await stage.connect()
        client.send(chat(STREAM_BODY))
        async with asyncio.timeout(20):
            await client.reader.readuntil(b"\r\n\r\n")
            got = b""
            while len(got) < len(PING + ROLE + first):
                got += await piece_of(client)
        assert got == PING + ROLE + first


@both_loops
@pytest.mark.parametrize("before", [[], [PING, ROLE]])
@pytest.mark.parametrize("error", [[ERROR], [ERROR, DONE], [ERROR + DONE], [b"event: error\n" + ERROR]])
async def test_an_error_before_any_content_is_failed_over(before, error):
    async with plane(streaming(*before, *error), streaming(*GOOD)) as stage:
        response = await stage.ask(chat(STREAM_BODY))
    assert (response.body, response.get(b"x-gateway-provider")) == (b"".join(GOOD), b"two")


@moved_time
async def test_an_error_before_any_content_is_a_plain_error_where_nobody_else_can_serve():
    async with plane(streaming(PING, ERROR, DONE)) as stage:
        response = await stage.ask(chat(STREAM_BODY))
    assert response.status == 502
    assert response.body == ERROR[6:-2]
    assert error_of(response)["code"] == "server_error"
    assert response.get(b"transfer-encoding") is None


OPENROUTER = event(
    {
        "id": "c",
        "error": {"code": 502, "message": "Provider disconnected"},
        "choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "error"}],
    },
)


@both_loops
@pytest.mark.parametrize("error", [[ERROR], [ERROR, DONE], [ERROR + DONE], [HELLO + ERROR + DONE], [OPENROUTER + DONE]])
@pytest.mark.parametrize("end", ["clean", "cut", "linger"])
async def test_an_error_after_content_is_the_last_event(error, end):
    async with plane(streaming(ROLE, HELLO, *error, end=end), streaming(*GOOD)) as stage:
        client = await stage.connect()
        client.send(chat(STREAM_BODY))
        response = await client.response()
        assert response.status == 200
        assert response.whole
        assert response.body.startswith(ROLE + HELLO)
        assert set(last_error(response.body)) == {"message", "type", "param", "code"}
        record = await stage.watch.ended_all(1)
        assert (record.ending, record.reason, record.stream_broken) == ("failed", "stream_broken", True)
        assert len(record.attempts) == 1
        # The client's connection is in order, and goes on.
        client.send(chat(STREAM_BODY))
        assert (await client.response()).status == 200


@both_loops
@pytest.mark.parametrize("end", ["clean", "cut"])
@pytest.mark.parametrize("tail", [b"", b'data: {"half": ', PING])
async def test_a_stream_that_ends_after_content_without_a_finish_ends_in_an_error(end, tail):
    pieces = (ROLE, HELLO, tail) if tail else (ROLE, HELLO)
    async with plane(streaming(*pieces, end=end), streaming(*GOOD)) as stage:
        response = await stage.ask(chat(STREAM_BODY))
        record = await stage.watch.ended_all(1)
    assert response.whole
    assert response.body.startswith(ROLE + HELLO + (tail if tail == PING else b"data: {"))
    assert b"half" not in response.body
    assert last_error(response.body)["code"]
    assert (record.ending, record.stream_broken) == ("failed", True)


@both_loops
@pytest.mark.parametrize("rest", [[], [USAGE], [b"data: [DONE]"], [b"data: [DONE]\n"]])
async def test_a_finished_stream_without_its_terminator_is_completed(rest):
    async with plane(streaming(ROLE, HELLO, STOP, *rest)) as stage:
        response = await stage.ask(chat(STREAM_BODY))
        record = await stage.watch.ended_all(1)
    usage = USAGE if rest == [USAGE] else b""
    assert response.body == ROLE + HELLO + STOP + usage + DONE
    assert record.ending == "ok"


@moved_time
async def test_every_choice_has_to_finish():
    two = [delta(0, content="a"), delta(1, content="b"), delta(0, finish="stop")]
    async with plane(streaming(*two)) as stage:
        response = await stage.ask(chat(STREAM_BODY))
    assert last_error(response.body)
    async with plane(streaming(*two, delta(1, finish="stop"))) as stage:
        assert (await stage.ask(chat(STREAM_BODY))).body.endswith(DONE)


@moved_time
async def test_after_the_terminator_the_client_waits_for_nobody():
    async with plane(streaming(*GOOD, end="linger")) as stage:
        client = await stage.connect()
        client.send(chat(STREAM_BODY))
        assert (await client.response()).body == b"".join(GOOD)
        record = await stage.watch.ended_all(1)
        assert record.ending == "ok"
        # The provider has a second to end its body; then its connection is closed, not pooled.
        assert stage.busy() == 1
        skip(0.9)
        await turns(20)
        assert stage.busy() == 1
        skip(0.2)
        await stage.quiet()
        assert stage.gateway._pool.stats()[0].idle == 0
        # Meanwhile, and afterwards, the client's connection serves.
        client.send(chat(STREAM_BODY))
        assert (await client.response()).status == 200


@moved_time
async def test_what_follows_the_terminator_later_goes_nowhere():
    async with plane(streaming(*GOOD, b": late\n\n", HELLO, end="linger")) as stage:
        client = await stage.connect()
        client.send(chat(STREAM_BODY) * 2)
        for _ in range(2):
            assert (await client.response()).body == b"".join(GOOD)


def responses(*kinds):
    """Render a Responses stream of these events."""
    events = []
    for number, kind in enumerate(kinds):
        document = {"type": kind, "sequence_number": number}
        if kind.endswith(".delta"):
            document["delta"] = "text"
        if kind in {"response.created", "response.in_progress", "response.completed", "response.incomplete", "response.failed"}:
            error = {"code": "server_error", "message": "no"} if kind == "response.failed" else None
            document["response"] = {"id": "r", "error": error, "usage": {"input_tokens": 3, "output_tokens": 4}}
        events.append(event(document, kind))
    return events


RESPONSES_BODY = b'{"model": "gpt-4o", "stream": true, "input": "hi"}'
LIFE = ("response.created", "response.in_progress", "response.output_item.added")
TEXT = "response.output_text.delta"


async def ask_responses(stage):
    return await stage.ask(post(b"/v1/responses", RESPONSES_BODY))


@moved_time
@pytest.mark.parametrize("ending", ["response.completed", "response.incomplete"])
@pytest.mark.parametrize("end", ["clean", "linger"])
async def test_a_responses_stream_ends_with_its_last_event(ending, end):
    events = responses(*LIFE, TEXT, TEXT, ending)
    async with plane(streaming(*events, end=end)) as stage:
        response = await ask_responses(stage)
        record = await stage.watch.ended_all(1)
    assert response.body == b"".join(events)
    assert (record.ending, record.usage) == ("ok", (3, 4))


@both_loops
@pytest.mark.parametrize(
    "dying", [responses(*LIFE), responses(*LIFE, "response.failed"), [*responses(*LIFE), b"event: error\n" + ERROR]]
)
@pytest.mark.parametrize("end", ["clean", "cut"])
async def test_a_responses_stream_that_fails_before_content_is_failed_over(dying, end):
    events = responses(*LIFE, TEXT, "response.completed")
    async with plane(streaming(*dying, end=end), streaming(*events)) as stage:
        response = await ask_responses(stage)
    assert (response.body, response.get(b"x-gateway-provider")) == (b"".join(events), b"two")


@both_loops
@pytest.mark.parametrize(
    "tail",
    [
        [],
        responses("response.failed"),
        [b"event: error\n" + ERROR],
        [event({"type": "error", "code": "x", "message": "m"}, "error")],
    ],
)
@pytest.mark.parametrize("end", ["clean", "cut"])
async def test_a_responses_stream_that_fails_after_content_ends_in_an_error_that_sdks_raise_on(tail, end):
    head = responses(*LIFE, TEXT)
    async with plane(streaming(*head, *tail, end=end)) as stage:
        response = await ask_responses(stage)
    assert response.whole
    assert response.body.startswith(b"".join(head) + b"event: error\ndata: ")
    assert last_error(response.body)["message"]


@both_loops
async def test_an_http_1_0_client_gets_its_stream_until_close():
    async with plane(streaming(*GOOD)) as stage:
        client = await stage.connect()
        client.send(chat(STREAM_BODY).replace(b"HTTP/1.1", b"HTTP/1.0"))
        response = await client.response()
    assert (response.body, response.get(b"transfer-encoding"), response.get(b"connection")) == (b"".join(GOOD), None, b"close")


@moved_time
async def test_a_stream_until_close_upstream_is_whole_by_its_terminator():
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"

    def until_close(*pieces):
        async def script(visit):
            await whole_request(visit)
            visit.write(head + b"".join(pieces))
            await visit.writer.drain()

        return script

    async with plane(until_close(*GOOD)) as stage:
        assert (await stage.ask(chat(STREAM_BODY))).body == b"".join(GOOD)
    async with plane(until_close(ROLE, HELLO)) as stage:
        assert last_error((await stage.ask(chat(STREAM_BODY))).body)


@moved_time
async def test_json_instead_of_the_stream_that_was_asked_for_is_relayed():
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(ANSWER), ANSWER)
    async with plane(serving(answer)) as stage:
        response = await stage.ask(chat(STREAM_BODY))
    assert (response.status, response.body) == (200, ANSWER)


@both_loops
async def test_a_compressed_stream_flows_unread_and_its_cut_is_seen():
    head = SSE.replace(b"\r\n\r\n", b"\r\nContent-Encoding: br\r\n\r\n")
    async with plane(streaming(b"\x01\x02", b"\x03", end="clean", head=head)) as stage:
        response = await stage.ask(chat(STREAM_BODY))
        assert (response.body, response.whole, response.get(b"content-encoding")) == (b"\x01\x02\x03", True, b"br")
    async with plane(streaming(b"\x01\x02", b"\x03", end="cut", head=head)) as stage:
        response = await stage.ask(chat(STREAM_BODY))
        assert not response.whole


@both_loops
async def test_an_event_larger_than_any_buffer_passes():
    huge = delta(content="x" * 3_000_000)
    async with plane(streaming(ROLE, HELLO, huge, STOP, DONE)) as stage:
        response = await stage.ask(chat(STREAM_BODY))
        assert response.body == ROLE + HELLO + huge + STOP + DONE
    async with plane(streaming(ROLE, huge, STOP, DONE)) as stage:
        response = await stage.ask(chat(STREAM_BODY))
        assert response.body == ROLE + huge + STOP + DONE


@both_loops
@pytest.mark.parametrize("end", ["clean", "cut", "linger"])
@pytest.mark.parametrize("text", [[], responses(TEXT)])
async def test_done_does_not_complete_a_response_that_never_completed(end, text):
    whole = responses(*LIFE, TEXT, "response.completed")
    async with plane(streaming(*responses(*LIFE), *text, DONE, end=end), streaming(*whole)) as stage:
        response = await ask_responses(stage)
        record = await stage.watch.ended_all(1)
    if text:
        assert response.whole
        assert response.body.startswith(b"".join(responses(*LIFE) + text) + b"event: error\ndata: ")
        assert last_error(response.body)["code"]
        assert (record.ending, record.stream_broken) == ("failed", True)
    else:
        assert (response.body, response.get(b"x-gateway-provider")) == (b"".join(whole), b"two")


@moved_time
async def test_done_in_one_packet_with_the_text_before_it_is_held_back_alone():
    head = responses(*LIFE, TEXT)
    async with plane(streaming(*head, responses(TEXT)[0] + DONE)) as stage:
        response = await ask_responses(stage)
    assert response.body.startswith(b"".join(head) + responses(TEXT)[0] + b"event: error\ndata: ")
    assert last_error(response.body)


@moved_time
async def test_done_without_its_blank_line_does_not_complete_a_response_either():
    async with plane(streaming(*responses(*LIFE, TEXT), DONE.rstrip())) as stage:
        assert last_error((await ask_responses(stage)).body)


SPEECH = event({"type": "speech.audio.delta", "audio": "AA"})
USED = {"input_tokens": 3, "output_tokens": 4}
MEDIA = {
    "generation": (b"/v1/images/generations", "image_generation.partial_image", "image_generation.completed"),
    "edit": (b"/v1/images/edits", "image_edit.partial_image", "image_edit.completed"),
    "speech": (b"/v1/audio/speech", "speech.audio.delta", "speech.audio.done"),
    "transcription": (b"/v1/audio/transcriptions", "transcript.text.delta", "transcript.text.done"),
    "segments": (b"/v1/audio/transcriptions", "transcript.text.segment", "transcript.text.done"),
}


def media(kind):
    """Return an endpoint, an event with content, and the last event of a stream there."""
    path, more, last = MEDIA[kind]
    content = event({"type": more, "b64_json": "AA", "audio": "AA", "delta": "hi", "partial_image_index": 0}, more)
    return post(path, b'{"model": "gpt-4o", "stream": true}'), content, event({"type": last, "usage": USED}, last)


@both_loops
@pytest.mark.parametrize("kind", MEDIA)
@pytest.mark.parametrize("done", [[], [DONE]])
async def test_pictures_and_sound_arrive_whole(kind, done):
    request, content, last = media(kind)
    events = [PING, content, content, last, *done]
    if "image" in MEDIA[kind][1]:
        events.insert(3, last)  # two pictures were begun
    async with plane(streaming(*events)) as stage:
        response = await stage.ask(request)
        record = await stage.watch.ended_all(1)
    assert (response.status, response.body, response.whole) == (200, b"".join(events), True)
    assert (record.ending, record.usage) == ("ok", (3, 4))


@both_loops
@pytest.mark.parametrize("kind", MEDIA)
@pytest.mark.parametrize("done", [[], [DONE], [b"data: [DONE]"]])
async def test_pictures_and_sound_cut_off_in_good_order_end_in_an_error(kind, done):
    request, content, last = media(kind)
    async with plane(streaming(PING, content, content, *done), streaming(content, last)) as stage:
        response = await stage.ask(request)
        record = await stage.watch.ended_all(1)
    assert response.whole
    assert response.body.startswith(PING + content + content + b'data: {"error"')
    assert last_error(response.body)
    assert (record.ending, record.reason, record.stream_broken) == ("failed", "stream_broken", True)


@both_loops
@pytest.mark.parametrize("kind", MEDIA)
@pytest.mark.parametrize("before", [[], [PING], [PING, DONE]])
async def test_pictures_and_sound_without_any_content_are_failed_over(kind, before):
    request, content, last = media(kind)
    async with plane(streaming(*before), streaming(content, last)) as stage:
        response = await stage.ask(request)
    assert (response.body, response.get(b"x-gateway-provider")) == (content + last, b"two")


@moved_time
@pytest.mark.parametrize("pictures", [1, 2])
async def test_a_second_picture_that_was_begun_has_to_come(pictures):
    request, content, last = media("generation")
    async with plane(streaming(content, last, content, *[last] * (pictures - 1))) as stage:
        response = await stage.ask(request)
    assert response.body.startswith(content + last + content)
    if pictures == 2:
        assert response.body == (content + last) * 2
    else:
        assert last_error(response.body)


@both_loops
@pytest.mark.parametrize("kind", MEDIA)
async def test_a_reset_behind_the_last_event_does_no_harm_where_nothing_can_follow(kind):
    request, content, last = media(kind)
    async with plane(streaming(content, last, end="cut")) as stage:
        response = await stage.ask(request)
    assert response.body.startswith(content + last)
    if "image" in MEDIA[kind][1]:
        # There may have been more pictures to come.
        assert last_error(response.body)
    else:
        assert (response.body, response.whole) == (content + last, True)


@both_loops
@pytest.mark.parametrize("cut", [0, 500_000])
async def test_a_picture_larger_than_any_buffer_is_whole_or_cut(cut):
    request, content, _ = media("generation")
    last = event({"b64_json": "QUJD" * 800_000, "type": "image_generation.completed", "usage": USED})
    async with plane(streaming(content, last[: len(last) - cut])) as stage:
        response = await stage.ask(request)
        record = await stage.watch.ended_all(1)
    assert response.whole is (cut == 0)
    if cut:
        assert (record.ending, record.reason) == ("failed", "stream_broken")
    else:
        assert response.body == content + last
        assert (record.ending, record.usage) == ("ok", (3, 4))


@both_loops
async def test_sound_in_words_of_a_provider_s_own_ends_where_its_body_ends():
    own = event({"object": "transcription.chunk", "choices": [{"delta": {"content": "hi"}}]})
    request = media("transcription")[0]
    async with plane(streaming(own, own)) as stage:
        response = await stage.ask(request)
        assert (response.status, response.body, response.whole) == (200, own + own, True)
    async with plane(streaming(own, own, end="cut")) as stage:
        assert last_error((await stage.ask(request)).body)


@both_loops
async def test_half_an_event_at_a_clean_end_is_never_dropped_in_silence():
    # In words of a provider's own: nothing but the end of the body says that the stream is whole, and with half an event before
    # it, that is not to be believed.
    own = event({"audio": "AA"})
    async with plane(streaming(own, b'data: {"audio": "A')) as stage:
        response = await stage.ask(post(b"/v1/audio/speech", b'{"model": "gpt-4o"}'))
        record = await stage.watch.ended_all(1)
    assert response.body.startswith(own + b'data: {"error"')
    assert last_error(response.body)
    assert (record.ending, record.stream_broken) == ("failed", True)


@both_loops
@pytest.mark.parametrize("blank", [b"", b"\n", b"\r\n"])
async def test_a_last_event_that_lacks_only_its_blank_line_is_given_one(blank):
    last = b'data: {"type": "speech.audio.done"}'
    async with plane(streaming(SPEECH, last + blank)) as stage:
        response = await stage.ask(post(b"/v1/audio/speech", b'{"model": "gpt-4o"}'))
    assert (response.body, response.whole) == (SPEECH + last + b"\n\n", True)
    async with plane(streaming(ROLE, HELLO, STOP.rstrip(b"\n") + blank)) as stage:
        response = await stage.ask(chat(STREAM_BODY))
    assert response.body == ROLE + HELLO + STOP + DONE
    async with plane(streaming(SPEECH, ERROR.rstrip(b"\n") + blank)) as stage:
        response = await stage.ask(post(b"/v1/audio/speech", b'{"model": "gpt-4o"}'))
    assert last_error(response.body)


@both_loops
@pytest.mark.parametrize("end", ["clean", "cut"])
@pytest.mark.parametrize("before", [[], [HELLO], [HELLO, STOP]])
async def test_after_half_of_a_huge_event_only_a_cut_says_the_truth(end, before):
    # An error event glued to the half would be no event at all.
    half = delta(content="x" * 3_000_000)[:-500_000]
    async with plane(streaming(ROLE, *before, half, end=end)) as stage:
        response = await stage.ask(chat(STREAM_BODY))
        record = await stage.watch.ended_all(1)
    assert not response.whole
    assert b"error" not in response.body
    assert (record.ending, record.reason) == ("failed", "stream_broken")
