"""What keeps a stream's connection alive: comments in the silence after its commit, and where the policy says so before it.

Time is pushed by hand; providers write when they are told to.
"""

import asyncio
import json

import pytest

from tests.wire.plane import (
    BODY,
    DONE,
    ROLE,
    SSE,
    STOP,
    STREAM_BODY,
    answer,
    chat,
    chunked,
    delta,
    event,
    get,
    plane,
    post,
    serving,
    settled,
    whole_request,
)
from tests.wire.test_plane_delivery import (
    ERROR,
    HELLO,
    LONG,
    MEBIBYTE,
    PACKED,
    PACKED_SSE,
    PART,
    Reading,
    delivering,
)
from tests.wire.test_plane_hedging import ONE, TWO, Slow, begin, sample, soon
from tests.wire.test_plane_streams import last_error
from tests.wire.test_plane_timers import pass_time
from tests.wire.upstream_script import moved_time, turns

COMFORT = b": keep-alive\n\n"
RESPONSES_BODY = b'{"model": "gpt-4o", "stream": true, "input": "hi"}'


# Comments after the commit.


@moved_time
async def test_silence_after_the_commit_is_filled_with_comments():
    one = Slow(PART, chunked(b": ping\n\n", end=False), chunked(STOP, DONE))
    async with plane(one, policy=delivering("keepalive: 10s")) as stage:
        client = await begin(stage, chat(STREAM_BODY), one)
        reading = Reading(client)
        await one.next()
        await pass_time(9.0)
        assert reading.body == ROLE + HELLO
        await pass_time(2.0)
        assert reading.body == ROLE + HELLO + COMFORT
        await pass_time(10.0)
        assert reading.body == ROLE + HELLO + COMFORT * 2
        await one.next()
        await pass_time(9.0)
        assert reading.body == ROLE + HELLO + COMFORT * 2 + b": ping\n\n"
        await pass_time(2.0)
        assert reading.body.endswith(b": ping\n\n" + COMFORT)
        await one.next()
        await reading.until(lambda: reading.got.endswith(b"0\r\n\r\n"))
        assert reading.body.replace(COMFORT, b"") == ROLE + HELLO + b": ping\n\n" + STOP + DONE
        await reading.close()


@moved_time
async def test_comments_are_no_life_of_the_provider():
    one = Slow(PART)
    async with plane(one, policy=delivering("keepalive: 5s", "timeouts: {stall: 12s}")) as stage:
        client = await begin(stage, chat(STREAM_BODY), one)
        await one.next()
        for _ in range(6):
            await pass_time(2.1)
        response = await client.response()
    assert response.body.startswith(ROLE + HELLO + COMFORT * 2 + b'data: {"error"')


@moved_time
async def test_no_comments_where_they_are_off():
    one = Slow(PART, chunked(STOP, DONE))
    async with plane(one, policy=delivering("keepalive: off", "timeouts: {stall: 10m}")) as stage:
        client = await begin(stage, chat(STREAM_BODY), one)
        await one.next()
        await pass_time(300.0)
        await one.next()
        assert (await client.response()).body == ROLE + HELLO + STOP + DONE


@moved_time
@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
async def test_no_comment_tears_an_event_wherever_it_was_cut(newline):
    events = [each.replace(b"\n", newline) for each in (ROLE, HELLO, delta(content="wor\n\nld"), b"event: x\n" + STOP, DONE)]
    body = b"".join(events)
    first = len(events[0] + events[1])
    ends = {sum(map(len, events[:count])) for count in range(len(events) + 1)}
    arrived, go = asyncio.Event(), asyncio.Event()
    cuts = range(first, len(body) - len(DONE))

    async def script(visit):
        for cut in cuts:
            await whole_request(visit)
            visit.write(SSE + chunked(body[:cut], end=False))
            arrived.set()
            await go.wait()
            go.clear()
            visit.write(chunked(body[cut:]))

    async with plane(script, policy=delivering("keepalive: 5s")) as stage:
        client = await stage.connect()
        for cut in cuts:
            client.send(chat(STREAM_BODY))
            await arrived.wait()
            arrived.clear()
            await turns(6)
            await pass_time(6.0)
            await turns(3)
            go.set()
            got = (await client.response()).body
            before, comment, after = got.partition(COMFORT)
            assert comment, cut
            assert len(before) in ends, cut
            assert before + after == body, cut


@moved_time
@pytest.mark.parametrize("rest", [b"x", b"\n"])
async def test_no_comment_tears_an_event_too_long_to_be_held(rest):
    """A part of it is out, and maybe a line end waits to be told from a boundary."""
    long = b"data: " + b"\ndata: ".join([b'{"choices": [{"index": 0, "delta": {"content": "', b"x" * MEBIBYTE * 2, b'"}}]}\n\n'])
    half = len(long) // 2 + MEBIBYTE // 2
    one = Slow(PART, chunked(long[:half], end=False), chunked(rest, end=False))
    async with plane(one, policy=delivering("keepalive: 5s")) as stage:
        client = await begin(stage, chat(STREAM_BODY), one)
        reading = Reading(client)
        await one.next()
        await one.next()
        await settled(lambda: len(reading.got), above=MEBIBYTE)
        await one.next()
        for _ in range(3):
            await pass_time(6.0)
        assert COMFORT not in reading.got
        await reading.close()


@moved_time
async def test_a_client_that_does_not_read_gets_no_comments_on_top():
    """It has enough to read, and comments would pile up in our memory for as long as it does not."""
    many = [delta(content="x" * 60_000)] * 400

    async def one(visit):
        await whole_request(visit)
        visit.write(SSE + chunked(*many, end=False))
        await visit.gone()

    async with plane(one, policy=delivering("keepalive: 5s", "timeouts: {stall: 10m}")) as stage:
        client = await stage.connect(receive_buffer=8192)
        client.reader._transport.pause_reading()
        client.send(chat(STREAM_BODY))
        written = await settled(lambda: _written(stage), above=1)
        for _ in range(20):
            await pass_time(6.0)
        assert _written(stage) == written
        client.reset()


def _written(stage):
    """Bytes written to clients by exchanges under way."""
    return sum(intake.record.bytes_out for intake in stage.admission.active)


@moved_time
async def test_a_compressed_stream_gets_no_comments():
    one = Slow(PACKED_SSE + chunked(PACKED[:40], end=False), chunked(PACKED[40:]))
    async with plane(one, policy=delivering("keepalive: 5s")) as stage:
        client = await begin(stage, chat(STREAM_BODY), one)
        await one.next()
        for _ in range(4):
            await pass_time(6.0)
        await one.next()
        response = await client.response()
    assert response.body == PACKED


@moved_time
async def test_what_is_no_stream_gets_no_comments():
    sound = b"HTTP/1.1 200 OK\r\nContent-Type: audio/mpeg\r\nTransfer-Encoding: chunked\r\n\r\n"
    one = Slow(sound + chunked(b"\x01", end=False), chunked(b"\x02"))
    body = b'{"model": "gpt-4o", "input": "hi", "voice": "alloy"}'
    async with plane(one, policy=delivering("keepalive: 5s, early_keepalive: 5s")) as stage:
        client = await begin(stage, post(b"/v1/audio/speech", body, b"Content-Type: application/json"), one)
        await pass_time(6.0)
        await one.next()
        await pass_time(6.0)
        await one.next()
        assert (await client.response()).body == b"\x01\x02"


# Comments before the commit.

EARLY = "early_keepalive: 10s, keepalive: 5s"


@moved_time
async def test_an_early_comment_opens_the_answer_and_a_good_stream_joins_it():
    one = Slow(SSE + chunked(ROLE, end=False), chunked(*LONG[1:]))
    async with plane(one, policy=delivering(EARLY)) as stage:
        client = await begin(stage, chat(STREAM_BODY), one)
        reading = Reading(client)
        await one.next()
        await pass_time(9.0)
        assert reading.got == b""
        await pass_time(2.0)
        assert reading.body == COMFORT
        await pass_time(5.0)
        assert reading.body == COMFORT * 2
        await one.next()
        await reading.until(lambda: reading.got.endswith(b"0\r\n\r\n"))
        record = await stage.watch.ended_all(1)
        assert sample(stage, "gateway_tokens_total", provider="one", type="output") == 5
        # The connection is as good as ever.
        reading.client.send(get(b"/providers/nobody/v1/models"))
        await reading.until(lambda: reading.got.count(b"HTTP/1.1 ") == 2)
        await reading.close()
    first = reading.got[: reading.got.index(b"0\r\n\r\n") + 5]
    assert first.count(b"HTTP/1.1 ") == 1
    reading.got = first
    assert reading.body == COMFORT * 2 + b"".join(LONG)
    head = reading.head.lower().split(b"\r\n")
    assert head[0] == b"http/1.1 200 ok"
    assert b"content-type: text/event-stream" in head
    assert b"x-accel-buffering: no" in head
    assert b"x-gateway-attempts: 1" in head
    assert not [line for line in head if line.startswith((b"x-gateway-provider", b"x-gateway-model", b"x-gateway-reason"))]
    assert (record.ending, record.status, record.usage, record.attempts[0].verdict) == ("ok", 200, (3, 5), "ok")


@moved_time
async def test_a_failover_behind_early_comments_is_unseen():
    one = Slow(answer(b"{}", status=b"503 Service Unavailable"))
    async with plane(one, serving(SSE + chunked(*TWO)), policy=delivering(EARLY)) as stage:
        client = await begin(stage, chat(STREAM_BODY), one)
        await pass_time(11.0)
        await one.next()
        response = await client.response()
        record = await stage.watch.ended_all(1)
    assert (response.status, response.body, response.whole) == (200, COMFORT + b"".join(TWO), True)
    assert (record.ending, record.saved_by, record.winner.provider) == ("ok", "failover", "two")


CREATED = event({"type": "response.created", "response": {"id": "r", "error": None}}, "response.created")
REQUESTS = {
    "chat": (chat(STREAM_BODY), ROLE),
    "responses": (post(b"/v1/responses", RESPONSES_BODY, b"Content-Type: application/json"), CREATED),
}
"""A request for a stream, and a sign of life in it."""
FAILURES = {
    "an error status": lambda _: answer(b'{"error": {"message": "boom", "code": "x"}}', status=b"500 Internal Server Error"),
    "the caller's own": lambda _: answer(b'{"error": {"message": "bad"}}', status=b"400 Bad Request"),
    "an html page": lambda _: answer(b"<html>", status=b"502 Bad Gateway", kind=b"text/html"),
    "no stream": lambda _: answer(),
    "text": lambda _: answer(b"hello", kind=b"text/plain"),
    "an error event": lambda life: SSE + chunked(life, ERROR),
    "a stream that ends": lambda life: SSE + chunked(life),
    "a stream that cannot be read": lambda _: PACKED_SSE + chunked(PACKED),
}


@moved_time
@pytest.mark.parametrize("dialect", REQUESTS)
@pytest.mark.parametrize("failure", FAILURES)
async def test_a_failure_behind_early_comments_is_told_in_the_stream(failure, dialect):
    request, life = REQUESTS[dialect]
    one = Slow(FAILURES[failure](life))
    async with plane(one, policy=delivering(EARLY, "attempts: 1")) as stage:
        client = await begin(stage, request, one)
        await pass_time(11.0)
        await one.next()
        response = await client.response()
        record = await stage.watch.ended_all(1)
        client.send(get(b"/providers/nobody/v1/models"))
        assert (await client.response()).status == 404
    assert (response.status, response.whole) == (200, True)
    assert response.body.startswith(COMFORT)
    error = last_error(response.body)
    assert error["code"] == record.reason
    assert error["message"]
    if dialect == "responses":
        assert b"\n\nevent: error\n" in response.body
        data = json.loads(response.body.rpartition(b"data: ")[2])
        assert (data["type"], data["code"]) == ("error", error["code"])
    assert b"hello" not in response.body
    assert b"<html>" not in response.body
    assert record.ending == ("caller_error" if failure == "the caller's own" else "failed")


@moved_time
@pytest.mark.parametrize("failure", [name for name in FAILURES if name != "the caller's own"])
async def test_a_failure_behind_early_comments_is_failed_over(failure):
    one = Slow(FAILURES[failure](ROLE))
    async with plane(one, serving(SSE + chunked(*TWO)), policy=delivering(EARLY)) as stage:
        client = await begin(stage, chat(STREAM_BODY), one)
        await pass_time(11.0)
        await one.next()
        response = await client.response()
    assert (response.status, response.body) == (200, COMFORT + b"".join(TWO))


@moved_time
async def test_a_deadline_behind_early_comments_is_told_in_the_stream():
    one = Slow(SSE + chunked(ROLE, end=False))
    async with plane(one, policy=delivering(EARLY, "deadline: 12s")) as stage:
        client = await begin(stage, chat(STREAM_BODY), one)
        await one.next()
        await pass_time(11.0)
        await pass_time(1.1)
        response = await client.response()
        record = await stage.watch.ended_all(1)
        await soon(one.gone)
    assert response.body.startswith(COMFORT + b'data: {"error"')
    assert last_error(response.body)["code"] == "deadline"
    assert (record.ending, record.reason, response.whole) == ("failed", "deadline", True)


@moved_time
async def test_a_drain_behind_early_comments_is_told_in_the_stream():
    one = Slow()
    async with plane(one, policy=delivering(EARLY)) as stage:
        client = await begin(stage, chat(STREAM_BODY), one)
        await pass_time(11.0)
        stage.admission.drain()
        response = await client.response()
        await soon(one.gone)
    assert last_error(response.body)["code"] == "draining"
    assert (response.status, response.whole) == (200, True)


@moved_time
async def test_a_client_that_leaves_behind_early_comments_leaves_nothing_behind():
    one = Slow()
    async with plane(one, policy=delivering(EARLY)) as stage:
        client = await begin(stage, chat(STREAM_BODY), one)
        await pass_time(11.0)
        client.reset()
        await soon(one.gone)
        record = await stage.watch.ended_all(1)
        assert stage.closed_breakers()
    assert (record.ending, record.status) == ("client_gone", 200)


@moved_time
async def test_a_break_after_the_join_is_told_in_the_stream():
    one = Slow(PART, chunked(ERROR))
    async with plane(one, serving(SSE + chunked(*TWO)), policy=delivering(EARLY)) as stage:
        client = await begin(stage, chat(STREAM_BODY), one)
        await pass_time(11.0)
        await one.next()
        await one.next()
        response = await client.response()
        assert not stage.upstreams[1].visits
    assert response.body.startswith(COMFORT + ROLE + HELLO + b"data: ")
    assert last_error(response.body)["message"]
    assert response.whole


@moved_time
async def test_a_stream_held_back_behind_early_comments():
    one = Slow(PART, chunked(ERROR))
    async with plane(one, serving(SSE + chunked(*TWO)), policy=delivering(f"hold: all, {EARLY}")) as stage:
        client = await begin(stage, chat(STREAM_BODY), one)
        reading = Reading(client)
        await one.next()
        await pass_time(11.0)
        await reading.until(lambda: reading.got)
        assert reading.body == COMFORT
        await one.next()
        await reading.until(lambda: reading.got.endswith(b"0\r\n\r\n"))
        assert reading.body == COMFORT + b"".join(TWO)
        await reading.close()


@moved_time
async def test_a_race_behind_early_comments_has_one_winner():
    one, two = Slow(SSE + chunked(ROLE, end=False)), Slow(SSE + chunked(*TWO))
    policy = delivering(EARLY, "hedge: {after: 12s, budget: 100%}")
    async with plane(one, two, policy=policy) as stage:
        client = await begin(stage, chat(STREAM_BODY), one)
        await one.next()
        await pass_time(11.0)
        await pass_time(2.0)
        await soon(two.there)
        await two.next()
        response = await client.response()
        await soon(one.gone)
        record = await stage.watch.ended_all(1)
    assert response.body == COMFORT + b"".join(TWO)
    assert (record.saved_by, record.winner.provider) == ("hedge", "two")


@moved_time
@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_an_old_client_hears_early_comments_until_the_connection_closes(version):
    one = Slow(SSE + chunked(*ONE))
    request = chat(STREAM_BODY).replace(b"HTTP/1.1", b"HTTP/" + version, 1)
    async with plane(one, policy=delivering(EARLY)) as stage:
        client = await begin(stage, request, one)
        await pass_time(11.0)
        await one.next()
        response = await client.response()
        if version == b"1.0":
            assert await client.rest() == b""
            assert response.get(b"connection") == b"close"
    assert response.body == COMFORT + b"".join(ONE)


@moved_time
@pytest.mark.parametrize("what", ["whole", "head", "get"])
async def test_only_streams_are_opened_early(what):
    request = {"whole": chat(BODY), "head": get(b"/v1/models", method=b"HEAD"), "get": get(b"/v1/models")}[what]
    one = Slow(answer())
    async with plane(one, policy=delivering(EARLY)) as stage:
        client = await begin(stage, request, one)
        reading = Reading(client)
        for _ in range(6):
            await pass_time(10.0)
        assert reading.got == b""
        await one.next()
        await reading.until(lambda: reading.got)
        assert reading.got.startswith(b"HTTP/1.1 200 OK\r\n")
        assert COMFORT not in reading.got
        await reading.close()


@moved_time
async def test_nothing_is_said_early_unless_the_policy_says_so():
    one = Slow(SSE + chunked(*ONE))
    async with plane(one) as stage:
        client = await begin(stage, chat(STREAM_BODY), one)
        for _ in range(10):
            await pass_time(10.0)
        await one.next()
        response = await client.response()
    assert response.body == b"".join(ONE)
