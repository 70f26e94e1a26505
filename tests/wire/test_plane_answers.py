"""Answers through the whole gateway: what a client gets is what the provider said, or a refusal in JSON, and never half of either."""

import asyncio
import gzip
import json
import random

import pytest

from tests.wire.plane import ANSWER, CHAT, Seen, answer, chat, chunked, error_of, get, plane, post, serving, whole_request
from tests.wire.upstream_script import both_loops, moved_time

RANDOM = random.Random(3)
BIG = b'{"id": "x", "data": "' + RANDOM.randbytes(5 * 1024 * 1024).hex().encode() + b'"}'
"""More than is held."""
HTML = b"<!DOCTYPE html><html><body>Bad gateway</body></html>"


def own(headers):
    """Return an answer's headers without what the gateway adds."""
    return [(name, value) for name, value in headers if not name.lower().startswith(b"x-gateway-") and name != b"content-length"]


@both_loops
async def test_status_phrase_and_headers_are_the_providers():
    headers = [b"X-ODD-case: 1", b"x-twice: a", b"X-Twice: b", b"x-obs: caf\xe9", b"x-ratelimit-remaining-requests: 9", b"Date: x"]
    async with plane(serving(answer(b"{}", *headers, status=b"299 Rather \xe9 good"))) as stage:
        client = await stage.connect()
        client.send(get(b"/v1/threads/t"))
        head = await client.reader.readuntil(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"HTTP/1.1 299 Rather \xe9 good"
    assert lines[2 - 1 : 8] == [b"Content-Type: application/json", *headers]


@both_loops
@pytest.mark.parametrize("target", [b"/v1/models", CHAT])
async def test_head_gets_the_head_alone_and_the_connections_go_on(target):
    log: list[Seen] = []
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 1234\r\nX-A: 1\r\n\r\n"
    async with plane(serving(head, log=log)) as stage:
        client = await stage.connect()
        for _ in range(2):
            client.send(get(target, method=b"HEAD"))
            response = await client.response(head=True)
            assert (response.status, response.get(b"content-length"), response.get(b"x-a")) == (200, b"1234", b"1")
        assert len(stage.upstreams[0].visits) == 1
    assert [each.line.split(b" ")[0] for each in log] == [b"HEAD", b"HEAD"]


@moved_time
async def test_a_head_that_fails_has_no_body_either():
    head = b"HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n"
    async with plane(serving(head)) as stage:
        client = await stage.connect()
        for _ in range(2):
            client.send(get(b"/v1/models/nope", method=b"HEAD"))
            response = await client.response(head=True)
            assert (response.status, response.get(b"content-length")) == (404, b"99")


@both_loops
@pytest.mark.parametrize("head", [b"HTTP/1.1 204 No Content\r\nX-A: 1\r\n\r\n", b'HTTP/1.1 304 Not Modified\r\nETag: "a"\r\n\r\n'])
async def test_an_answer_without_a_body_has_none(head):
    async with plane(serving(head)) as stage:
        client = await stage.connect()
        for _ in range(2):
            client.send(get(b"/v1/files/f/content", b'If-None-Match: "a"'))
            response = await client.response()
            assert response.status == int(head[9:12])
            assert own(response.headers) == [tuple(line.split(b": ")) for line in head.split(b"\r\n")[1:-2]]
            assert response.get(b"content-length") is None
        assert len(stage.upstreams[0].visits) == 1


@moved_time
async def test_an_answer_of_no_bytes_says_so():
    async with plane(serving(answer(b"", kind=b"text/plain"))) as stage:
        response = await stage.ask(get(b"/v1/files/f/content"))
    assert (response.status, response.get(b"content-length"), response.body) == (200, b"0", b"")


@both_loops
async def test_chunks_become_chunks_and_a_held_answer_gets_a_length():
    head = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n"
    trailed = chunked(b"ab", b"c" * 100_000, b"d")[:-2] + b"X-T: 1\r\n\r\n"
    async with plane(
        serving(head % b"application/octet-stream" + trailed, head % b"application/json" + chunked(ANSWER[:7], ANSWER[7:]))
    ) as stage:
        client = await stage.connect()
        client.send(get(b"/v1/files/f/content"))
        flowing = await client.response()
        client.send(chat())
        held = await client.response()
    assert flowing.body == b"ab" + b"c" * 100_000 + b"d"
    assert (flowing.get(b"transfer-encoding"), flowing.get(b"trailer"), flowing.get(b"x-t")) == (b"chunked", None, None)
    assert (held.body, held.get(b"content-length")) == (ANSWER, b"%d" % len(ANSWER))


def closing(*answers):
    """Answer by closing the connection after the bytes; the last answer again and again."""
    left = list(answers)

    async def script(visit):
        await whole_request(visit)
        visit.write(left.pop(0) if len(left) > 1 else left[0])
        await visit.writer.drain()
        visit.writer.write_eof()
        await visit.gone()

    return script


UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n"


@both_loops
async def test_json_that_ends_with_the_connection_is_whole_if_it_parses():
    async with plane(closing(UNTIL_CLOSE + ANSWER)) as stage:
        response = await stage.ask(chat())
        assert (response.status, response.body, response.get(b"x-gateway-attempts")) == (200, ANSWER, b"1")
        assert response.get(b"content-length") == b"%d" % len(ANSWER)


@both_loops
@pytest.mark.parametrize(
    "cut",
    [
        UNTIL_CLOSE + ANSWER[:-5],
        answer()[:-5],
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(ANSWER, end=False),
        b"HTTP/1.1 200 OK\r\nContent-Ty",
        b"",
    ],
    ids=["until close", "length", "chunked", "head", "nothing"],
)
async def test_a_cut_answer_is_mended_unseen(cut):
    async with plane(closing(cut), serving(answer())) as stage:
        response = await stage.ask(chat())
        record = await stage.watch.ended_all(1)
    assert (response.status, response.body, response.get(b"x-gateway-provider")) == (200, ANSWER, b"two")
    assert (record.ending, record.saved_by, len(record.attempts)) == ("ok", "failover", 2)


@moved_time
async def test_an_answer_cut_every_time_ends_in_a_json_error():
    async with plane(closing(answer()[:-5])) as stage:
        response = await stage.ask(chat())
    assert response.status == 502
    assert error_of(response)["code"] == response.get(b"x-gateway-reason").decode()
    assert int(response.get(b"x-gateway-attempts")) > 1
    assert response.get(b"x-should-retry") == b"false"


@both_loops
@pytest.mark.parametrize("framing", [b"Content-Length: %d" % len(BIG), b"Transfer-Encoding: chunked"])
async def test_an_answer_too_large_to_be_held_flows(framing):
    body = BIG if framing.startswith(b"Content") else chunked(BIG[:9_000_000], BIG[9_000_000:])
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n%b\r\n\r\n" % framing
    async with plane(serving(head + body)) as stage:
        response = await stage.ask(chat())
        again = await stage.ask(get(b"/v1/models"))
    assert (response.status, response.body == BIG, again.body == BIG) == (200, True, True)
    assert (response.get(b"content-length") is not None) is framing.startswith(b"Content")


@both_loops
@pytest.mark.parametrize("framing", [b"Content-Length: %d" % len(BIG), b"Transfer-Encoding: chunked"])
async def test_a_large_answer_that_breaks_off_is_seen_to_break_off(framing):
    body = BIG[:-9] if framing.startswith(b"Content") else chunked(BIG[:-9], end=False)
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n%b\r\n\r\n" % framing
    async with plane(closing(head + body), serving(answer())) as stage:
        response = await stage.ask(chat())
        record = await stage.watch.ended_all(1)
    assert not response.whole
    assert response.body in (b"", BIG[:-9])  # what of the last chunk came is lost with it
    assert (record.ending, record.reason) == ("failed", "stream_broken")


@moved_time
async def test_a_cut_is_a_reset_for_a_client_that_could_not_tell_otherwise():
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with plane(closing(head + chunked(b"half", end=False))) as stage:
        client = await stage.connect()
        client.send(b"GET /v1/files/f/content HTTP/1.0\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            async with asyncio.timeout(20):
                while await client.reader.read(65536):
                    pass


@both_loops
async def test_a_compressed_error_is_relayed_as_it_is():
    body = gzip.compress(b'{"error": {"message": "no such file", "type": "invalid_request_error", "code": null}}')
    async with plane(serving(answer(body, b"Content-Encoding: gzip", b"X-E: 1", status=b"404 Not Found"))) as stage:
        for request in (get(b"/v1/files/nope", b"Accept-Encoding: gzip"), chat()):
            response = await stage.ask(request)
            assert (response.status, response.body, response.get(b"content-encoding"), response.get(b"x-e")) == (
                404,
                body,
                b"gzip",
                b"1",
            )


@moved_time
async def test_the_callers_own_error_is_relayed_byte_for_byte():
    body = b'{ "error" : {"message":"caf\xc3\xa9", "type":"invalid_request_error","code":"bad", "param" : "x"} }\n'
    own_advice = (b"x-should-retry: false", b"Retry-After: 7", b"X-Request-Id: req_1")
    async with plane(serving(answer(body, *own_advice, status=b"422 Nope")), serving(answer())) as stage:
        response = await stage.ask(chat())
        record = await stage.watch.ended_all(1)
    assert (response.status, response.body, response.get(b"x-gateway-attempts")) == (422, body, b"1")
    assert (response.get(b"x-should-retry"), response.get(b"retry-after"), response.get(b"x-request-id")) == (
        b"false",
        b"7",
        b"req_1",
    )
    assert (record.ending, record.reason) == ("caller_error", "caller")


@moved_time
async def test_the_last_failure_is_relayed_verbatim_with_our_advice():
    body = b'{"error": {"message": "boom", "type": "server_error", "code": null}}'
    async with plane(
        serving(answer(body, b"Retry-After: 999", b"X-Should-Retry: true", b"X-E: 1", status=b"500 Internal"))
    ) as stage:
        response = await stage.ask(chat())
    assert (response.status, response.body, response.get(b"x-e")) == (500, body, b"1")
    assert response.get(b"x-should-retry") == b"false"
    assert int(response.get(b"retry-after") or b"0") <= 60


@moved_time
@pytest.mark.parametrize("status", [b"200 OK", b"502 Bad Gateway", b"403 Forbidden"])
async def test_a_page_from_the_edge_is_no_answer_of_a_model(status):
    page = answer(HTML, status=status, kind=b"text/html; charset=utf-8")
    async with plane(serving(page), serving(answer())) as stage:
        saved = await stage.ask(chat())
    async with plane(serving(page)) as stage:
        refused = await stage.ask(chat())
        relayed = await stage.ask(get(b"/v1/files/f/content"))
    assert (saved.status, saved.get(b"x-gateway-provider")) == (200, b"two")
    assert refused.status == 502
    assert error_of(refused)
    if status == b"200 OK":
        assert (relayed.status, relayed.body) == (200, HTML)


@both_loops
async def test_a_redirect_is_relayed_untouched_where_no_model_is_called():
    redirect = answer(b"moved", b"Location: https://elsewhere.example/x?a=%2F", status=b"302 Found", kind=b"text/plain")
    async with plane(serving(redirect), serving(answer())) as stage:
        relayed = await stage.ask(get(b"/v1/files/f/content"))
        called = await stage.ask(chat())
    assert (relayed.status, relayed.body, relayed.get(b"location")) == (302, b"moved", b"https://elsewhere.example/x?a=%2F")
    assert (called.status, called.get(b"x-gateway-provider")) == (200, b"two")


@both_loops
async def test_interim_answers_are_skipped():
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    async with plane(serving(interim + answer())) as stage:
        client = await stage.connect()
        for _ in range(2):
            client.send(chat())
            response = await client.response()
            assert (response.status, response.body, response.interim, response.get(b"link")) == (200, ANSWER, [], None)
        assert len(stage.upstreams[0].visits) == 1


@both_loops
async def test_a_refusal_during_an_upload_reaches_a_client_that_still_sends():
    body = b'{"error": {"message": "too large", "type": "invalid_request_error", "code": null}}'
    refusal = answer(body, b"Connection: close", status=b"413 Payload Too Large")

    async def script(visit):
        await visit.reader.readuntil(b"\r\n\r\n")
        await visit.reader.readexactly(100_000)
        visit.write(refusal)
        await visit.gone()

    async with plane(script) as stage:
        client = await stage.connect()
        client.send(post(b"/v1/files", b"", b"Content-Length: 5000000", length=False) + bytes(2_000_000))
        response = await client.response()
        assert (response.status, response.body) == (413, body)
        assert response.get(b"connection") == b"close"
        client.send(bytes(3_000_000))
        assert await client.rest() == b""


@both_loops
async def test_a_whole_answer_during_an_upload_ends_the_exchange():
    async def script(visit):
        await visit.reader.readuntil(b"\r\n\r\n")
        visit.write(answer(b"enough", kind=b"text/plain"))
        await visit.gone()

    async with plane(script) as stage:
        client = await stage.connect()
        client.send(post(b"/v1/files", b"", b"Content-Length: 500000", length=False) + bytes(1000))
        response = await client.response()
        assert (response.status, response.body, response.get(b"connection")) == (200, b"enough", b"close")
        client.send(bytes(499_000))
        assert await client.rest() == b""
        await stage.quiet()


@moved_time
async def test_an_error_in_a_200_is_treated_as_the_error_it_is():
    hidden = b'{"error": {"message": "Provider returned error", "code": 502}}'
    async with plane(serving(answer(hidden)), serving(answer())) as stage:
        assert (await stage.ask(chat())).get(b"x-gateway-provider") == b"two"
    async with plane(serving(answer(hidden, b"X-Up: 1"))) as stage:
        response = await stage.ask(chat())
    assert (response.status, response.body) == (502, hidden)
    assert response.get(b"x-should-retry") == b"false"


@moved_time
async def test_our_own_keys_trouble_is_not_told_to_a_client():
    body = b'{"error": {"message": "Incorrect API key provided: sk-our-o*6789", "code": "invalid_api_key"}}'
    async with plane(serving(answer(body, status=b"401 Unauthorized"))) as stage:
        response = await stage.ask(chat())
    assert response.status == 503
    assert b"sk-our" not in response.body
    assert error_of(response)


@moved_time
async def test_refusals_speak_the_dialect_of_the_client():
    async with plane(serving(answer())) as stage:
        response = await stage.ask(post(b"/v1/messages", b"[]", b"anthropic-version: 2023-06-01"))
    document = json.loads(response.body)
    assert (response.status, document["type"], document["error"]["type"]) == (400, "error", "invalid_request_error")


@moved_time
async def test_a_malformed_answer_is_a_failure_and_never_forwarded():
    bad = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    async with plane(serving(bad), serving(answer())) as stage:
        response = await stage.ask(chat())
        assert (response.status, response.get(b"x-gateway-provider")) == (200, b"two")


@both_loops
async def test_bytes_after_an_answer_never_reach_the_next_request():
    async with plane(serving(answer() + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")) as stage:
        client = await stage.connect()
        for _ in range(3):
            client.send(chat())
            assert (await client.response()).body == ANSWER
        assert len(stage.upstreams[0].visits) == 3
