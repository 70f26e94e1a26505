"""Back-pressure and memory through the whole gateway: who does not read stops who sends, and a body is kept only as far as allowed."""

import asyncio
import hashlib
import random

import pytest

from tests.wire.plane import (
    ANSWER,
    CHAT,
    DONE,
    SSE,
    STOP,
    STREAM_BODY,
    Seen,
    answer,
    chat,
    chunked,
    delta,
    error_of,
    get,
    plane,
    post,
    serving,
    settled,
    whole_request,
)
from tests.wire.upstream_script import both_loops, moved_time, skip, turns

BLOCK = 64 * 1024
TOTAL = 64 * 1024 * 1024
BOUND = 24 * 1024 * 1024
"""What may be under way: the kernel's buffers of four sockets (a few megabytes each), and little of our own."""
SMALL = "limits: {replay_bytes: 256KiB, replay_total: 1MiB, body_bytes: 80MiB}"
BOOM = b'{"error": {"message": "boom", "type": "server_error", "code": null}}'
MODEL_FIRST = b'{"model": "gpt-4o", "messages": "'


class Flow:
    """Counts what a script could send, so that a test can see it stop."""

    def __init__(self):
        self.sent = 0

    async def pour(self, writer, blocks):
        for block in blocks:
            writer.write(block)
            await writer.drain()
            self.sent += len(block)


def pouring(flow, head, blocks, end=b""):
    async def script(visit):
        await whole_request(visit)
        visit.write(head)
        await flow.pour(visit.writer, blocks)
        visit.write(end)
        await visit.gone()

    return script


@both_loops
@pytest.mark.parametrize("kind", ["plain", "json", "stream"])
async def test_a_client_that_does_not_read_stops_the_provider(kind):
    flow = Flow()
    if kind == "stream":
        events = [delta(content="x" * BLOCK)] * (TOTAL // BLOCK)
        script = pouring(flow, SSE, [chunked(each, end=False) for each in events], chunked(STOP, DONE))
        request = chat(STREAM_BODY)
    else:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n"
        blocks = [bytes(BLOCK)] * (TOTAL // BLOCK)
        script = pouring(flow, head % (b"application/json" if kind == "json" else b"audio/wav", TOTAL), blocks)
        request = chat() if kind == "json" else get(b"/v1/files/f/content")
    async with plane(script) as stage:
        client = await stage.connect(receive_buffer=8192)
        client.reader._transport.pause_reading()
        client.send(request)
        assert await settled(lambda: flow.sent, above=BLOCK) < BOUND
        assert stage.watch.records == []
        client.reader._transport.resume_reading()
        async with asyncio.timeout(20):
            head = await client.reader.readuntil(b"\r\n\r\n")
            if kind == "stream":
                size = int(await client.reader.readuntil(b"\r\n"), 16)
                digest, last = hashlib.sha256(), b""
                while size:
                    last = (await client.reader.readexactly(size + 2))[:-2]
                    digest.update(last)
                    size = int(await client.reader.readuntil(b"\r\n"), 16)
                assert last.endswith(DONE)
                assert digest.digest() == hashlib.sha256(b"".join([*events, STOP, DONE])).digest()
            else:
                assert b"\r\ncontent-length: %d\r\n" % TOTAL in head
                assert hashlib.sha256(await client.reader.readexactly(TOTAL)).digest() == hashlib.sha256(bytes(TOTAL)).digest()


@moved_time
async def test_a_slow_clients_pause_is_not_the_providers_silence():
    flow = Flow()
    blocks = [chunked(delta(content="x" * BLOCK), end=False)] * (TOTAL // BLOCK)
    async with plane(pouring(flow, SSE, blocks, chunked(STOP, DONE)), policy="{timeouts: {stall: 5s}}") as stage:
        client = await stage.connect(receive_buffer=8192)
        client.reader._transport.pause_reading()
        client.send(chat(STREAM_BODY))
        await settled(lambda: flow.sent, above=BLOCK)
        for _ in range(10):
            skip(6)
            await turns(3)
        client.reader._transport.resume_reading()
        async with asyncio.timeout(20):
            end = b""
            while not end.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n"):
                end = end[-64:] + await client.reader.read(BLOCK)
        record = await stage.watch.ended_all(1)
        assert (record.ending, len(record.attempts)) == ("ok", 1)


def pattern(size, *, wrapped=False):
    body = random.Random(size).randbytes(size // 2).hex().encode()
    return MODEL_FIRST + body + b'"}' if wrapped else body


async def upload(client, flow, head, body):
    client.send(head)
    view = memoryview(body)
    await flow.pour(client.writer, [view[at : at + BLOCK] for at in range(0, len(body), BLOCK)])


class Reluctant:
    """A provider that reads a head and nothing more until it is told to; then it answers with the body's hash."""

    def __init__(self, warm=0):
        self.go = asyncio.Event()
        self.reading = asyncio.Event()
        self.warm = warm
        self.log: list[Seen] = []

    async def __call__(self, visit):
        while True:
            if self.warm:
                self.warm -= 1
                await whole_request(visit)
                visit.write(answer())
                continue
            visit.writer.transport.pause_reading()
            self.reading.set()
            await self.go.wait()
            visit.writer.transport.resume_reading()
            request = await whole_request(visit)
            digest = hashlib.sha256(request.split(b"\r\n\r\n", 1)[1]).hexdigest().encode()
            visit.write(answer(b'"%b"' % digest))


UPLOADS = pytest.mark.parametrize(
    ("target", "wrapped"),
    [(b"/v1/files", False), (CHAT, True), (b"/v1/unheard-of", True)],
    ids=["files", "chat", "other"],
)


@both_loops
@UPLOADS
@pytest.mark.parametrize("warm", [0, 1], ids=["fresh", "reused"])
async def test_a_provider_that_does_not_read_stops_the_upload(target, wrapped, warm):
    body = pattern(TOTAL // 2, wrapped=wrapped)
    provider = Reluctant(warm)
    async with plane(provider, server="  " + SMALL) as stage:
        if warm:
            assert (await stage.ask(chat())).status == 200
        flow = Flow()
        client = await stage.connect()
        head = post(target, b"", b"Content-Length: %d" % len(body), length=False)
        uploading = asyncio.create_task(upload(client, flow, head, body))
        await provider.reading.wait()
        assert await settled(lambda: flow.sent, above=BLOCK) < BOUND
        assert stage.memory <= 256 * 1024
        provider.go.set()
        async with asyncio.timeout(20):
            await uploading
        response = await client.response()
        assert response.status == 200
        assert response.body == b'"%b"' % hashlib.sha256(body).hexdigest().encode()
        record = await stage.watch.ended_all(1 + warm)
        assert (record.bytes_in, len(record.attempts)) == (len(body), 1)
        assert stage.memory == 0
        assert len(stage.upstreams[0].visits) == 1


@both_loops
@pytest.mark.parametrize("warm", [0, 1], ids=["fresh", "reused"])
async def test_a_body_too_large_to_keep_streams_through(warm):
    log: list[Seen] = []
    body = pattern(3_000_000, wrapped=True)
    async with plane(serving(answer(), log=log), targets="{provider: one, model: renamed}", server="  " + SMALL) as stage:
        for _ in range(warm):
            await stage.ask(chat())
        for head in (b"Content-Length: %d" % len(body), b"Transfer-Encoding: chunked"):
            framed = body if head.startswith(b"Content") else chunked(body[:100_000], body[100_000:])
            response = await stage.ask(post(CHAT, framed, head, length=False))
            assert (response.status, response.body, response.get(b"x-gateway-attempts")) == (200, ANSWER, b"1")
            assert log[-1].body == body.replace(b'"gpt-4o"', b'"renamed"', 1)


@both_loops
@UPLOADS
@pytest.mark.parametrize("how", ["close", "500", "429"])
async def test_a_body_too_large_to_keep_is_not_sent_twice(target, wrapped, how):
    async def dying(visit):
        await visit.reader.readuntil(b"\r\n\r\n")
        await visit.reader.readexactly(1_000_000)
        if how != "close":
            visit.write(answer(BOOM, status=how.encode() + b" No"))
            await visit.gone()

    log: list[Seen] = []
    body = pattern(3_000_000, wrapped=wrapped)
    async with plane(dying, serving(answer(), log=log), server="  " + SMALL) as stage:
        client = await stage.connect()
        client.send(post(target, body))
        response = await client.response()
        record = await stage.watch.ended_all(1)
    assert response.status == {"close": 502, "500": 500, "429": 429}[how]
    assert error_of(response)["message"]
    assert response.get(b"x-gateway-reason") == b"not_retryable"
    assert len(record.attempts) == 1
    assert not log


@moved_time
async def test_when_the_memory_for_bodies_is_used_up_the_next_streams_through_with_one_attempt():
    go = asyncio.Event()

    async def first(visit):
        while True:
            request = await whole_request(visit)
            await go.wait()
            visit.write(answer(BOOM, status=b"500 No") if b"second" in request else answer())

    log: list[Seen] = []
    body = MODEL_FIRST + b"x" * 200_000 + b'"}'
    server = "  limits: {replay_bytes: 256KiB, replay_total: 300KiB}"
    async with plane(first, serving(answer(), log=log), server=server) as stage:
        greedy = await stage.connect()
        greedy.send(chat(body))
        await stage.watch.until(lambda: stage.watch.began_count == 1)
        assert stage.memory == len(body)
        late = await stage.connect()
        second = body.replace(b"xx", b"second", 1)
        late.send(chat(second))
        await stage.watch.until(lambda: stage.watch.began_count == 2)
        assert stage.memory <= 300 * 1024
        go.set()
        assert (await greedy.response()).status == 200
        response = await late.response()
        assert (response.status, response.get(b"x-gateway-reason"), response.get(b"x-gateway-attempts")) == (
            500,
            b"not_retryable",
            b"1",
        )
        assert not log
        await stage.watch.ended_all(2)
        assert stage.memory == 0
        # With the memory given back, the same body is repeatable again.
        late = await stage.connect()
        late.send(chat(second))
        assert (await late.response()).get(b"x-gateway-provider") == b"two"
        assert log[0].body == second


@both_loops
async def test_a_body_that_names_its_model_too_late_is_not_sent_to_just_anybody():
    # A route for requests without a model would take it, and might be another company's.
    log: list[Seen] = []
    body = b'{"messages": "' + b"x" * 3_000_000 + b'", "model": "gpt-4o"}'
    form = FORM.replace(b"batch", b"x" * 300_000)
    async with plane(serving(answer(), log=log), server="  " + SMALL) as stage:
        for request in (chat(body), post(b"/v1/audio/transcriptions", form, FORM_TYPE)):
            response = await stage.ask(request)
            assert (response.status, error_of(response)["code"]) == (413, "body_too_large")
        assert not log
        # Where the address says it all, the body need not.
        assert (await stage.ask(post(b"/providers/one/v1/chat/completions", body))).status == 200
        assert (await stage.ask(post(b"/openai/deployments/gpt-4o/chat/completions", body))).status == 200
    server = "  limits: {replay_bytes: 4MiB, replay_total: 300KiB}"
    async with plane(serving(answer(), log=log), server=server) as stage:
        response = await stage.ask(chat(body))
    assert (response.status, error_of(response)["code"]) == (503, "body_too_large")
    assert response.get(b"x-should-retry") == b"true"
    assert 1000 <= int(response.get(b"retry-after-ms")) <= 3000


FORM = b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--b--\r\n'
FORM_TYPE = b"Content-Type: multipart/form-data; boundary=b"
REFUSALS = {
    "429": answer(b'{"error": {"message": "slow down"}}', b"Retry-After: 0", status=b"429 Too Many Requests"),
    "503": answer(b'{"error": {"message": "overloaded"}}', status=b"503 Service Unavailable"),
    "500": answer(BOOM, status=b"500 Internal Server Error"),
    "cut": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n",
    "nothing": b"",
}


@both_loops
@pytest.mark.parametrize("method", [b"POST", b"PUT"])
@pytest.mark.parametrize("refusal", REFUSALS)
async def test_an_upload_is_repeated_only_if_it_was_refused_unread(method, refusal):
    log: list[Seen] = []
    calls = 0

    async def script(visit):
        nonlocal calls
        while True:
            log.append(await whole_request(visit))
            calls += 1
            visit.write(REFUSALS[refusal] if calls == 1 else answer())
            if calls == 1 and refusal in {"cut", "nothing"}:
                await visit.writer.drain()
                return

    async with plane(script) as stage:
        response = await stage.ask(method + post(b"/v1/files", FORM, FORM_TYPE).removeprefix(b"POST"))
        record = await stage.watch.ended_all(1)
    if refusal in {"429", "503"}:
        assert (response.status, len(log)) == (200, 2)
        assert log[0].split(b"\r\n\r\n")[1:] == log[1].split(b"\r\n\r\n")[1:]
        assert record.saved_by == "retry"
    else:
        assert (response.status, len(log)) == ({"500": 500}.get(refusal, 502), 1)
        assert response.get(b"x-gateway-reason") == b"not_retryable"
        error_of(response)


@both_loops
async def test_an_upload_that_never_left_is_tried_again():
    log: list[Seen] = []
    calls = 0

    async with plane(serving(answer(), log=log)) as stage:
        names = stage.gateway._pool
        inner = type(names).call

        def flaky(self, origin, *rest, **settings):
            nonlocal calls
            calls += 1
            if calls == 1:
                origin = type(origin)("http", "127.0.0.1", 1)  # nobody listens there
            return inner(self, origin, *rest, **settings)

        stage.admission.surroundings.upstream = type(
            "Flaky", (), {"call": lambda _, *rest, **settings: flaky(names, *rest, **settings)}
        )()
        response = await stage.ask(post(b"/v1/files", FORM, FORM_TYPE))
        record = await stage.watch.ended_all(1)
    assert (response.status, len(record.attempts), record.saved_by) == (200, 2, "retry")
    assert [each.body for each in log] == [FORM]


@both_loops
@pytest.mark.parametrize("target", [CHAT, b"/v1/files"])
async def test_a_body_larger_than_any_may_be_is_refused(target):
    log: list[Seen] = []
    server = "  limits: {body_bytes: 100KiB, replay_bytes: 64KiB, replay_total: 1MiB}"
    async with plane(serving(answer(), log=log), server=server) as stage:
        announced = await stage.ask(post(target, b"", b"Content-Length: 200000", length=False))
        assert (announced.status, error_of(announced)["code"]) == (413, "body_too_large")
        assert stage.watch.began_count == 0
        client = await stage.connect()
        head = post(target, b"", b"Transfer-Encoding: chunked", length=False)
        client.send(head + chunked(MODEL_FIRST + bytes(90_000), end=False) + chunked(bytes(90_000)))
        counted = await client.response()
        assert (counted.status, error_of(counted)["code"]) == (413, "body_too_large")
    assert not log  # whatever went upstream of the second one, it was never a whole request


@moved_time
async def test_the_providers_time_begins_when_the_upload_is_whole():
    silent = Reluctant()

    body = MODEL_FIRST + b"x" * 400_000 + b'"}'
    policy = "{timeouts: {first_token: 500ms, answer: 500ms, stall: 60s}}"
    async with plane(silent, serving(answer()), server="  " + SMALL, policy=policy) as stage:
        client = await stage.connect()
        client.send(chat(body)[:300_000])
        await silent.reading.wait()
        await settled(lambda: stage.memory)
        skip(10)  # of the client's own
        await turns(20)
        assert not stage.watch.attempts
        client.send(chat(body)[300_000:])
        await settled(lambda: sum(intake._body.complete for intake in stage.admission.active), above=0)
        skip(0.6)
        await turns(20)
        assert [attempt.verdict for attempt in stage.watch.attempts] == ["timeout"]
        response = await client.response()
        silent.go.set()
    # Too large to be kept, so this was its one attempt.
    assert (response.status, response.get(b"x-gateway-reason")) == (504, b"not_retryable")


@moved_time
@pytest.mark.parametrize("replay", ["64KiB", "256KiB"])
async def test_what_comes_of_a_body_between_two_attempts_is_kept_for_the_second(replay):
    # The provider refuses in the middle of the upload; the client goes on during the backoff, until no more may be kept.
    log: list[bytes] = []

    async def script(visit):
        if visit.number:
            log.append(await whole_request(visit))
            visit.write(answer())
        else:
            await visit.reader.readuntil(b"\r\n\r\n")
            visit.write(answer(BOOM, status=b"503 No"))
        await visit.gone()

    policy = "{backoff: {base: 60s, cap: 60s, jitter: equal}}"
    body = bytes(60_000) + b"1" * 200_000
    async with plane(script, server=f"  limits: {{replay_bytes: {replay}, replay_total: 1MiB}}", policy=policy) as stage:
        client = await stage.connect()
        client.send(post(b"/v1/files", b"", b"Content-Length: %d" % len(body), length=False) + body[:60_000])
        await settled(lambda: len(stage.watch.attempts), above=0)
        assert [attempt.verdict for attempt in stage.watch.attempts] == ["overloaded"]
        client.send(body[60_000:])
        await settled(lambda: stage.memory)
        skip(61)
        response = await client.response()
        assert (response.status, response.get(b"x-gateway-attempts")) == (200, b"2")
    assert log[0].split(b"\r\n\r\n", 1)[1] == body
