"""What a provider may answer, and what becomes of it: whole, split at every byte, cut, contradictory, or not HTTP at all."""

from __future__ import annotations

import asyncio

import pytest

from tests.wire.upstream_script import HEAD, OK, Heard, Visit, answering, ask, both_loops, running_pool, turns, upstream

H = b"HTTP/1.1 200 OK\r\n"
CHUNKED = H + b"Transfer-Encoding: chunked\r\n\r\n"

# What was written, then closed: what the receiver hears, and why. The connection never returns to the pool.
BROKEN = {
    "not http": (b"SSH-2.0-OpenSSH_9.6\r\n", "malformed"),
    "another protocol's answer": (b"RTSP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", "malformed"),
    "a TLS alert on a plain port": (b"\x15\x03\x01\x00\x02\x02\x16", "malformed"),
    "http/2.0": (b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", "malformed"),
    "http/2.0 that would be kept": (b"HTTP/2.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nhi", "malformed"),
    "status 099": (b"HTTP/1.1 099 No\r\nContent-Length: 2\r\n\r\nhi", "malformed"),
    "status 600": (b"HTTP/1.1 600 No\r\nContent-Length: 2\r\n\r\nhi", "malformed"),
    "a status of words": (b"HTTP/1.1 OK\r\n\r\n", "malformed"),
    "two status spaces": (b"HTTP/1.1  200 OK\r\nContent-Length: 2\r\n\r\nhi", "malformed"),
    "an upgrade nobody asked for": (b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", "malformed"),
    "a plain 101": (b"HTTP/1.1 101 Switching\r\n\r\n" + OK, "malformed"),
    "NUL in the phrase": (b"HTTP/1.1 200 O\0K\r\nContent-Length: 2\r\n\r\nhi", "malformed"),
    "NUL in a value": (H + b"X-A: a\0b\r\nContent-Length: 2\r\n\r\nhi", "malformed"),
    "NUL in a name": (H + b"X\0A: ab\r\nContent-Length: 2\r\n\r\nhi", "malformed"),
    "a control byte in a value": (H + b"X-A: a\x01b\r\nContent-Length: 2\r\n\r\nhi", "malformed"),
    "a space before the colon": (H + b"Content-Length : 2\r\n\r\nhi", "malformed"),
    "a header without a name": (H + b": 2\r\n\r\nhi", "malformed"),
    "a header without a colon": (H + b"Content-Length\r\n\r\nhi", "malformed"),
    "a folded header": (H + b"X-A: a\r\n b\r\nContent-Length: 2\r\n\r\nhi", "malformed"),
    "bare line feeds": (b"HTTP/1.1 200 OK\nContent-Length: 2\n\nhi", "malformed"),
    "a bare carriage return": (H + b"X-A: a\rb\r\nContent-Length: 2\r\n\r\nhi", "malformed"),
    "a signed length": (H + b"Content-Length: +2\r\n\r\nhi", "malformed"),
    "a negative length": (H + b"Content-Length: -2\r\n\r\nhi", "malformed"),
    "a hexadecimal length": (H + b"Content-Length: 0x2\r\n\r\nhi", "malformed"),
    "an empty length": (H + b"Content-Length:\r\n\r\nhi", "malformed"),
    "a list of lengths": (H + b"Content-Length: 2, 2\r\n\r\nhi", "malformed"),
    "a length beyond 64 bits": (H + b"Content-Length: 99999999999999999999\r\n\r\nhi", "malformed"),
    "two lengths": (H + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nhi", "malformed"),
    "two equal lengths": (H + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nhi", "malformed"),
    "length and coding": (H + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", "malformed"),
    "coding and length": (H + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\nhi\r\n0\r\n\r\n", "malformed"),
    "gzip, chunked": (H + b"Transfer-Encoding: gzip, chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", "malformed"),
    "gzip": (H + b"Transfer-Encoding: gzip\r\n\r\nhi", "malformed"),
    "identity": (H + b"Transfer-Encoding: identity\r\n\r\nhi", "malformed"),
    "xchunked": (H + b"Transfer-Encoding: xchunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", "malformed"),
    "chunked twice": (H + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", "malformed"),
    "chunked in 1.0": (b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", "malformed"),
    "chunked in a kept 1.0": (
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        "malformed",
    ),
    "a chunk size of words": (CHUNKED + b"zz\r\nhi\r\n0\r\n\r\n", "malformed"),
    "a negative chunk size": (CHUNKED + b"-2\r\nhi\r\n0\r\n\r\n", "malformed"),
    "a chunk longer than said": (CHUNKED + b"2\r\nhi!\r\n0\r\n\r\n", "malformed"),
    "chunks with line feeds": (CHUNKED + b"2\nhi\n0\n\n", "malformed"),
    "201 headers": (H + b"X-A: a\r\n" * 201 + b"\r\nhi", "malformed"),
    "a head of 129 KiB in one header": (H + b"X-A: " + b"a" * 129 * 1024 + b"\r\nContent-Length: 2\r\n\r\nhi", "malformed"),
    "a head that never ends": (H + b"X-A: " + b"a" * 1024 * 1024, "malformed"),
    "trailers that never end": (CHUNKED + b"2\r\nhi\r\n0\r\nX-A: " + b"a" * 1024 * 1024, "malformed"),
    "a chunk extension that never ends": (CHUNKED + b"2;" + b"a" * 1024 * 1024, "malformed"),
    "21 interim answers": (b"HTTP/1.1 103 Early Hints\r\n\r\n" * 21 + OK, "malformed"),
    "nothing": (b"", "reset"),
    "half a head": (OK[:20], "reset"),
    "only an interim answer": (b"HTTP/1.1 100 Continue\r\n\r\n", "reset"),
    "a body cut before its length": (H + b"Content-Length: 3\r\n\r\nhi", "reset"),
    "a body cut before its last chunk": (CHUNKED + b"2\r\nhi\r\n", "reset"),
    "a body cut in its last chunk": (CHUNKED + b"2\r\nhi\r\n0\r\n", "reset"),
    "a body cut in a chunk": (CHUNKED + b"5\r\nhi", "reset"),
}


@pytest.mark.parametrize("case", BROKEN)
@both_loops
async def test_a_broken_answer_is_a_fault_and_never_a_whole_answer(case: str) -> None:
    answer, fault = BROKEN[case]

    async def script(visit: Visit) -> None:
        await visit.request()
        visit.write(answer)
        visit.writer.write_eof()
        await visit.gone()

    async with upstream(script) as up, running_pool() as pool:
        heard = Heard()
        ask(pool, up.origin(), heard)
        assert await heard.outcome() == fault
        assert heard.sent is True
        assert heard.events[0] == "sending"
        assert f"127.0.0.1:{up.port}" in heard.detail
        assert all(stats.idle + stats.busy == 0 for stats in pool.stats())


# What was written on a connection that stays open: status and body, and whether the connection is used again.
GOOD = {
    "a length": (OK, "200 hi", True),
    "an empty body": (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "200 ", True),
    "chunks": (CHUNKED + b"1\r\nh\r\n1;ext=1\r\ni\r\n0\r\n\r\n", "200 hi", True),
    "chunks and trailers": (CHUNKED + b"2\r\nhi\r\n0\r\nX-Checksum: 1\r\n\r\n", "200 hi", True),
    "a coding in capitals": (H + b"transfer-encoding:\tCHUNKED \r\n\r\n2\r\nhi\r\n0\r\n\r\n", "200 hi", True),
    "no phrase": (b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nhi", "200 hi", True),
    "an error": (b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 2\r\n\r\nno", "429 no", True),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", "204 ", True),
    "204 with a length": (b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", "204 ", True),
    "304 with a length": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", "304 ", True),
    "100 first": (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, "200 hi", True),
    "103 with a length first": (b"HTTP/1.1 103 Early Hints\r\nContent-Length: 9\r\nLink: </a>\r\n\r\n" + OK, "200 hi", True),
    "20 interim answers": (b"HTTP/1.1 102 Processing\r\n\r\n" * 20 + OK, "200 hi", True),
    "http/1.0 that keeps": (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nhi", "200 hi", True),
    "http/1.0": (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", "200 hi", False),
    "close": (H + b"Connection: close\r\nContent-Length: 2\r\n\r\nhi", "200 hi", False),
    "close in a list": (H + b"Connection: x-a, Close\r\nContent-Length: 2\r\n\r\nhi", "200 hi", False),
    "an offer to upgrade": (H + b"Upgrade: h2c\r\nConnection: Upgrade\r\nContent-Length: 2\r\n\r\nhi", "200 hi", True),
    "200 headers": (H + b"X-A: a\r\n" * 199 + b"Content-Length: 2\r\n\r\nhi", "200 hi", True),
}


@pytest.mark.parametrize("split", [False, True], ids=["whole", "bytewise"])
@pytest.mark.parametrize("case", GOOD)
@both_loops
async def test_a_good_answer_is_heard_alike_however_it_is_split(case: str, split: bool) -> None:
    answer, outcome, kept = GOOD[case]

    async def script(visit: Visit) -> None:
        while True:
            await visit.request()
            if split and len(answer) < 1000:
                await visit.write_split(answer)
            else:
                visit.write(answer)

    async with upstream(script) as up, running_pool() as pool:
        for _ in range(2):
            heard = Heard()
            ask(pool, up.origin(), heard)
            assert await heard.outcome() == outcome
            assert heard.events[:2] == ["sending", "head"]
            assert heard.events[-1] == "ended"
        assert len(up.visits) == (1 if kept else 2)


@both_loops
async def test_a_body_without_a_length_lasts_until_the_connection_ends() -> None:
    async def script(visit: Visit) -> None:
        await visit.request()
        visit.write(H + b"Content-Type: text/event-stream\r\n\r\ndata: 1\n\n")
        visit.write(b"data: 2\n\n")
        visit.close()

    async with upstream(script) as up, running_pool() as pool:
        heard = Heard()
        ask(pool, up.origin(), heard)
        assert await heard.outcome() == "200 data: 1\n\ndata: 2\n\n"
        assert heard.answer is not None
        assert heard.answer.content_length is None
        assert not heard.answer.chunked


@both_loops
async def test_a_reset_does_not_end_a_body_without_a_length() -> None:
    async def script(visit: Visit) -> None:
        await visit.request()
        visit.write(H + b"\r\nhalf")
        await heard.until("data")
        visit.reset()

    heard = Heard()
    async with upstream(script) as up, running_pool() as pool:
        ask(pool, up.origin(), heard)
        assert await heard.outcome() == "reset"


@both_loops
async def test_headers_arrive_as_sent_with_lower_case_names_beside() -> None:
    lines = b"Content-Type: application/json\r\nX-RateLimit-A:1\r\nx-b:  two words \t\r\nX-Empty:\r\nX-Colon: a: b\r\nX-L: \xff\r\nX-Colon:x: y\r\n"
    async with upstream(answering(H + lines + b"Content-Length: 2\r\n\r\nhi")) as up, running_pool() as pool:
        for _ in range(2):  # names are remembered: the second time must not differ
            heard = Heard()
            ask(pool, up.origin(), heard)
            await heard.outcome()
            assert heard.answer is not None
            assert heard.answer.headers == [
                (b"content-type", b"Content-Type", b"application/json"),
                (b"x-ratelimit-a", b"X-RateLimit-A", b"1"),
                (b"x-b", b"x-b", b"two words"),
                (b"x-empty", b"X-Empty", b""),
                (b"x-colon", b"X-Colon", b"a: b"),
                (b"x-l", b"X-L", b"\xff"),
                (b"x-colon", b"X-Colon", b"x: y"),
                (b"content-length", b"Content-Length", b"2"),
            ]
            assert heard.answer.phrase == b"OK"
            assert heard.answer.content_length == 2


HEAD_ANSWERS = {
    "a length, kept": (H + b"Content-Length: 10\r\n\r\n", True),
    "chunked, kept": (H + b"Transfer-Encoding: chunked\r\n\r\n", True),
    "after 103, kept": (b"HTTP/1.1 103 Early Hints\r\n\r\n" + H + b"Content-Length: 10\r\n\r\n", True),
    "a body all the same": (H + b"Content-Length: 4\r\n\r\nhi\r\n", False),
    "chunks all the same": (H + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", False),
    "close": (H + b"Connection: close\r\nContent-Length: 10\r\n\r\n", False),
}


@pytest.mark.parametrize("case", HEAD_ANSWERS)
@both_loops
async def test_an_answer_to_head_has_no_body(case: str) -> None:
    answer, kept = HEAD_ANSWERS[case]
    async with upstream(answering(answer)) as up, running_pool() as pool:
        for _ in range(2):
            heard = Heard()
            ask(pool, up.origin(), heard, head=HEAD.replace(b"POST", b"HEAD"), head_request=True)
            assert await heard.outcome() == "200 "
        assert len(up.visits) == (1 if kept else 2)


SURPLUS = {
    "garbage": b"garbage",
    "a whole second answer": b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison",
    "the beginning of one": b"HTTP/1.1 2",
}


@pytest.mark.parametrize("case", SURPLUS)
@both_loops
async def test_bytes_after_an_answer_close_the_connection_and_reach_nobody(case: str) -> None:
    async def script(visit: Visit) -> None:
        await visit.request()
        visit.write(OK + (SURPLUS[case] if visit.number == 0 else b""))
        await visit.gone()

    async with upstream(script) as up, running_pool() as pool:
        for _ in range(2):
            heard = Heard()
            ask(pool, up.origin(), heard)
            assert await heard.outcome() == "200 hi"
        assert len(up.visits) == 2


@both_loops
async def test_an_early_refusal_is_heard_and_the_rest_of_the_body_is_not_sent() -> None:
    goon = asyncio.Event()
    rest: list[bytes] = []

    async def script(visit: Visit) -> None:
        await visit.reader.readuntil(b"\r\n\r\n")
        visit.write(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nn")
        await goon.wait()
        visit.write(b"o")
        rest.append(await visit.reader.read(-1))
        goon.clear()

    async with upstream(script) as up, running_pool() as pool:
        heard = Heard()
        head = HEAD.replace(b"Length: 2", b"Length: 1000000")
        call = ask(pool, up.origin(), heard, head=head, body=[b"x" * 10], whole=False)
        await heard.until("data")
        call.write(b"y" * 100)
        goon.set()
        assert await heard.outcome() == "413 no"
        call.write(b"z" * 100)
        call.end_of_body()
        assert all(stats.idle + stats.busy == 0 for stats in pool.stats())
        while goon.is_set():
            await turns()
        assert rest == [b"x" * 10]


@both_loops
async def test_an_early_refusal_of_a_large_body_is_heard_although_the_provider_hangs_up() -> None:
    async def script(visit: Visit) -> None:
        await visit.reader.readuntil(b"\r\n\r\n")
        visit.write(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno")
        visit.close()

    async with upstream(script) as up, running_pool() as pool:
        heard = Heard()
        size = 16 * 1024 * 1024
        ask(pool, up.origin(), heard, head=HEAD.replace(b"Length: 2", b"Length: %d" % size), body=[b"x" * size])
        assert await heard.outcome() == "413 no"


@both_loops
async def test_an_early_good_answer_is_heard_and_its_connection_not_kept() -> None:
    async def script(visit: Visit) -> None:
        await visit.reader.readuntil(b"\r\n\r\n")
        visit.write(OK)
        await visit.gone()

    async with upstream(script) as up, running_pool() as pool:
        heard = Heard()
        call = ask(pool, up.origin(), heard, body=[b"h"], whole=False)
        assert await heard.outcome() == "200 hi"
        call.write(b"i")
        call.end_of_body()
        assert all(stats.idle + stats.busy == 0 for stats in pool.stats())


@both_loops
async def test_an_answer_before_the_written_body_has_left_does_not_free_the_connection() -> None:
    blocked = asyncio.Event()

    async def script(visit: Visit) -> None:
        await visit.reader.readuntil(b"\r\n\r\n")
        await blocked.wait()
        visit.write(OK)
        await goon.wait()

    goon = asyncio.Event()
    async with upstream(script) as up, running_pool() as pool:
        heard = Heard()
        head = HEAD.replace(b"Content-Length: 2", b"Transfer-Encoding: chunked")
        call = ask(pool, up.origin(), heard, head=head, body=[], whole=False, chunked=True)
        await heard.until("sending")
        while "blocked" not in heard.events:
            call.write(b"x" * 65536)
            await turns(2)
        call.end_of_body()
        blocked.set()
        assert await heard.outcome() == "200 hi"
        assert all(stats.idle + stats.busy == 0 for stats in pool.stats())


@both_loops
async def test_a_receiver_that_cancels_while_hearing_hears_nothing_more() -> None:
    class Impatient(Heard):
        def data(self, chunk: bytes) -> None:
            super().data(chunk)
            call.cancel()

    closed = asyncio.Event()

    async def script(visit: Visit) -> None:
        await visit.request()
        visit.write(CHUNKED + b"1\r\nh\r\n1\r\ni\r\n0\r\n\r\n")
        await visit.gone()
        closed.set()

    async with upstream(script) as up, running_pool() as pool:
        heard = Impatient()
        call = ask(pool, up.origin(), heard)
        await closed.wait()
        call.cancel()
        assert heard.events == ["sending", "head", "data"]
        assert all(stats.idle + stats.busy == 0 for stats in pool.stats())
