"""How streams are delivered: held back for a while, so that an early break stays unseen, or whole.

Time is pushed by hand; providers write when they are told to.
"""

import asyncio
import gzip

import pytest

from tests.wire.plane import (
    ANSWER,
    DONE,
    ROLE,
    SSE,
    STOP,
    STREAM_BODY,
    answer,
    chat,
    chunked,
    delta,
    error_of,
    event,
    plane,
    serving,
    settled,
    whole_request,
)
from tests.wire.test_plane_hedging import TWO, Slow, begin, sample, soon
from tests.wire.test_plane_streams import last_error
from tests.wire.test_plane_timers import pass_time
from tests.wire.upstream_script import moved_time, turns

HELLO = delta(content="hello")
PART = SSE + chunked(ROLE, HELLO, end=False)
"""A stream of which the first content is there."""
USAGE = event({"id": "c", "object": "chat.completion.chunk", "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 5}})
LONG = [ROLE, HELLO, delta(content=" wor\\n\\nld "), b": ping\n\n", delta(content="data: [DONE]"), STOP, USAGE, DONE]
MEBIBYTE = 1024 * 1024


def delivering(stream, rest=""):
    """A policy with these settings for streams."""
    return f"{{backoff: {{base: 1ms, cap: 2ms}}, stream: {{{stream}}}{', ' if rest else ''}{rest}}}"


class Reading:
    """A client that takes in all it can get, so that a test can look at what is there by now."""

    def __init__(self, client):
        self.client = client
        self.got = b""
        self.task = asyncio.ensure_future(self._read())

    async def _read(self):
        while more := await self.client.reader.read(65536):
            self.got += more

    @property
    def head(self):
        return self.got.partition(b"\r\n\r\n")[0]

    @property
    def body(self):
        """The chunks that are there so far, without their framing."""
        rest, whole = self.got.partition(b"\r\n\r\n")[2], b""
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            whole += rest[: int(size, 16)]
            rest = rest[int(size, 16) + 2 :]
        return whole

    async def until(self, condition):
        async with asyncio.timeout(10):
            while not condition():
                await turns(1)

    async def close(self):
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


# Held back for a while.


@moved_time
async def test_content_is_held_back_as_long_as_said_and_then_flows():
    one = Slow(PART, chunked(*LONG[2:4], end=False), chunked(LONG[4], end=False), chunked(*LONG[5:]))
    async with plane(one, policy=delivering("hold: 500ms")) as stage:
        client = await begin(stage, chat(STREAM_BODY), one)
        reading = Reading(client)
        await one.next()
        await pass_time(0.3)
        await one.next()
        await pass_time(0.15)
        assert reading.got == b""
        await pass_time(0.1)
        await reading.until(lambda: reading.got)
        assert reading.body == b"".join(LONG[:4])
        await one.next()
        await reading.until(lambda: reading.body == b"".join(LONG[:5]))
        await one.next()
        await reading.until(lambda: reading.got.endswith(b"0\r\n\r\n"))
        assert reading.body == b"".join(LONG)
        record = await stage.watch.ended_all(1)
        await reading.close()
    assert (record.ending, record.usage, record.hold_overflowed) == ("ok", (3, 5), False)


@moved_time
@pytest.mark.parametrize("hold", ["500ms", "all"])
async def test_a_stream_that_is_whole_is_not_held_any_longer(hold):
    async with plane(serving(SSE + chunked(*LONG)), policy=delivering(f"hold: {hold}")) as stage:
        before = asyncio.get_running_loop().time()
        response = await stage.ask(chat(STREAM_BODY))
        assert asyncio.get_running_loop().time() - before < 0.5
    assert response.body == b"".join(LONG)


ERROR = event({"error": {"message": "The server is overloaded", "type": "server_error", "code": "server_error"}})
BREAKS = {
    "an error": [chunked(ERROR)],
    "an error and a terminator": [chunked(ERROR + DONE)],
    "a named error": [chunked(b"event: error\n" + ERROR)],
    "a flat error": [chunked(event({"type": "error", "code": "server_error", "message": "no"}))],
    "content and an error": [chunked(delta(content="more"), ERROR)],
    "an end without a finish": [b"0\r\n\r\n"],
    "a terminator without a finish, cut": [chunked(delta(content="more"), end=False), None],
    "a cut": [None],
    "a cut in an event": [chunked(HELLO[:20], end=False), None],
    "a cut in a chunk": [chunked(HELLO, end=False)[:20], None],
}


@moved_time
@pytest.mark.parametrize("hold", ["2s", "all"])
@pytest.mark.parametrize("how", BREAKS)
async def test_what_breaks_while_it_is_held_back_is_begun_elsewhere_unseen(hold, how):
    one = Slow()
    async with plane(one, serving(SSE + chunked(*TWO)), policy=delivering(f"hold: {hold}")) as stage:
        client = await begin(stage, chat(STREAM_BODY), one)
        one.visit.write(PART)
        await turns(20)
        # Long enough that no quick second try at the same target is worth it.
        await pass_time(1.5)
        for piece in BREAKS[how]:
            if piece is None:
                await one.visit.writer.drain()
                one.visit.close()
            else:
                one.visit.write(piece)
        response = await client.response()
        record = await stage.watch.ended_all(1)
        assert sample(stage, "gateway_held_streams_overflowed_total") == 0
    assert (response.status, response.body) == (200, b"".join(TWO))
    assert (response.get(b"x-gateway-provider"), response.get(b"x-gateway-attempts")) == (b"two", b"2")
    assert (record.ending, record.saved_by, record.stream_broken) == ("ok", "failover", False)


@moved_time
async def test_the_end_of_the_hold_is_the_commit():
    one = Slow(PART, chunked(ERROR))
    async with plane(one, serving(SSE + chunked(*TWO)), policy=delivering("hold: 500ms")) as stage:
        client = await begin(stage, chat(STREAM_BODY), one)
        await one.next()
        await pass_time(0.6)
        await one.next()
        response = await client.response()
        assert not stage.upstreams[1].visits
    assert response.body.startswith(ROLE + HELLO)
    assert last_error(response.body)["code"]
    assert response.whole


@moved_time
@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
async def test_wherever_the_hold_ends_in_the_providers_bytes_every_byte_comes_once_and_in_order(newline):
    """The stream is cut at every byte in turn, and the hold is over between the two halves."""
    body = b"".join(LONG).replace(b"\n", newline)
    first = len(b"".join(LONG[:2]).replace(b"\n", newline))
    arrived = asyncio.Event()
    go = asyncio.Event()
    cuts = range(1, len(body))

    async def script(visit):
        for cut in cuts:
            await whole_request(visit)
            visit.write(SSE + chunked(body[:cut], end=False))
            await visit.writer.drain()
            arrived.set()
            await go.wait()
            go.clear()
            visit.write(chunked(body[cut:]))

    async with plane(script, policy=delivering("hold: 500ms")) as stage:
        client = await stage.connect()
        for cut in cuts:
            client.send(chat(STREAM_BODY))
            await arrived.wait()
            arrived.clear()
            await turns(6)
            await pass_time(0.6)
            go.set()
            response = await client.response()
            assert response.body == body, cut
            record = await stage.watch.ended_all(cut)
            # Where the first content was not there yet, there was nothing to hold back when time passed.
            assert (record.opened_at < record.ended_at) == (cut >= first), cut
        assert len(stage.upstreams[0].visits) == 1


@moved_time
async def test_a_client_that_leaves_while_its_stream_is_held_back_leaves_nothing_behind():
    one = Slow(PART)
    async with plane(one, policy=delivering("hold: all")) as stage:
        client = await begin(stage, chat(STREAM_BODY), one)
        await one.next()
        client.reset()
        await soon(one.gone)
        record = await stage.watch.ended_all(1)
        assert stage.closed_breakers()
    assert record.ending == "client_gone"


# Delivered whole.


@moved_time
async def test_a_whole_stream_is_delivered_at_once_and_only_then():
    one = Slow(PART, chunked(*LONG[2:6], end=False), chunked(*LONG[6:]))
    async with plane(one, policy=delivering("hold: all")) as stage:
        client = await begin(stage, chat(STREAM_BODY), one)
        reading = Reading(client)
        for _ in range(2):
            await one.next()
            await pass_time(40.0)
            assert reading.got == b""
        await one.next()
        await reading.until(lambda: reading.got.endswith(b"0\r\n\r\n"))
        assert reading.body == b"".join(LONG)
        await reading.close()


@moved_time
async def test_without_a_terminator_a_finished_stream_is_whole():
    async with plane(serving(SSE + chunked(*LONG[:-1])), policy=delivering("hold: all")) as stage:
        response = await stage.ask(chat(STREAM_BODY))
        record = await stage.watch.ended_all(1)
    assert (response.status, response.body) == (200, b"".join(LONG))
    assert (record.ending, record.usage) == ("ok", (3, 5))


@moved_time
async def test_without_a_last_blank_line_too():
    async with plane(serving(SSE + chunked(b"".join(LONG[:-1])[:-2])), policy=delivering("hold: all")) as stage:
        response = await stage.ask(chat(STREAM_BODY))
    assert (response.status, response.body) == (200, b"".join(LONG))


@moved_time
async def test_where_nobody_gives_a_whole_stream_the_error_is_a_plain_one():
    broken = serving(SSE + chunked(ROLE, HELLO))
    async with plane(broken, broken, policy=delivering("hold: all", "attempts: 2")) as stage:
        response = await stage.ask(chat(STREAM_BODY))
        record = await stage.watch.ended_all(1)
    assert (response.status, response.get(b"x-gateway-reason")) == (502, b"attempts_exhausted")
    assert error_of(response)["code"] == "attempts_exhausted"
    assert b"hello" not in response.body
    assert [attempt.verdict for attempt in record.attempts] == ["stream_broken", "stream_broken"]


@moved_time
async def test_a_silence_is_mended_unseen_too():
    one = Slow(PART)
    async with plane(one, serving(SSE + chunked(*TWO)), policy=delivering("hold: all", "timeouts: {stall: 4s}")) as stage:
        client = await begin(stage, chat(STREAM_BODY), one)
        await one.next()
        await pass_time(4.1)
        response = await client.response()
        await soon(one.gone)
    assert response.body == b"".join(TWO)
    assert response.get(b"x-gateway-trail").startswith(b"one:stalled/")


@moved_time
async def test_the_deadline_bounds_how_long_a_stream_is_held():
    one = Slow(PART)
    async with plane(one, policy=delivering("hold: all", "deadline: 5s")) as stage:
        client = await begin(stage, chat(STREAM_BODY), one)
        await one.next()
        await pass_time(5.1)
        response = await client.response()
        await soon(one.gone)
    assert (response.status, response.get(b"x-gateway-reason")) == (504, b"deadline")


def big(count, size=900_000):
    return [delta(content=f"{number:03}" + "x" * size) for number in range(count)]


@moved_time
@pytest.mark.parametrize("hold", ["5m", "all"])
async def test_past_the_bound_a_stream_is_delivered_as_it_comes_and_counted(hold):
    events = big(12)
    one = Slow(SSE + chunked(ROLE, *events[:9], end=False), chunked(*events[9:], end=False), chunked(STOP, DONE))
    async with plane(one, policy=delivering(f"hold: {hold}")) as stage:
        client = await begin(stage, chat(STREAM_BODY), one)
        reading = Reading(client)
        await one.next()
        assert await settled(lambda: len(reading.got)) == 0
        await one.next()
        await reading.until(lambda: len(reading.got) > 11 * 900_000)
        await one.next()
        await reading.until(lambda: reading.got.endswith(b"0\r\n\r\n"))
        assert reading.body == b"".join([ROLE, *events, STOP, DONE])
        record = await stage.watch.ended_all(1)
        assert sample(stage, "gateway_held_streams_overflowed_total", route="chat") == 1
        await reading.close()
    assert (record.ending, record.hold_overflowed) == ("ok", True)


@moved_time
@pytest.mark.parametrize("ends", ["whole", "gone"])
async def test_all_held_streams_together_are_bound_by_the_memory_for_replays(ends):
    events = big(6, 300_000)
    one = Slow(SSE + chunked(ROLE, *events[:2], end=False), chunked(*events[2:], end=False), chunked(STOP, DONE))
    server = "  limits: {replay_total: 1MiB, replay_bytes: 64KiB}"
    async with plane(one, server=server, policy=delivering("hold: all")) as stage:
        client = await begin(stage, chat(STREAM_BODY), one)
        reading = Reading(client)
        await one.next()
        assert await settled(lambda: stage.memory) > 600_000
        assert not reading.got
        if ends == "gone":
            await reading.close()
            client.reset()
            record = await stage.watch.ended_all(1)
        else:
            await one.next()
            await reading.until(lambda: len(reading.got) > 6 * 300_000)
            assert stage.memory < 64 * 1024, "what the client has is kept no longer"
            await one.next()
            await reading.until(lambda: reading.got.endswith(b"0\r\n\r\n"))
            assert reading.body == b"".join([ROLE, *events, STOP, DONE])
            record = await stage.watch.ended_all(1)
            await reading.close()
    assert record.hold_overflowed is (ends == "whole")


@moved_time
async def test_what_breaks_after_the_bound_is_told_in_the_stream():
    events = big(10)
    one = Slow(SSE + chunked(ROLE, *events, end=False))
    async with plane(one, serving(SSE + chunked(*TWO)), policy=delivering("hold: all")) as stage:
        client = await begin(stage, chat(STREAM_BODY), one)
        reading = Reading(client)
        await one.next()
        await reading.until(lambda: len(reading.got) > 10 * 900_000)
        one.visit.close()
        await reading.until(lambda: reading.got.endswith(b"0\r\n\r\n"))
        assert reading.body.startswith(b"".join([ROLE, *events]))
        assert last_error(reading.body[-1000:].partition(b"\n\n")[2] or reading.body[-1000:])["message"]
        await reading.close()


@moved_time
async def test_an_event_too_long_to_be_held_ends_the_hold():
    long = delta(content="x" * (2 * MEBIBYTE))
    one = Slow(PART, chunked(long[: MEBIBYTE + MEBIBYTE // 2], end=False), chunked(long[MEBIBYTE + MEBIBYTE // 2 :], STOP, DONE))
    async with plane(one, policy=delivering("hold: all")) as stage:
        client = await begin(stage, chat(STREAM_BODY), one)
        reading = Reading(client)
        await one.next()
        await one.next()
        await reading.until(lambda: len(reading.got) > MEBIBYTE)
        await one.next()
        await reading.until(lambda: reading.got.endswith(b"0\r\n\r\n"))
        assert reading.body == b"".join([ROLE, HELLO, long, STOP, DONE])
        assert (await stage.watch.ended_all(1)).hold_overflowed
        await reading.close()


@moved_time
@pytest.mark.parametrize("hold", ["500ms", "all"])
async def test_what_is_no_stream_is_delivered_as_ever(hold):
    one = Slow(answer()[:-10], answer()[-10:])
    async with plane(one, policy=delivering(f"hold: {hold}")) as stage:
        client = await begin(stage, chat(STREAM_BODY), one)
        await one.next()
        await pass_time(1.0)
        await one.next()
        assert (await client.response()).body == ANSWER


PACKED = gzip.compress(b"".join(LONG))
PACKED_SSE = SSE.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n")


@moved_time
@pytest.mark.parametrize("hold", ["none", "500ms", "all"])
async def test_a_stream_that_cannot_be_read_flows(hold):
    """Asked for identity, a provider compressed all the same: nobody can tell its events apart, nor hold them back."""
    one = Slow(PACKED_SSE + chunked(PACKED[:40], end=False), chunked(PACKED[40:]))
    async with plane(one, policy=delivering(f"hold: {hold}")) as stage:
        client = await begin(stage, chat(STREAM_BODY), one)
        reading = Reading(client)
        await one.next()
        await reading.until(lambda: reading.got)
        assert reading.body == PACKED[:40]
        await one.next()
        await reading.until(lambda: reading.got.endswith(b"0\r\n\r\n"))
        assert reading.body == PACKED
        await reading.close()
    assert b"\r\ncontent-encoding: gzip\r\n" in reading.head.lower() + b"\r\n"
