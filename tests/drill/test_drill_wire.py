"""Every misbehaviour as a raw socket sees it, and what the ledger says of it. Long delays pass in virtual time."""

from __future__ import annotations

import asyncio
import hashlib
import json
from typing import Any

import pytest
import uvloop

from gateway.drill.faults import (
    Cut,
    Drip,
    ErrorEvent,
    Hangup,
    Html,
    Latency,
    LogNormal,
    Raw,
    Refuse,
    Reset,
    Stall,
    Status,
    WrongLength,
)
from gateway.drill.ledger import End
from gateway.drill.plan import Step
from gateway.drill.provider import SimulatedProvider
from gateway.drill.script import Script
from tests.drill.peers import RawPeer

virtual = pytest.mark.looptime


def events(received: bytes) -> int:
    return received.count(b"data: ")


async def test_a_connection_carries_many_requests(start: Any, dial: Any) -> None:
    provider = await start()
    peer = await dial(provider)
    for _ in range(3):
        peer.ask()
        status, headers, body = await peer.answer()
        assert (status, headers["content-length"]) == (200, str(len(body)))
        assert "connection" not in headers
    peer.ask(headers={"connection": "close"})
    assert b"connection: close\r\n" in await peer.rest()
    assert provider.ledger.connections == 1
    assert [entry.end for entry in provider.ledger] == [End.ANSWERED] * 4


async def test_a_hangup_closes_without_having_announced_it(start: Any, dial: Any) -> None:
    provider = await start()
    provider.faults.set(Hangup())
    peer = await dial(provider)
    peer.ask()
    status, headers, _ = await peer.answer()
    assert (status, "connection" in headers) == (200, False)
    assert await peer.rest() == b""
    assert peer.ended == "fin"


@pytest.mark.parametrize("part", ["head", "body"])
@pytest.mark.parametrize("after", [0, 1, 37])
async def test_a_reset_comes_after_exactly_that_many_bytes(start: Any, dial: Any, part: Any, after: int) -> None:
    provider = await start()
    provider.faults.set(Reset(after, part))
    peer = await dial(provider)
    peer.ask()
    received = await peer.rest()
    assert peer.ended == "rst"
    _, mark, body = received.partition(b"\r\n\r\n")
    assert len(received if part == "head" else body) == after
    assert bool(mark) == (part == "body")
    entry = provider.ledger[0]
    assert (entry.end, entry.answer_bytes) == (End.CUT, after if part == "body" else 0)
    assert entry.billed == (part == "body" or after > 0), "a reset before the first byte is no answer to pay for"


async def test_an_early_reset_does_not_wait_for_the_body(start: Any, dial: Any) -> None:
    provider = await start()
    provider.faults.set(Reset(early=True))
    peer = await dial(provider)
    peer.writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n{")
    assert await peer.rest() == b""
    assert peer.ended == "rst"
    assert provider.ledger[0].body_sha256 == ""


async def test_an_early_answer_comes_before_the_body_and_ends_the_connection(start: Any, dial: Any) -> None:
    provider = await start()
    provider.faults.set(Status(413, early=True))
    peer = await dial(provider)
    peer.writer.write(b"POST /v1/files HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n{")
    status, headers, _ = await peer.answer()
    assert (status, headers["connection"]) == (413, "close")


async def test_a_client_that_expects_100_gets_it(start: Any, dial: Any) -> None:
    provider = await start()
    peer = await dial(provider)
    body = b'{"model":"m","messages":[]}'
    peer.writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 27\r\n\r\n")
    assert await peer.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    peer.received = b""
    peer.writer.write(body)
    assert (await peer.answer())[0] == 200
    assert provider.ledger[0].body_sha256 == hashlib.sha256(body).hexdigest()


@pytest.mark.parametrize("how", ["rst", "close", "clean"])
async def test_a_stream_is_cut_after_n_events(start: Any, dial: Any, how: Any) -> None:
    provider = await start()
    provider.faults.set(Cut(after_events=4, how=how))
    peer = await dial(provider)
    peer.ask(stream=True, headers={"connection": "close"})
    received = await peer.rest()
    assert events(received) == 4
    assert b"[DONE]" not in received
    assert received.endswith(b"0\r\n\r\n") == (how == "clean")
    assert peer.ended == ("rst" if how == "rst" else "fin")
    entry = provider.ledger[0]
    assert (entry.events, entry.tokens_out, entry.billed) == (4, 3, True)
    assert entry.end is (End.ANSWERED if how == "clean" else End.CUT)


async def test_a_cut_by_bytes_falls_inside_an_announced_chunk(start: Any, dial: Any) -> None:
    provider = await start()
    provider.faults.set(Cut(after_bytes=50, how="close"))
    peer = await dial(provider)
    peer.ask(stream=True)
    body = (await peer.rest()).partition(b"\r\n\r\n")[2]
    size, _, payload = body.partition(b"\r\n")
    assert len(payload) == 50 < int(size, 16)
    assert peer.ended == "fin"


async def test_a_plain_answer_is_cut_short_of_its_length(start: Any, dial: Any) -> None:
    provider = await start()
    provider.faults.set(Cut(after_bytes=50, how="close"))
    peer = await dial(provider)
    peer.ask()
    head, _, body = (await peer.rest()).partition(b"\r\n\r\n")
    assert len(body) == 50
    assert int(head.split(b"content-length: ")[1].split(b"\r\n")[0]) > 50


@pytest.mark.parametrize("after", [0, 3])
async def test_an_error_event_replaces_the_rest_and_the_terminator(start: Any, dial: Any, after: int) -> None:
    provider = await start()
    provider.faults.set(ErrorEvent(after, {"error": {"type": "overloaded_error"}}, event="error"))
    peer = await dial(provider)
    peer.ask(stream=True, headers={"connection": "close"})
    received = await peer.rest()
    assert events(received) == after + 1
    assert b'event: error\ndata: {"error":{"type":"overloaded_error"}}\n\n\r\n0\r\n\r\n' in received
    assert b"[DONE]" not in received


@pytest.mark.parametrize("by", [7, -7])
async def test_a_wrong_length_is_off_by_what_was_asked(start: Any, dial: Any, by: int) -> None:
    provider = await start()
    provider.faults.set(WrongLength(by))
    peer = await dial(provider)
    peer.ask(headers={} if by > 0 else {"connection": "close"})
    head, _, body = (await peer.rest()).partition(b"\r\n\r\n")
    assert int(head.split(b"content-length: ")[1].split(b"\r\n")[0]) == len(body) + by
    assert json.loads(body)["object"] == "chat.completion"
    assert provider.ledger[0].end is (End.CUT if by > 0 else End.ANSWERED)


@pytest.mark.parametrize("by", [1, -1])
async def test_a_stream_can_lie_about_a_length_too(start: Any, dial: Any, by: int) -> None:
    provider = await start()
    provider.faults.set(WrongLength(by))
    peer = await dial(provider)
    peer.ask(stream=True)
    head, _, body = (await peer.rest()).partition(b"\r\n\r\n")
    assert b"chunked" not in head
    assert (int(head.split(b"content-length: ")[1].split(b"\r\n")[0]) > len(body)) == (by > 0)


async def test_raw_bytes_are_sent_as_they_are(start: Any, dial: Any) -> None:
    provider = await start()
    provider.faults.set(Raw("HTTP/1.1 200 OK\r\nx: \xff\r\ncontent-length: 1, 2\r\n\r\n"))
    peer = await dial(provider)
    peer.ask()
    assert await peer.rest() == b"HTTP/1.1 200 OK\r\nx: \xff\r\ncontent-length: 1, 2\r\n\r\n"
    assert peer.ended == "fin"


async def test_headers_of_a_status_keep_order_and_duplicates(start: Any, dial: Any) -> None:
    provider = await start()
    provider.faults.set(Status(429, headers=(("Retry-After", "-1"), ("retry-after", "99999"))))
    peer = await dial(provider)
    peer.ask()
    assert b"Retry-After: -1\r\nretry-after: 99999\r\n" in await peer.until(b"\r\n\r\n")


async def test_a_head_request_gets_the_head(start: Any, dial: Any) -> None:
    peer = await dial(await start())
    peer.ask("/v1/models", "HEAD", headers={"connection": "close"})
    head, _, body = (await peer.rest()).partition(b"\r\n\r\n")
    assert body == b""
    assert b"content-length: " in head


async def test_a_stream_for_http_1_0_ends_with_its_connection(start: Any, dial: Any) -> None:
    peer = await dial(await start())
    body = b'{"model":"m","messages":[],"stream":true}'
    peer.writer.write(b"POST /v1/chat/completions HTTP/1.0\r\nhost: x\r\ncontent-length: 41\r\n\r\n" + body)
    received = await peer.rest()
    assert b"chunked" not in received
    assert received.endswith(b"data: [DONE]\n\n")


async def test_what_is_not_there_and_what_cannot_be_read(start: Any, dial: Any) -> None:
    peer = await dial(await start())
    for method, path, status in [
        ("GET", "/v1/nothing", 404),
        ("GET", "/elsewhere", 404),
        ("GET", "/v1/chat/completions", 405),
        ("PUT", "/v1/responses/resp_1", 404),
    ]:
        peer.ask(path, method)
        assert (await peer.answer())[0] == status
    peer.writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\n{")
    assert (await peer.answer())[0] == 400
    peer.writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n")
    assert (await peer.answer())[0] == 400


async def test_the_ledger_keeps_what_was_received(start: Any, dial: Any) -> None:
    provider = await start(keep_bodies=True)
    peer = await dial(provider)
    peer.ask("/v1/chat/completions?a=b", headers={"Authorization": "Bearer sk-1", "X-Twice": "1", "x-twice": "2"})
    await peer.answer()
    entry = provider.ledger[0]
    assert entry.target == "/v1/chat/completions?a=b"
    assert [value for name, value in entry.headers if name.lower() == "x-twice"] == ["1", "2"]
    assert entry.header("authorization") == "Bearer sk-1"
    assert entry.key == hashlib.sha256(b"sk-1").hexdigest()[:12]
    assert entry.body_bytes == len(entry.body)
    assert entry.body_sha256 == hashlib.sha256(entry.body).hexdigest()
    assert "sk-1" not in repr(provider.ledger)
    assert "sk-1" not in json.dumps(entry.as_json())


async def test_a_body_of_any_size_and_coding_is_only_counted(start: Any, dial: Any) -> None:
    provider = await start()
    peer = await dial(provider)
    data = bytes(range(256)) * 12_000
    head = b"POST /v1/audio/transcriptions HTTP/1.1\r\nhost: x\r\ncontent-type: audio/wav\r\ncontent-encoding: gzip\r\n"
    peer.writer.write(head + b"content-length: %d\r\n\r\n" % len(data) + data)
    assert (await peer.answer())[0] == 404
    entry = provider.ledger[0]
    assert (entry.body, entry.body_bytes, entry.body_sha256) == (None, len(data), hashlib.sha256(data).hexdigest())


# What ends with the peer's departure: nothing here waits for a clock.


async def test_a_peer_that_leaves_during_silence_is_seen_at_once(start: Any, dial: Any) -> None:
    provider = await start()
    provider.faults.set(Stall())
    peer = await dial(provider)
    peer.ask()
    await provider.ledger.until(lambda ledger: len(ledger) == 1 and ledger[0].faults == ["stall"])
    assert provider.ledger.inflight == 1
    peer.leave()
    async with asyncio.timeout(2):
        await provider.ledger.until(lambda ledger: ledger.inflight == 0)
    entry = provider.ledger[0]
    assert (entry.end, entry.status, entry.billed, entry.left_s) == (End.PEER_LEFT, 0, False, entry.ended_s)


async def test_a_peer_that_leaves_mid_stream_has_paid_for_what_was_made(start: Any, dial: Any) -> None:
    provider = await start(tokens=1000)
    provider.faults.set(Stall(after_events=6))
    peer = await dial(provider)
    peer.ask(stream=True)
    await provider.ledger.until(lambda ledger: len(ledger) == 1 and ledger[0].events == 6)
    peer.writer.close()
    async with asyncio.timeout(2):
        await provider.ledger.until(lambda ledger: ledger.inflight == 0)
    entry = provider.ledger[0]
    assert (entry.end, entry.events, entry.tokens_out, entry.billed) == (End.PEER_LEFT, 6, 5, True)


async def test_a_peer_that_does_not_read_holds_the_stream_and_is_seen_to_leave(start: Any, dial: Any) -> None:
    provider = await start(tokens=200_000)
    peer = await dial(provider)
    peer.reader._transport.pause_reading()  # type: ignore[attr-defined]
    peer.ask(stream=True)
    await provider.ledger.until(lambda ledger: len(ledger) == 1 and ledger[0].events > 100)
    peer.leave()
    async with asyncio.timeout(2):
        await provider.ledger.until(lambda ledger: ledger.inflight == 0)
    assert provider.ledger[0].end is End.PEER_LEFT
    assert provider.ledger[0].tokens_out < 200_000


async def test_billed_can_be_said_otherwise(start: Any, dial: Any) -> None:
    provider = await start()
    provider.faults.set(Status(500, billed=True))
    peer = await dial(provider)
    peer.ask()
    await peer.answer()
    assert [entry.status for entry in provider.ledger.billed] == [500]


async def test_stopping_is_not_held_up_by_those_who_wait(dial: Any) -> None:
    provider = SimulatedProvider("primary")
    await provider.start()
    provider.faults.set(Stall())
    peers = [await dial(provider) for _ in range(5)]
    for peer in peers:
        peer.ask()
    await provider.ledger.until(lambda ledger: ledger.inflight == 5)
    async with asyncio.timeout(2):
        await provider.stop()
    assert {entry.end for entry in provider.ledger} == {End.DROPPED}
    assert await peers[0].rest() == b""
    assert peers[0].ended == "rst"


async def test_refusing_closes_the_port_and_accepting_opens_the_same(start: Any, dial: Any) -> None:
    provider = await start()
    port = provider.port
    idle, busy = await dial(provider), await dial(provider)
    provider.faults.set(Stall(times=1))
    busy.ask()
    await provider.ledger.until(lambda ledger: ledger.inflight == 1)
    for _ in range(3):
        await provider.refuse()
        assert provider.refusing
        with pytest.raises(ConnectionRefusedError):
            await dial(provider)
        await provider.accept()
        assert (provider.refusing, provider.port) == (False, port)
        (again := await dial(provider)).ask()
        assert (await again.answer())[0] == 200
    assert provider.ledger[0].end is End.DROPPED
    for peer in (idle, busy):
        assert await peer.rest() == b""


def test_it_misbehaves_alike_on_uvloop() -> None:
    """uvloop writes at the end of a turn and frees a closed port some turns later: both would spoil a cut or a reopening."""

    async def run() -> None:
        provider = SimulatedProvider("primary")
        await provider.start()
        for _ in range(3):
            for fault in (Reset(37, "body"), Cut(after_bytes=37, how="close")):
                provider.faults.set(fault)
                peer = RawPeer(*await asyncio.open_connection("127.0.0.1", provider.port))
                peer.ask()
                assert len((await peer.rest()).partition(b"\r\n\r\n")[2]) == 37
                assert peer.ended == ("rst" if isinstance(fault, Reset) else "fin")
                peer.leave()
            await provider.refuse()
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", provider.port)
            await provider.accept()
        provider.faults.set(Stall())
        peer = RawPeer(*await asyncio.open_connection("127.0.0.1", provider.port))
        peer.ask()
        await provider.ledger.until(lambda ledger: ledger.inflight == 1)
        peer.leave()
        async with asyncio.timeout(2):
            await provider.ledger.until(lambda ledger: ledger.inflight == 0)
        assert provider.ledger[-1].end is End.PEER_LEFT
        await provider.stop()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


# What takes long: in virtual time.


@virtual
async def test_latency_delays_the_head(start: Any, dial: Any) -> None:
    provider = await start(latency=LogNormal(30.0, 0.1))
    provider.faults.set(Latency(30.0))
    peer = await dial(provider)
    peer.ask()
    await peer.answer()
    assert 45 < provider.ledger[0].head_s - provider.ledger[0].arrived_s < 75


@virtual
async def test_latency_before_events_sends_the_head_at_once(start: Any, dial: Any) -> None:
    provider = await start(tokens=3, token_delay_s=5.0)
    provider.faults.set(Latency(60.0, before="events"))
    peer = await dial(provider)
    peer.ask(stream=True)
    await peer.until(b"[DONE]")
    entry = provider.ledger[0]
    assert entry.head_s - entry.arrived_s == pytest.approx(0, abs=1)
    assert entry.first_event_s - entry.arrived_s == pytest.approx(60, abs=1)
    await provider.ledger.until(lambda ledger: ledger.inflight == 0)
    assert entry.ended_s - entry.first_event_s == pytest.approx(5.0 * (entry.events - 1), abs=1)


@virtual
async def test_a_stall_that_ends_loses_nothing(start: Any, dial: Any) -> None:
    provider = await start(tokens=5)
    provider.faults.set(Stall(after_events=2, for_s=100.0))
    peer = await dial(provider)
    peer.ask(stream=True)
    await peer.until(b"[DONE]")
    await provider.ledger.until(lambda ledger: ledger.inflight == 0)
    entry = provider.ledger[0]
    assert (entry.end, entry.tokens_out) == (End.ANSWERED, 5)
    assert entry.ended_s - entry.arrived_s == pytest.approx(100, abs=1)


@virtual
async def test_a_stall_before_the_body_has_sent_the_head(start: Any, dial: Any) -> None:
    provider = await start()
    provider.faults.set(Stall(before="body", for_s=50.0))
    peer = await dial(provider)
    peer.ask()
    await peer.until(b"\r\n\r\n")
    assert provider.now() < 10
    assert (await peer.answer())[0] == 200
    assert provider.now() == pytest.approx(50, abs=1)


@virtual
async def test_comments_keep_a_silent_stream_busy(start: Any, dial: Any) -> None:
    provider = await start()
    provider.faults.set(Stall(after_events=1, for_s=35.0, comments_every_s=10.0))
    peer = await dial(provider)
    peer.ask(stream=True)
    received = await peer.until(b"[DONE]")
    assert received.count(b": keep-alive\n\n") == 4
    assert provider.ledger[0].events == events(received)


@virtual
@pytest.mark.parametrize("part", ["head", "all"])
async def test_a_drip_takes_its_time_and_changes_no_byte(start: Any, dial: Any, part: Any) -> None:
    provider = await start()
    provider.faults.set(Drip(every_s=1.0, size_bytes=2, part=part), Html(502))
    peer = await dial(provider)
    peer.ask(headers={"connection": "close"})
    received = await peer.rest()
    head, _, body = received.partition(b"\r\n\r\n")
    dripped = (len(head) + 4 if part == "head" else len(received)) // 2
    assert provider.now() == pytest.approx(dripped, abs=3)
    assert body.endswith(b"</html>\n")


@virtual
async def test_a_script_refuses_and_recovers_on_time(start: Any, dial: Any) -> None:
    provider = await start()
    provider.play(Script((Step(Refuse(), 10.0, 20.0), Step(Status(500), 30.0, 40.0))))

    async def outcome(at: float) -> object:
        await asyncio.sleep(at - provider.now())
        try:
            peer = await dial(provider)
        except ConnectionRefusedError:
            return "refused"
        peer.ask()
        return (await peer.answer())[0]

    assert [await outcome(at) for at in (5, 15, 25, 35, 45)] == [200, "refused", 200, 500, 200]


async def test_the_same_seed_and_order_repeat_a_run(start: Any, dial: Any) -> None:
    async def run(seed: int) -> list[int]:
        provider = await start("primary", seed=seed)
        provider.faults.set(Status(500, probability=0.4))
        peer = await dial(provider)
        statuses = []
        for _ in range(40):
            peer.ask()
            statuses.append((await peer.answer())[0])
        return statuses

    first, again, other = await run(1), await run(1), await run(2)
    assert first == again != other
