"""Requests that are malformed, ambiguous or not served, and exactly what becomes of each.

Behind every one comes a second, good request in the same segment: whoever read the first differently would serve it.
"""

from dataclasses import dataclass

import orjson
import pytest

from gateway.config.snapshot import ServerPlan
from tests.wire.raw import served

PLAN = ServerPlan(header_bytes=24 * 1024, headers=20, body_bytes=1000)
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"


@dataclass
class Case:
    name: str
    section: str
    raw: bytes
    status: int
    reason: str
    seen: int = 0
    """Requests that reach the service: 1 where the head is good and the body is not."""


def head(name: str, section: str, lines: bytes, status: int = 400, reason: str = "bad_request") -> Case:
    """A GET with a good Host and these further lines."""
    return Case(name, section, b"GET / HTTP/1.1\r\nHost: a\r\n" + lines + b"\r\n", status, reason)


def line(name: str, section: str, request_line: bytes, status: int = 400, reason: str = "bad_request") -> Case:
    """This request line with a good Host."""
    return Case(name, section, request_line + b"\r\nHost: a\r\n\r\n", status, reason)


def target(name: str, section: str, raw: bytes) -> Case:
    return line(name, section, b"GET " + raw + b" HTTP/1.1")


def host(name: str, section: str, lines: bytes) -> Case:
    return Case(name, section, b"GET / HTTP/1.1\r\n" + lines + b"\r\n", 400, "bad_request")


def chunked(name: str, section: str, body: bytes, status: int = 400, reason: str = "bad_request") -> Case:
    raw = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + body
    return Case(name, section, raw, status, reason, seen=1)


NO, V = "not_implemented", "http_version"
TE = b"Transfer-Encoding: "
CL = b"Content-Length: "
CASES = [
    # The request line.
    line("HTTP/0.9", "9112 A", b"GET /"),
    Case("HTTP/0.9 before its first header", "9112 A", b"GET /\r\n", 400, "bad_request"),
    line("two spaces before the target", "9112 3", b"GET  / HTTP/1.1"),
    line("two spaces behind the target", "9112 3", b"GET /  HTTP/1.1"),
    line("tab for a space", "9112 3", b"GET\t/ HTTP/1.1"),
    line("leading space", "9112 3", b" GET / HTTP/1.1"),
    line("trailing space", "9112 3", b"GET / HTTP/1.1 "),
    line("space in the target", "9112 3.2", b"GET /a b HTTP/1.1"),
    line("no target", "9112 3", b"GET HTTP/1.1"),
    line("two versions", "9112 2.3", b"GET / HTTP/1.1 HTTP/1.1"),
    line("lower-case protocol", "9112 2.3", b"GET / http/1.1"),
    line("other protocol", "9112 2.3", b"GET / RTSP/1.0"),
    line("ICE", "9112 2.3", b"SOURCE / ICE/1.0"),
    line("two minor digits", "9112 2.3", b"GET / HTTP/1.10"),
    line("leading zero", "9112 2.3", b"GET / HTTP/01.1"),
    line("no minor version", "9112 2.3", b"GET / HTTP/1"),
    line("HTTP/0.9 by name", "9110 15.6.6", b"GET / HTTP/0.9", 505, V),
    line("HTTP/1.2", "9110 15.6.6", b"GET / HTTP/1.2", 505, V),
    line("HTTP/2.0", "9110 15.6.6", b"GET / HTTP/2.0", 505, V),
    line("HTTP/3.0", "9110 15.6.6", b"GET / HTTP/3.0", 505, V),
    Case("HTTP/2 preface", "9113 3.4", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, V),
    line("lower-case method", "9110 9.1", b"get / HTTP/1.1", 501, NO),
    line("unknown method", "9110 15.6.2", b"FROB / HTTP/1.1", 501, NO),
    line("a known method and more", "9110 15.6.2", b"GETS / HTTP/1.1", 501, NO),
    line("a method of RTSP", "9110 15.6.2", b"PLAY / HTTP/1.1", 501, NO),
    line("no token as method", "9110 9.1", b"G@T / HTTP/1.1"),
    line("non-ASCII method", "9110 9.1", b"G\xc3\xa9T / HTTP/1.1"),
    line("CONNECT", "9110 9.3.6", b"CONNECT example.com:443 HTTP/1.1", 501, NO),
    line("TRACE", "9110 9.3.8", b"TRACE / HTTP/1.1", 501, NO),
    Case("two empty lines first", "9112 2.2", b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_request"),
    Case("bare LF first", "9112 2.2", b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_request"),
    Case("TLS", "9112 2.2", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "bad_request"),
    # The target.
    line("OPTIONS *", "9110 9.3.7", b"OPTIONS * HTTP/1.1", 501, NO),
    line("OPTIONS * in absolute form", "9112 3.2.4", b"OPTIONS http://a HTTP/1.1", 501, NO),
    target("GET *", "9112 3.2.4", b"*"),
    target("authority form", "9112 3.2.3", b"a:80"),
    target("relative", "9112 3.2.1", b"v1/models"),
    target("fragment", "9112 3.2.1", b"/a#b"),
    target("NUL", "9112 2.2", b"/a\0b"),
    target("control byte", "9112 3.2", b"/a\x01b"),
    target("DEL", "9112 3.2", b"/a\x7fb"),
    target("non-ASCII", "3986 2", b"/caf\xc3\xa9"),
    target("CR", "9112 2.2", b"/a\rb"),
    target("dot segments", "3986 5.2.4", b"/v1/../admin"),
    target("single dot", "3986 5.2.4", b"/./v1"),
    target("dot segment at the end", "3986 5.2.4", b"/v1/.."),
    target("dot segment before a query", "3986 5.2.4", b"/v1/..?a=b"),
    target("encoded dots", "3986 6.2.2.2", b"/v1/%2e%2E/admin"),
    target("half-encoded dots", "3986 6.2.2.2", b"/v1/.%2e/admin"),
    target("dots and encoded slash", "3986 6.2.2.2", b"/v1/..%2fadmin"),
    target("dots and backslash", "3986 5.2.4", b"/v1\\..\\admin"),
    target("dots and parameter", "3986 3.3", b"/v1/..;a/admin"),
    target("dots in absolute form", "3986 5.2.4", b"http://a/v1/../admin"),
    target("absolute form without host", "9110 4.2.1", b"http:///v1"),
    target("absolute form with userinfo", "9110 4.2.4", b"http://u:p@a/v1"),
    target("absolute form of another scheme", "9112 3.2.2", b"ftp://a/v1"),
    target("absolute form, bad port", "9110 4.2", b"http://a:b/v1"),
    Case("a target of 17 KB", "9112 3", b"GET /" + b"a" * 17000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414, "target_too_long"),
    Case("a target without end", "9112 3", b"GET /" + b"a" * 17000, 414, "target_too_long"),
    # Host.
    host("no Host", "9112 3.2", b"Accept: */*\r\n"),
    host("no header at all", "9112 3.2", b""),
    host("two Hosts", "9112 3.2", b"Host: a\r\nHost: b\r\n"),
    host("two equal Hosts", "9112 3.2", b"Host: a\r\nhost: a\r\n"),
    host("empty Host", "9110 4.2.1", b"Host:\r\n"),
    host("a list as Host", "9110 7.2", b"Host: a, b c\r\n"),
    host("Host with path", "9110 7.2", b"Host: a/b\r\n"),
    host("Host with userinfo", "9110 7.2", b"Host: u@a\r\n"),
    host("Host with bad port", "9110 7.2", b"Host: a:http\r\n"),
    host("Host with open bracket", "9110 7.2", b"Host: [::1\r\n"),
    host("non-ASCII Host", "9110 7.2", b"Host: \xc3\xa9\r\n"),
    Case("no Host beside absolute form", "9112 3.2", b"GET http://a/ HTTP/1.1\r\n\r\n", 400, "bad_request"),
    Case("two Hosts in HTTP/1.0", "9112 3.2", b"GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n", 400, "bad_request"),
    # Header lines.
    head("space before the colon", "9112 5.1", b"X : a\r\n"),
    head("no colon", "9112 5", b"abc\r\n"),
    head("empty name", "9110 5.1", b": a\r\n"),
    head("no token as name", "9110 5.1", b"X(y): a\r\n"),
    head("non-ASCII name", "9110 5.1", b"\xc3\xa9: a\r\n"),
    head("NUL in a name", "9110 5.1", b"X\0: a\r\n"),
    head("obs-fold", "9112 5.2", b"X: a\r\n b\r\n"),
    head("obs-fold by tab", "9112 5.2", b"X: a\r\n\tb\r\n"),
    Case("space before the first header", "9112 2.2", b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400, "bad_request"),
    head("NUL in a value", "9110 5.5", b"X: a\0b\r\n"),
    head("control byte in a value", "9110 5.5", b"X: a\x0bb\r\n"),
    head("DEL in a value", "9110 5.5", b"X: a\x7fb\r\n"),
    head("bare CR in a value", "9112 2.2", b"X: a\rY: b\r\n"),
    head("bare LF behind a value", "9112 2.2", b"X: a\nY: b\r\n"),
    Case("bare LF behind the request line", "9112 2.2", b"GET / HTTP/1.1\nHost: a\r\n\r\n", 400, "bad_request"),
    Case("bare LF everywhere", "9112 2.2", b"GET / HTTP/1.1\nHost: a\n\n", 400, "bad_request"),
    Case("bare LF at the end", "9112 2.2", b"GET / HTTP/1.1\r\nHost: a\r\n\n", 400, "bad_request"),
    head("21 headers", "6585 5", b"X: a\r\n" * 20, 431, "headers_too_large"),
    head("25 KB of one header", "6585 5", b"X: " + b"a" * 25000 + b"\r\n", 431, "headers_too_large"),
    Case("headers without end", "6585 5", b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 25000, 431, "headers_too_large"),
    # Framing.
    head("length and coding", "9112 6.1", CL + b"5\r\n" + TE + b"chunked\r\n"),
    head("coding and length", "9112 6.1", TE + b"chunked\r\n" + CL + b"5\r\n"),
    head("coding and length 0", "9112 6.1", TE + b"chunked\r\n" + CL + b"0\r\n"),
    head("foreign coding and length", "9112 6.1", TE + b"gzip\r\n" + CL + b"5\r\n"),
    head("two lengths", "9112 6.3", CL + b"5\r\n" + CL + b"6\r\n"),
    head("two equal lengths", "9112 6.3", CL + b"5\r\n" + CL + b"5\r\n"),
    head("a list of lengths", "9112 6.3", CL + b"5, 5\r\n"),
    head("signed length", "9110 8.6", CL + b"+5\r\n"),
    head("negative length", "9110 8.6", CL + b"-5\r\n"),
    head("hexadecimal length", "9110 8.6", CL + b"0x5\r\n"),
    head("underscored length", "9110 8.6", CL + b"1_0\r\n"),
    head("fractional length", "9110 8.6", CL + b"5.0\r\n"),
    head("length in two words", "9110 8.6", CL + b"5 5\r\n"),
    head("empty length", "9110 8.6", CL + b"\r\n"),
    head("non-ASCII digits", "9110 8.6", CL + "\u0665".encode() + b"\r\n"),
    head("length beyond 64 bits", "9110 8.6", CL + b"18446744073709551621\r\n"),
    head("length of 20 digits", "9110 8.6", CL + b"00000000000000000005\r\n"),
    head("length over the limit", "9110 15.5.14", CL + b"1001\r\n", 413, "body_too_large"),
    head("unknown coding", "9112 6.1", TE + b"xchunked\r\n", 501, NO),
    head("gzip only", "9112 6.1", TE + b"gzip\r\n", 501, NO),
    head("gzip, chunked", "9112 6.1", TE + b"gzip, chunked\r\n", 501, NO),
    head("chunked, identity", "9112 6.1", TE + b"chunked, identity\r\n", 501, NO),
    head("identity", "9112 7", TE + b"identity\r\n", 501, NO),
    head("quoted coding", "9112 7", TE + b'"chunked"\r\n', 501, NO),
    head("chunked with parameter", "9112 7.1", TE + b"chunked;a=b\r\n", 501, NO),
    head("two codings", "9112 7", TE + b"chunked\r\n" + TE + b"chunked\r\n"),
    head("coding hidden by another", "9112 7", TE + b"identity\r\n" + TE + b"chunked\r\n"),
    head("empty coding", "9112 7", TE + b"\r\n"),
    head("coding behind a control byte", "9112 6.1", TE + b"\x0bchunked\r\n"),
    head("coding with a space before the colon", "9112 5.1", b"Transfer-Encoding : chunked\r\n"),
    Case(
        "coding in HTTP/1.0",
        "9112 6.1",
        b"POST / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
        "bad_request",
    ),
    # Options of the protocol.
    head("h2c", "9110 7.8", b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: \r\n", 501, NO),
    head("websocket", "6455 4.1", b"Upgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n", 501, NO),
    head("unknown expectation", "9110 10.1.1", b"Expect: 200-ok\r\nContent-Length: 4\r\n", 417, "expectation"),
    head("two expectations", "9110 10.1.1", b"Expect: 100-continue, x\r\nContent-Length: 4\r\n", 417, "expectation"),
    # Chunks. The head is good, so the service knows of the request, and hears that its client is gone.
    chunked("no size", "9112 7.1", b"\r\n"),
    chunked("size no number", "9112 7.1", b"x\r\n"),
    chunked("signed size", "9112 7.1", b"+5\r\nhello\r\n0\r\n\r\n"),
    chunked("negative size", "9112 7.1", b"-5\r\nhello\r\n0\r\n\r\n"),
    chunked("0x size", "9112 7.1", b"0x5\r\nhello\r\n0\r\n\r\n"),
    chunked("underscored size", "9112 7.1", b"1_0\r\nhello\r\n0\r\n\r\n"),
    chunked("space before the size", "9112 7.1", b" 5\r\nhello\r\n0\r\n\r\n"),
    chunked("space behind the size", "9112 7.1", b"5 \r\nhello\r\n0\r\n\r\n"),
    chunked("17 digits of size", "9112 7.1", b"00000000000000005\r\nhello\r\n0\r\n\r\n"),
    chunked("size beyond 64 bits", "9112 7.1", b"10000000000000005\r\nhello\r\n0\r\n\r\n"),
    chunked("bare LF behind the size", "9112 7.1", b"5\nhello\r\n0\r\n\r\n"),
    chunked("bare CR behind the size", "9112 7.1", b"5\rhello\r\n0\r\n\r\n"),
    chunked("bare LF behind the data", "9112 7.1", b"5\r\nhello\n0\r\n\r\n"),
    chunked("data longer than its size", "9112 7.1", b"4\r\nhello\r\n0\r\n\r\n"),
    chunked("data shorter than its size", "9112 7.1", b"6\r\nhello\r\n0\r\n\r\n"),
    chunked("bare LF in an extension", "9112 7.1.1", b"5;a\nb\r\nhello\r\n0\r\n\r\n"),
    chunked("bare CR in an extension", "9112 7.1.1", b"5;a\rb\r\nhello\r\n0\r\n\r\n"),
    chunked("NUL in an extension", "9112 7.1.1", b"5;a\0\r\nhello\r\n0\r\n\r\n"),
    chunked("an extension of 2 KB", "9112 7.1.1", b"5;" + b"a" * 2000 + b"\r\nhello\r\n0\r\n\r\n"),
    chunked("30 KB of extensions", "9112 7.1.1", (b"1;" + b"a" * 1000 + b"\r\nx\r\n") * 30 + b"0\r\n\r\n"),
    chunked("bare LF as the end", "9112 7.1", b"5\r\nhello\r\n0\r\n\n"),
    chunked("bare LF behind a trailer", "9112 7.1.2", b"0\r\nX: a\nY: b\r\n\r\n"),
    chunked("trailer without colon", "9112 7.1.2", b"0\r\nabc\r\n\r\n"),
    chunked("trailer with a space before the colon", "9112 7.1.2", b"0\r\nX : a\r\n\r\n"),
    chunked("folded trailer", "9112 5.2", b"0\r\nX: a\r\n b\r\n\r\n"),
    chunked("control byte in a trailer", "9112 7.1.2", b"0\r\nX: a\x01\r\n\r\n"),
    chunked("21 trailers", "6585 5", b"0\r\n" + b"X: a\r\n" * 21 + b"\r\n", 431, "headers_too_large"),
    chunked("25 KB of trailers", "6585 5", b"0\r\nX: " + b"a" * 25000, 431, "headers_too_large"),
    chunked("a chunk over the limit", "9110 15.5.14", b"3e9\r\n", 413, "body_too_large"),
    chunked("chunks over the limit", "9110 15.5.14", b"1f4\r\n" + b"a" * 500 + b"\r\n1f5\r\n", 413, "body_too_large"),
    chunked("a huge chunk", "9110 15.5.14", b"ffffffffffffffff\r\n", 413, "body_too_large"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_is_refused_once_and_the_connection_closes(case: Case) -> None:
    async with served(PLAN) as bench:
        client = await bench.connect()
        client.send(case.raw + SMUGGLED)

        response = await client.response()

        assert (response.status, response.get(b"x-gateway-reason")) == (case.status, case.reason.encode())
        assert response.get(b"connection") == b"close"
        assert response.get(b"content-type") == b"application/json"
        assert response.whole
        error = orjson.loads(response.body)["error"]
        assert error["code"] == case.reason
        assert error["message"]
        assert await client.rest() == b"", "more than one answer"
        assert len(bench.service.seen) == case.seen
        assert b"/smuggled" not in bench.service.targets
        for exchange in bench.service.seen:
            assert exchange.events[-1] == "gone"
            assert "end" not in exchange.events


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_is_refused_alike_behind_a_good_request(case: Case) -> None:
    async with served(PLAN) as bench:
        client = await bench.connect()
        client.send(b"POST /good HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nok" + case.raw)

        good = await client.response()
        response = await client.response()

        assert (good.status, good.body) == (200, b"ok")
        assert (response.status, response.get(b"x-gateway-reason")) == (case.status, case.reason.encode())
        assert await client.rest() == b""
        assert bench.service.targets[0] == b"/good"
        assert len(bench.service.seen) == 1 + case.seen


def test_the_table_has_no_case_twice() -> None:
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names) >= 80
    raws = [case.raw for case in CASES]
    assert len(set(raws)) == len(raws)


ODD = [
    ("one empty line first", "9112 2.2", b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", b""),
    ("no space behind the colon", "9112 5", b"GET / HTTP/1.1\r\nHost:a\r\n\r\n", b""),
    ("an empty value", "9110 5.5", b"GET / HTTP/1.1\r\nHost: a\r\nX:\r\n\r\n", b""),
    ("an IPv6 Host", "9110 7.2", b"GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", b""),
    ("a Host with an empty port", "3986 3.2.3", b"GET / HTTP/1.1\r\nHost: a:\r\n\r\n", b""),
    ("leading zeros in a length", "9110 8.6", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 005\r\n\r\nhello", b"hello"),
    ("whitespace round a length", "9110 5.5", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \t5 \r\n\r\nhello", b"hello"),
    ("chunked in capitals", "9112 7", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked \r\n\r\n0\r\n\r\n", b""),
    (
        "chunk sizes in either case, with zeros, extensions and trailers",
        "9112 7.1",
        (
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
            b'00A;n="v;w"\r\n0123456789\r\na ; x\r\nabcdefghij\r\n000\r\nContent-Length: 5\r\nX: \xff\r\n\r\n'
        ),
        b"0123456789abcdefghij",
    ),
    ("Upgrade that Connection does not name", "9110 7.8", b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\n\r\n", b""),
    (
        "Connection naming an upgrade that is not there",
        "9110 7.8",
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\n\r\n",
        b"",
    ),
]


@pytest.mark.parametrize(("raw", "body"), [each[2:] for each in ODD], ids=[each[0] for each in ODD])
async def test_odd_but_good_is_served_and_the_connection_goes_on(raw: bytes, body: bytes) -> None:
    async with served(PLAN) as bench:
        client = await bench.connect()
        client.send(raw)
        response = await client.response()
        assert (response.status, response.body) == (200, body)
        await bench.echo(client)
        assert len(bench.service.seen) == 2
