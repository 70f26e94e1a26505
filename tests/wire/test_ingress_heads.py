"""What the service is told of a request: every byte of it, however it arrived."""

import asyncio

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.snapshot import ServerPlan
from gateway.core.message import RequestHead
from gateway.errors import Refused
from gateway.ingress.heads import HeadReader, KnownHeads
from tests.wire.raw import served

GOOD = [
    b"GET /v1/models HTTP/1.1\r\nHost: api.example.com\r\n\r\n",
    b"GET /v1/models? HTTP/1.1\r\nHost: a\r\nAccept: */*\r\n\r\n",
    (
        b"POST /v1/chat/completions?api-version=2024-10-21&x=%7e%7E+%zz HTTP/1.1\r\nhOsT: a:8080\r\nContent-Length: 11\r\n"
        b"X-Twice: one\r\nx-twice:two\r\nX-Bytes: \xff\xfe caf\xe9\r\nAuthorization:\t Bearer sk-1 \t\r\nX-Empty:\r\n\r\nhello world"
    ),
    (
        b"POST /v1//a;b=c/!$&'()*+,=:@~._-<>\"{}|^`/%41 HTTP/1.1\r\nHost: [::1]:80\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n"
        b"5\r\nhello\r\n1;a=b\r\n \r\n5\r\nworld\r\n0\r\nX-Sum: 1\r\nContent-Length: 99\r\n\r\n"
    ),
    b"PUT http://other.example:81/a/b?c HTTP/1.1\r\nAccept: text/plain\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
    b"\r\nDELETE HTTPS://other.example HTTP/1.1\r\nHost: a\r\nX-A: 1\r\n\r\n",
    b"OPTIONS /v1/models HTTP/1.1\r\nHost: a\r\nOrigin: http://b\r\n\r\n",
    b"QUERY /... HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-Continue\r\n\r\nabc",
    b"PATCH /.well-known/a..b/.c?/../%2e%2e/ HTTP/1.0\r\nConnection: Keep-Alive\r\nContent-Length: 1\r\n\r\nx",
]

_TOLD = ("method", "target", "headers", "version", "content_length", "chunked", "expect_continue", "keep_alive", "fields")


def told(head: RequestHead) -> dict[str, object]:
    return {name: getattr(head, name) for name in _TOLD}


async def requests_of(pieces: list[bytes]) -> list[tuple[dict[str, object], bytes]]:
    async with served() as bench:
        client = await bench.connect()
        for piece in pieces:
            client.send(piece)
            await client.writer.drain()
            # Lets the server's side of the loop read this piece before the next is sent.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        await bench.service.until(lambda: len(bench.service.seen) == len(GOOD) and bench.service.seen[-1].events[-1:] == ["end"])
        return [(told(exchange.head), exchange.body) for exchange in bench.service.seen]


async def test_a_request_is_told_byte_for_byte() -> None:
    requests = await requests_of([b"".join(GOOD)])

    heads = [head for head, _ in requests]
    assert [(head["method"], head["target"], head["version"]) for head in heads] == [
        (b"GET", b"/v1/models", b"1.1"),
        (b"GET", b"/v1/models?", b"1.1"),
        (b"POST", b"/v1/chat/completions?api-version=2024-10-21&x=%7e%7E+%zz", b"1.1"),
        (b"POST", b"/v1//a;b=c/!$&'()*+,=:@~._-<>\"{}|^`/%41", b"1.1"),
        (b"PUT", b"/a/b?c", b"1.1"),
        (b"DELETE", b"/", b"1.1"),
        (b"OPTIONS", b"/v1/models", b"1.1"),
        (b"QUERY", b"/...", b"1.1"),
        (b"PATCH", b"/.well-known/a..b/.c?/../%2e%2e/", b"1.0"),
    ]
    assert heads[2]["headers"] == [
        (b"host", b"hOsT", b"a:8080"),
        (b"content-length", b"Content-Length", b"11"),
        (b"x-twice", b"X-Twice", b"one"),
        (b"x-twice", b"x-twice", b"two"),
        (b"x-bytes", b"X-Bytes", b"\xff\xfe caf\xe9"),
        (b"authorization", b"Authorization", b"Bearer sk-1"),
        (b"x-empty", b"X-Empty", b""),
    ]
    assert [head["content_length"] for head in heads] == [None, None, 11, None, 0, None, None, 3, 1]
    assert [head["chunked"] for head in heads] == [False] * 3 + [True] + [False] * 5
    assert [head["expect_continue"] for head in heads] == [False] * 7 + [True, False]
    assert [head["keep_alive"] for head in heads] == [True] * 9
    assert [body for _, body in requests] == [b"", b"", b"hello world", b"hello world", b"", b"", b"", b"abc", b"x"]


async def test_the_authority_of_an_absolute_target_replaces_host() -> None:
    requests = await requests_of([b"".join(GOOD)])
    assert requests[4][0]["headers"] == [
        (b"host", b"Host", b"other.example:81"),
        (b"accept", b"Accept", b"text/plain"),
        (b"content-length", b"Content-Length", b"0"),
    ]
    assert requests[5][0]["headers"] == [(b"host", b"Host", b"other.example"), (b"x-a", b"X-A", b"1")]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 333])
async def test_however_it_is_cut_into_segments_it_reads_the_same(size: int) -> None:
    whole = b"".join(GOOD)
    pieces = [whole[at : at + size] for at in range(0, len(whole), size)]
    assert await requests_of(pieces) == await requests_of([whole])


async def test_a_remembered_line_reads_like_a_new_one() -> None:
    async with served() as bench:
        client = await bench.connect()
        for _ in range(3):
            client.send(b"GET /a HTTP/1.1\r\nHost: a\r\nUser-Agent:  x  y\t\r\nACCEPT: 1\r\naccept: 2\r\n\r\n")
            await client.response()
        first, *others = [told(exchange.head) for exchange in bench.service.seen]
        assert first["headers"] == [
            (b"host", b"Host", b"a"),
            (b"user-agent", b"User-Agent", b"x  y"),
            (b"accept", b"ACCEPT", b"1"),
            (b"accept", b"accept", b"2"),
        ]
        assert others == [first, first]


class Callbacks:
    """llhttp's own view of a head."""

    def __init__(self) -> None:
        self.url = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.complete = False

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        self.complete = True


PIECES = st.sampled_from(
    b"GET|POST| |/|/a|?| HTTP/1.1| HTTP/1.0|\r\n|\r|\n|Host: a|Host|:|a|\t|Content-Length: 5|Transfer-Encoding: chunked|Accept: x|"
    b"\xff|\0|Connection: upgrade|Upgrade: h2c".split(b"|"),
)
LINES = st.sampled_from(
    b"Host: a|Host:b |Accept:  x|X-Y:\t\xff |Content-Length: 5|Transfer-Encoding: chunked|Upgrade: h2c|Via:|Connection: upgrade|"
    b"Connection: close|Accept : x| folded|bare\rcr: x|a\nb: c|:|x|Expect: 100-continue".split(b"|"),
)
HEADS = st.one_of(
    st.lists(PIECES, max_size=20).map(b"".join),
    st.tuples(st.sampled_from([b"GET / HTTP/1.1", b"GET /a HTTP/1.0", b"POST /b?c HTTP/1.1"]), st.lists(LINES, max_size=6)).map(
        lambda parts: b"\r\n".join((parts[0], *parts[1])),
    ),
)


@given(HEADS)
def test_a_head_we_take_is_split_as_llhttp_splits_it(start: bytes) -> None:
    raw = (start + b"\r\n\r\n").partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    try:
        head = HeadReader(KnownHeads()).read(raw, ServerPlan())
    except Refused:
        return
    view = Callbacks()
    parser = httptools.HttpRequestParser(view)
    try:
        parser.feed_data(raw)
    except httptools.HttpParserUpgrade:
        assert head.version == b"1.0"
    assert view.complete
    assert (head.method, head.version.decode()) == (parser.get_method(), parser.get_http_version())
    assert head.target == view.url
    assert [(name, value) for _, name, value in head.headers] == view.headers
    assert all(lower == name.lower() for lower, name, _ in head.headers)
    assert sum(lower == b"host" for lower, _, _ in head.headers) <= 1
    assert not (head.chunked and head.content_length is not None)
