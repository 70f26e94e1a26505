"""How an answer is framed for the client it goes to, and how a cut one shows."""

import asyncio
from collections.abc import Callable

import orjson
import pytest
import uvloop

from gateway.dialects.errors import refusal_body
from gateway.errors import Reason, Refused
from gateway.ingress.connection import Connection
from tests.wire.raw import TEXT, Exchange, served

GET = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n"


def streams(*chunks: bytes, length: int | None = None, status: int = 200, phrase: bytes = b"OK"):
    def answer(exchange: Exchange) -> None:
        exchange.sink.open(status, phrase, TEXT, length=length)
        for chunk in chunks:
            exchange.sink.write(chunk)
        exchange.sink.end()

    return answer


async def test_a_known_length_is_announced_and_head_and_body_leave_together() -> None:
    async with served() as bench:
        bench.service.on_end = streams(b"hello", length=5)
        client = await bench.connect()
        client.send(GET)
        got = await client.reader.readexactly(len(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\ncontent-length: 5\r\n\r\nhello"))
        assert got == b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\ncontent-length: 5\r\n\r\nhello"


async def test_a_small_answer_is_one_write(monkeypatch: pytest.MonkeyPatch) -> None:
    writes = []
    send = Connection.send
    monkeypatch.setattr(Connection, "send", lambda self, data: (writes.append(data), send(self, data)))
    async with served() as bench:
        client = await bench.connect()
        await bench.echo(client)
        assert len(writes) == 1


async def test_an_unknown_length_is_chunked_for_http_1_1() -> None:
    async with served() as bench:
        bench.service.on_end = streams(b"hello ", b"w" * 300)
        client = await bench.connect()
        client.send(GET)
        response = await client.response()
        assert response.get(b"transfer-encoding") == b"chunked"
        assert response.get(b"connection") is None
        assert (response.body, response.whole) == (b"hello " + b"w" * 300, True)
        bench.service.on_end = lambda exchange: exchange.answer(exchange.body)
        await bench.echo(client)


@pytest.mark.parametrize("connection", [b"", b"Connection: keep-alive\r\n"])
async def test_an_unknown_length_ends_with_the_connection_for_http_1_0(connection: bytes) -> None:
    async with served() as bench:
        bench.service.on_end = streams(b"hello ", b"world")
        client = await bench.connect()
        client.send(b"GET /a HTTP/1.0\r\n" + connection + b"\r\n" + GET)
        response = await client.response()
        assert response.get(b"transfer-encoding") is None
        assert response.get(b"connection") == b"close"
        assert (response.body, response.whole) == (b"hello world", True)
        assert len(bench.service.seen) == 1


async def test_http_1_0_is_kept_alive_only_when_asked() -> None:
    async with served() as bench:
        client = await bench.connect()
        client.send(b"GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        response = await client.response()
        assert (response.status, response.get(b"connection")) == (200, b"keep-alive")
        client.send(b"GET /b HTTP/1.0\r\n\r\n" + GET)
        response = await client.response()
        assert (response.status, response.get(b"connection")) == (200, b"close")
        assert await client.rest() == b""
        assert bench.service.targets == [b"/a", b"/b"]


@pytest.mark.parametrize("value", [b"close", b"Close", b"keep-alive, close", b"x-y,\tCLOSE"])
async def test_connection_close_is_kept(value: bytes) -> None:
    async with served() as bench:
        client = await bench.connect()
        client.send(b"GET /a HTTP/1.1\r\nHost: a\r\nConnection: " + value + b"\r\n\r\n" + GET)
        response = await client.response()
        assert response.get(b"connection") == b"close"
        assert await client.rest() == b""
        assert len(bench.service.seen) == 1


@pytest.mark.parametrize(("length", "announced"), [(5, b"5"), (0, b"0"), (None, None)])
async def test_head_gets_the_head_only(length: int | None, announced: bytes | None) -> None:
    async with served() as bench:
        bench.service.on_end = streams(*([b"hello"] if length != 0 else []), length=length)
        client = await bench.connect()
        client.send(GET.replace(b"GET", b"HEAD"))
        response = await client.response(head=True)
        assert response.get(b"content-length") == announced
        assert response.get(b"transfer-encoding") is None
        bench.service.on_end = lambda exchange: exchange.answer(exchange.body)
        await bench.echo(client)


@pytest.mark.parametrize(("status", "length", "announced"), [(204, 0, None), (304, None, None), (304, 0, None), (304, 7, b"7")])
async def test_statuses_without_a_body_have_none(status: int, length: int | None, announced: bytes | None) -> None:
    async with served() as bench:
        bench.service.on_end = streams(b"dropped!"[:7], length=length, status=status, phrase=b"")
        client = await bench.connect()
        client.send(GET)
        response = await client.response()
        assert (response.status, response.get(b"content-length")) == (status, announced)
        assert response.get(b"transfer-encoding") is None
        bench.service.on_end = lambda exchange: exchange.answer(exchange.body)
        await bench.echo(client)


async def test_status_and_phrase_are_relayed_as_given() -> None:
    async with served() as bench:
        bench.service.on_end = streams(length=0, status=529, phrase=b"Site is overloaded")
        client = await bench.connect()
        client.send(GET)
        assert await client.reader.readline() == b"HTTP/1.1 529 Site is overloaded\r\n"


async def test_a_held_head_leaves_at_the_next_sweep() -> None:
    async with served() as bench:
        bench.service.on_end = lambda exchange: exchange.sink.open(200, b"OK", TEXT, length=None)
        client = await bench.connect()
        client.send(GET)
        await bench.service.until(lambda: bool(bench.service.seen))
        bench.later(0)
        assert await client.reader.readuntil(b"\r\n\r\n") == (
            b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        bench.service.seen[0].sink.write(b"x")
        bench.service.seen[0].sink.end()
        assert await client.reader.readexactly(11) == b"1\r\nx\r\n0\r\n\r\n"


def cuts(length: int | None):
    def answer(exchange: Exchange) -> None:
        exchange.sink.open(200, b"OK", TEXT, length=length)
        exchange.sink.write(b"half")
        exchange.sink.abort()

    return answer


@pytest.mark.parametrize("length", [8, None])
async def test_an_aborted_answer_arrives_as_far_as_it_was_written_and_shows_as_cut(length: int | None) -> None:
    async with served() as bench:
        bench.service.on_end = cuts(length)
        client = await bench.connect()
        client.send(GET)
        response = await client.response()
        assert (response.status, response.whole) == (200, False)
        assert await client.rest() == b""
        assert bench.service.seen[0].events == ["end"]


async def test_an_aborted_answer_without_framing_ends_in_a_reset() -> None:
    async with served() as bench:
        bench.service.on_end = cuts(None)
        client = await bench.connect()
        client.send(b"GET /a HTTP/1.0\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            while await client.reader.read(1000):
                pass


async def test_an_answer_aborted_before_its_first_byte_is_no_answer() -> None:
    async with served() as bench:
        bench.service.on_end = lambda exchange: (exchange.sink.open(200, b"OK", TEXT, length=0), exchange.sink.abort())
        client = await bench.connect()
        client.send(GET)
        assert await client.rest() == b""


@pytest.mark.parametrize(("length", "sent"), [(5, [b"four"]), (5, []), (5, [b"three", b"more"]), (5, [b"too long"])])
async def test_an_answer_of_another_length_than_announced_is_cut(
    length: int, sent: list[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    async with served() as bench:
        bench.service.on_end = streams(*sent, length=length)
        client = await bench.connect()
        client.send(GET + GET)
        got = await client.rest()
        assert len(got.partition(b"\r\n\r\n")[2]) <= length
        assert b"200" not in got[20:]
        assert len(bench.service.seen) == 1
        assert "than announced" in caplog.text


async def test_a_turn_that_is_over_writes_into_nothing() -> None:
    async with served() as bench:
        client = await bench.connect()
        await bench.echo(client, b"/first")
        sink = bench.service.seen[0].sink
        sink.open(200, b"OK", TEXT, length=5)
        sink.write(b"stale")
        sink.end()
        sink.pause_body()
        sink.resume_body()
        sink.abort()
        await bench.echo(client, b"/second")


async def test_misuse_of_a_sink_is_a_bug_that_shows(caplog: pytest.LogCaptureFixture) -> None:
    misuses = [
        lambda sink: sink.write(b"x"),
        lambda sink: sink.end(),
        lambda sink: sink.open(101, b"", [], length=None),
        lambda sink: (sink.open(200, b"", [], length=None), sink.open(200, b"", [], length=None)),
    ]
    for misuse in misuses:
        caplog.clear()
        async with served() as bench:
            bench.service.on_end = lambda exchange, misuse=misuse: misuse(exchange.sink)
            client = await bench.connect()
            client.send(GET)
            got = await client.rest()
            assert got.startswith(b"HTTP/1.1 500 ") or got == b""
            assert "RuntimeError" in caplog.text


# Refusals by the service.


def refuses(status: int = 429, reason: Reason = Reason.RATE_LIMITED):
    def refuse(exchange: Exchange) -> None:
        raise Refused(status, reason, "Not now.")

    return refuse


async def test_a_refusal_is_answered_in_the_shape_of_openai() -> None:
    async with served() as bench:
        bench.service.on_begin = refuses()
        client = await bench.connect()
        client.send(b"GET /a HTTP/1.1\r\nHost: a\r\nX-Request-ID: mine-1\r\n\r\n")
        response = await client.response()
        assert response.status == 429
        assert response.get(b"x-gateway-reason") == b"rate_limited"
        assert response.get(b"x-gateway-request-id") == b"mine-1"
        assert response.get(b"content-type") == b"application/json"
        assert orjson.loads(response.body) == {
            "error": {"message": "Not now.", "type": "rate_limit_error", "param": None, "code": "rate_limited"},
        }


async def test_a_refusal_is_answered_in_the_shape_of_anthropic() -> None:
    async with served() as bench:
        bench.service.on_begin = refuses(503, Reason.NO_TARGET)
        client = await bench.connect()
        client.send(b"GET /v1/messages HTTP/1.1\r\nHost: a\r\nAnthropic-Version: 2023-06-01\r\nX-Request-Id: m\r\n\r\n")
        response = await client.response()
        assert orjson.loads(response.body) == {
            "type": "error",
            "error": {"type": "overloaded_error", "message": "Not now."},
            "request_id": "m",
        }


@pytest.mark.parametrize(
    ("status", "openai", "anthropic"),
    [
        (400, "invalid_request_error", "invalid_request_error"),
        (401, "authentication_error", "authentication_error"),
        (403, "permission_error", "permission_error"),
        (404, "invalid_request_error", "not_found_error"),
        (413, "invalid_request_error", "request_too_large"),
        (429, "rate_limit_error", "rate_limit_error"),
        (500, "server_error", "api_error"),
        (502, "server_error", "api_error"),
        (503, "service_unavailable_error", "overloaded_error"),
        (504, "server_error", "timeout_error"),
    ],
)
def test_an_error_has_the_type_its_status_has_at_the_provider(status: int, openai: str, anthropic: str) -> None:
    assert orjson.loads(refusal_body("no_route", "m", status))["error"]["type"] == openai
    assert orjson.loads(refusal_body("no_route", "m", status, shape="anthropic"))["error"]["type"] == anthropic


@pytest.mark.parametrize("given", [b"", b"a b", b"x" * 129, b"caf\xc3\xa9"])
async def test_a_request_id_that_is_not_sane_is_replaced(given: bytes) -> None:
    async with served() as bench:
        bench.service.on_begin = refuses()
        client = await bench.connect()
        client.send(b"GET /a HTTP/1.1\r\nHost: a\r\nX-Request-Id: " + given + b"\r\n\r\n")
        made = (await client.response()).get(b"x-gateway-request-id")
        client.send(GET)
        other = (await client.response()).get(b"x-gateway-request-id")
        assert made.startswith(b"req_")
        assert made != other


async def test_a_refusal_of_head_has_no_body() -> None:
    async with served() as bench:
        bench.service.on_begin = refuses()
        client = await bench.connect()
        client.send(GET.replace(b"GET", b"HEAD"))
        response = await client.response(head=True)
        assert int(response.get(b"content-length")) > 0
        bench.service.on_begin = lambda exchange: None
        await bench.echo(client)


async def test_a_refusal_keeps_the_connection_where_the_body_is_at_hand() -> None:
    async with served() as bench:
        bench.service.on_begin = refuses()
        client = await bench.connect()
        client.send(POST + b"GET " + POST + b"GET ")
        for _ in range(2):
            response = await client.response()
            assert (response.status, response.get(b"connection")) == (429, None)
        bench.service.on_begin = lambda exchange: None
        await bench.echo(client)
        assert [exchange.body for exchange in bench.service.seen] == [b"", b"", b"echo"]


@pytest.mark.parametrize(
    "request_",
    [POST, POST + b"abc", POST.replace(b"Content-Length: 4", b"Transfer-Encoding: chunked") + b"0\r\n\r\n"],
    ids=["nothing of the body", "a part of it", "chunked"],
)
async def test_a_refusal_closes_the_connection_where_the_body_is_not_at_hand(request_: bytes) -> None:
    async with served() as bench:
        bench.service.on_begin = refuses()
        client = await bench.connect()
        client.send(request_)
        response = await client.response()
        assert (response.status, response.get(b"connection")) == (429, b"close")
        client.send(GET)
        assert await client.rest() == b""
        assert len(bench.service.seen) == 1


@pytest.mark.parametrize("moment", ["on_data", "on_end"])
async def test_a_refusal_from_the_body_is_answered_too(moment: str) -> None:
    async with served() as bench:
        setattr(bench.service, moment, refuses(404, Reason.MODEL_NOT_ALLOWED))
        client = await bench.connect()
        client.send(POST + b"body")
        response = await client.response()
        assert (response.status, response.get(b"x-gateway-reason")) == (404, b"model_not_allowed")
        setattr(bench.service, moment, lambda exchange: exchange.answer(exchange.body) if moment == "on_end" else None)
        await bench.echo(client)


@pytest.mark.parametrize("moment", ["on_begin", "on_data", "on_end"])
async def test_a_bug_in_the_service_is_a_500_and_logged(moment: str, caplog: pytest.LogCaptureFixture) -> None:
    def bug(exchange: Exchange) -> None:
        raise ZeroDivisionError("planted")

    async with served() as bench:
        setattr(bench.service, moment, bug)
        client = await bench.connect()
        client.send(POST + b"body")
        response = await client.response()
        assert (response.status, response.get(b"x-gateway-reason")) == (500, b"internal")
        assert b"planted" not in response.body
        assert response.get(b"connection") == b"close"
        assert await client.rest() == b""
        assert "planted" in caplog.text
        assert {record.name for record in caplog.records} == {"gateway.ingress"}
        # A Source that was never returned cannot be told.
        assert ("gone" in bench.service.seen[0].events) == (moment != "on_begin")


async def test_a_bug_behind_the_head_cuts_the_answer(caplog: pytest.LogCaptureFixture) -> None:
    def bug(exchange: Exchange) -> None:
        exchange.sink.open(200, b"OK", TEXT, length=None)
        exchange.sink.write(b"half")
        raise ZeroDivisionError

    async with served() as bench:
        bench.service.on_end = bug
        client = await bench.connect()
        client.send(GET)
        response = await client.response()
        assert (response.status, response.whole) == (200, False)
        assert "ZeroDivisionError" in caplog.text


async def test_an_answer_from_within_begin_needs_no_source_calls() -> None:
    async with served() as bench:
        bench.service.on_begin = lambda exchange: exchange.answer(b"early")
        client = await bench.connect()
        client.send(GET * 3)
        for _ in range(3):
            assert (await client.response()).body == b"early"
        assert [exchange.events for exchange in bench.service.seen] == [[], [], []]


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_both_event_loops_serve(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def scenario() -> None:
        async with served() as bench:
            client = await bench.connect()
            await bench.echo(client)
            bench.service.on_end = streams(b"a", b"b" * 200_000)
            client.send(GET)
            assert len((await client.response()).body) == 200_001
            client.send(b"GET / HTTP/1.1\r\n\r\n")
            assert (await client.response()).status == 400
            assert await client.rest() == b""
            bench.service.on_end = cuts(None)
            client = await bench.connect()
            client.send(b"GET /a HTTP/1.0\r\n\r\n")
            with pytest.raises(ConnectionResetError):
                while await client.reader.read(1000):
                    pass
            client = await bench.connect()
            client.send(GET)
            assert (await client.response()).whole is False
            bench.service.on_end = lambda exchange: None
            client = await bench.connect()
            client.send(GET)
            await bench.service.until(lambda: bench.service.seen[-1].events == ["end"])
            client.reset()
            await bench.service.until(lambda: bench.service.seen[-1].events == ["end", "gone"])

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(scenario())
