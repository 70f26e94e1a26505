"""Law 12, and what of law 11 is its other side: canary keys by every way in, and who has read them in the end.

Each case states exactly who may read each canary: a key that does not arrive where it is meant to is found like one that arrives
where it must not. A provider under test quotes every credential it was sent, which real ones do in errors, headers and pages.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import pytest

import gateway.egress.request as request_module
import gateway.ingress.admission as admission_module
from gateway.core.exchange import Exchange
from gateway.dialects.openai import OpenAI
from gateway.dialects.streams import ChatStream
from gateway.egress.answer import Answer
from gateway.egress.body import RequestBody
from gateway.egress.delivery import Delivery
from gateway.egress.driver import Driver
from gateway.ingress.callers import Callers
from tests.wire.canaries import BRISK, OWN, Reply, readers, stage
from tests.wire.plane import (
    ANSWER,
    BODY,
    CHAT,
    DONE,
    PATIENCE_S,
    ROLE,
    SSE,
    STOP,
    STREAM_BODY,
    answer,
    chunked,
    delta,
    event,
    get,
    post,
)
from tests.wire.upstream_script import moved_time, on, skip, turns

C, D = "canary-client-c", "canary-client-d"
CLOSE = b"Connection: close"
uvloop_only = on("uvloop")


# -- clients' keys, by every way in ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Carrier:
    """How a client presents its key: header lines, fields of the query, and what the gateway's own `clients` know it by."""

    lines: tuple[str, ...] = ()
    query: str = ""
    presented: str | None = C

    @property
    def canaries(self) -> set[str]:
        return {canary for canary in (C, D) if any(canary in part for part in (*self.lines, self.query))}


CARRIERS = {
    "bearer": Carrier((f"Authorization: Bearer {C}",)),
    "bearer, small": Carrier((f"authorization: bearer {C}",)),
    "bearer, capitals": Carrier((f"AUTHORIZATION: BEARER {C}",)),
    "bearer, wide": Carrier((f"Authorization: Bearer   {C} ",)),
    "another scheme": Carrier((f"Authorization: Basic {C}",), presented=f"Basic {C}"),
    "no scheme": Carrier((f"Authorization: {C}",)),
    "x-api-key": Carrier((f"x-api-key: {C}",)),
    "api-key": Carrier((f"Api-Key: {C}",)),
    "x-goog-api-key": Carrier((f"X-Goog-Api-Key: {C}",)),
    "?key": Carrier(query=f"a=1&key={C}", presented=None),
    "?api-key": Carrier(query=f"api-key={C}&b=%20", presented=None),
    "?api-key, encoded": Carrier(query=f"%61pi%2Dkey={C}", presented=None),
    "both in the query": Carrier(query=f"key={C}&api-key={D}&key={D}", presented=None),
    "header and query": Carrier((f"Authorization: Bearer {C}",), query=f"key={D}"),
    "two headers": Carrier((f"x-api-key: {D}", f"Authorization: Bearer {C}")),
    "three headers": Carrier((f"x-goog-api-key: {D}", f"api-key: {D}", f"x-api-key: {C}")),
    "bearer twice": Carrier((f"Authorization: Bearer {D}", f"Authorization: Bearer {C}")),
    "x-api-key twice": Carrier((f"x-api-key: {D}", f"X-Api-Key: {C}")),
}
BELONGINGS = ("canary-cookie", "canary-organization", "canary-project")
"""What else a client's account is known by: its provider's business, where the client's key is, and nobody's where it is not."""
BAGGAGE = (
    b"Cookie: session=canary-cookie",
    b"OpenAI-Organization: canary-organization",
    b"OpenAI-Project: canary-project",
    b"x-gateway-hedge: canary-hedge",
    b"X-Gateway-Anything: canary-anything",
    b"Proxy-Authorization: Bearer canary-proxy",
)


@dataclass(frozen=True)
class Kind:
    """A way to ask: method, address, body, and which provider it names."""

    method: bytes
    path: bytes
    body: bytes = b""
    query: str = ""
    direct: str = ""
    lines: tuple[bytes, ...] = ()
    inference: bool = True
    """Stateless: may go elsewhere."""
    model: bool = True

    def request(self, carrier: Carrier) -> bytes:
        query = "&".join(filter(None, (self.query, carrier.query)))
        target = self.path + (f"?{query}".encode() if query else b"")
        lines = [line.encode() for line in carrier.lines]
        if self.method == b"POST":
            return post(target, self.body, b"Content-Type: application/json", *BAGGAGE, *lines, *self.lines, CLOSE)
        return get(target, *BAGGAGE, *lines, *self.lines, CLOSE, method=self.method)


KINDS = {
    "chat": Kind(b"POST", CHAT, BODY),
    "messages": Kind(b"POST", b"/v1/messages", BODY),
    "compressed": Kind(b"POST", CHAT, gzip.compress(BODY, mtime=0), lines=(b"Content-Encoding: gzip",), model=False),
    "deployment": Kind(b"POST", b"/openai/deployments/gpt-4o/chat/completions", BODY, "api-version=2024-10-21"),
    "azure v1": Kind(b"POST", b"/openai/v1/responses", b'{"model": "gpt-4o", "input": "hi"}'),
    "direct": Kind(b"POST", b"/providers/one" + CHAT, BODY, direct="one"),
    "direct to the second": Kind(b"POST", b"/providers/two" + CHAT, BODY, direct="two"),
    "direct, no model": Kind(b"GET", b"/providers/two/v1/files", direct="two", inference=False),
    "models": Kind(b"GET", b"/v1/models", inference=False, model=False),
    "upload": Kind(b"POST", b"/v1/files", b"x" * 100, inference=False, model=False),
    "file": Kind(b"DELETE", b"/v1/files/file-1", inference=False, model=False),
    "unknown, with a model": Kind(b"POST", b"/v1/brand-new", BODY, inference=False),
    "unknown": Kind(b"PUT", b"/v1/brand/new", inference=False, model=False),
    "another root": Kind(b"GET", b"/v2/anything", inference=False, model=False),
    "realtime": Kind(b"GET", b"/v1/realtime", query="model=gpt-4o", inference=False),
}


@dataclass(frozen=True)
class Setting:
    """Which accounts have keys of their own, and what the first answers."""

    keyed: dict[str, bool]
    first: Reply
    clients: bool = False
    accounts: dict[str, dict[str, Any]] = field(default_factory=dict)
    routes: list[dict[str, Any]] | None = None
    home: Callable[[Kind], str] = lambda kind: "one"


def good(_quoted: bytes) -> tuple[bytes, str]:
    return answer(), "keep"


def plainly(status: bytes) -> Reply:
    return lambda _: (answer(b'{"error": {"message": "no", "code": "no"}}', status=status), "keep")


def elsewhere(_quoted: bytes) -> tuple[bytes, str]:
    """Fail so that the next target is asked at once, and never the same again."""
    return answer(b"<html>", status=b"503 Busy", kind=b"text/html"), "keep"


DATED = {"dialect": "azure", "api_version": "2024-10-21"}
SETTINGS = {
    "keyed": Setting({"one": True}, good),
    "keyed, azure": Setting({"one": True}, good, accounts={"one": DATED}),
    "passing": Setting({"one": False}, good),
    "passing, azure": Setting({"one": False}, good, accounts={"one": {"dialect": "azure"}}),
    "keyed, then keyed": Setting({"one": True, "two": True}, elsewhere),
    "keyed, then passing": Setting({"one": True, "two": False}, elsewhere),
    "passing, then keyed": Setting({"one": False, "two": True}, elsewhere),
    "two passing": Setting({"one": False, "two": False}, elsewhere),
    "two passing, another name for one place": Setting(
        {"one": False, "two": False}, elsewhere, accounts={"two": {"domain": "one"}}
    ),
    "clients, keyed": Setting({"one": True}, good, clients=True),
    "clients, passing": Setting({"one": False}, good, clients=True),
    "clients, passing, azure": Setting({"one": False}, good, clients=True, accounts={"one": {"dialect": "azure"}}),
    "clients, passing, then keyed": Setting({"one": False, "two": True}, elsewhere, clients=True),
    "clients, keyed, then passing": Setting({"one": True, "two": False}, elsewhere, clients=True),
    "passing at home, keyed for models": Setting(
        {"one": False, "two": True},
        good,
        accounts={"two": {"dialect": "openai"}},
        routes=[{"name": "chat", "match": {"models": ["gpt-4o"]}, "targets": ["two"]}],
        home=lambda kind: "two" if kind.model else "one",
    ),
    "keyed at home, passing for models": Setting(
        {"one": True, "two": False},
        good,
        routes=[{"name": "chat", "match": {"models": ["gpt-4o"]}, "targets": ["two"]}],
        home=lambda kind: "two" if kind.model else "one",
    ),
}


def expected(setting: Setting, kind: Kind, carrier: Carrier) -> tuple[set[str], dict[str, set[str]]]:
    """Return who is asked, and who reads which canary."""
    home = kind.direct or setting.home(kind)
    if home not in setting.keyed or (setting.clients and not carrier.presented):
        return set(), {}
    passes = not setting.clients and not setting.keyed[home]
    stays = passes or kind.direct or not kind.inference or setting.routes or setting.first is good
    asked = {home} if stays else set(setting.keyed)
    told = {OWN[name]: {name} for name in asked if setting.keyed[name]}
    if passes:
        told |= {canary: {home} for canary in (*carrier.canaries, *BELONGINGS)}
    return asked, told


def known_clients() -> list[dict[str, Any]]:
    keys = sorted({carrier.presented for carrier in CARRIERS.values() if carrier.presented})
    return [{"name": f"team{i}", "key": f"sha256:{hashlib.sha256(key.encode()).hexdigest()}"} for i, key in enumerate(keys)]


@uvloop_only
@pytest.mark.parametrize("setting", SETTINGS)
async def test_a_clients_key_is_read_by_whom_it_was_meant_for_and_by_nobody_else(setting):
    now = SETTINGS[setting]
    replies = {name: now.first if name == "one" else good for name in now.keyed}
    accounts = {name: {"keyed": keyed, **now.accounts.get(name, {})} for name, keyed in now.keyed.items()}
    clients = known_clients() if now.clients else None
    found, wanted = {}, {}
    async with stage(replies, accounts, clients=clients, routes=now.routes) as there:
        for (how, carrier), (what, kind) in itertools.product(CARRIERS.items(), KINDS.items()):
            await there.tell(kind.request(carrier))
            found[how, what] = there.asked, await there.told()
            wanted[how, what] = expected(now, kind, carrier)
            there.forget()
    assert {case: got for case, got in found.items() if got != wanted[case]} == {}


RARE = {
    "?API-KEY": Carrier(query=f"API-KEY={C}"),
    "?subscription-key": Carrier(query=f"subscription-key={C}"),
    "Ocp-Apim-Subscription-Key": Carrier((f"Ocp-Apim-Subscription-Key: {C}",)),
    "Sec-WebSocket-Protocol": Carrier((f"Sec-WebSocket-Protocol: realtime, openai-insecure-api-key.{C}",)),
}
"""Azure reads the names of its query in any case, API Management has carriers of its own, and browsers can send no header but one."""


@uvloop_only
@pytest.mark.parametrize("carrier", RARE)
async def test_a_key_that_comes_a_rare_way_goes_to_no_second_provider_and_past_no_clients(carrier):
    request = Kind(b"POST", CHAT, BODY, lines=(b"Authorization: Bearer canary-team",)).request(RARE[carrier])
    async with stage({"one": elsewhere, "two": good}, {"one": {"keyed": False}}) as there:
        await there.tell(request)
        assert (await there.told()).get(C, set()) <= {"one"}
    accounts = {"one": {}, "two": {"keyed": False}}
    async with stage({"one": elsewhere, "two": good}, accounts, clients=[{"name": "team", "key": "canary-team"}]) as there:
        await there.tell(request)
        assert there.asked == {"one", "two"}
        assert await there.told() == {OWN["one"]: {"one"}}
    without = Kind(b"POST", CHAT, BODY).request(RARE[carrier])
    async with stage({"one": elsewhere, "two": good}, {"one": {"keyed": False}}) as there:
        await there.tell(without)
        assert (await there.told()).get(C, set()) <= {"one"}


CREDENTIAL = b'{"error": {"message": "Incorrect API key", "type": "invalid_request_error", "code": "invalid_api_key"}}'


def silence(_quoted: bytes) -> tuple[bytes, str]:
    return b"", "hold"


FAILURES: dict[str, Reply | None] = {
    "401": lambda _: (answer(CREDENTIAL, status=b"401 Unauthorized"), "keep"),
    "403": plainly(b"403 Forbidden"),
    "429": plainly(b"429 Too Many Requests"),
    "500": plainly(b"500 Oops"),
    "503": plainly(b"503 Busy"),
    "page": lambda _: (answer(b"<html>", status=b"502 Bad Gateway", kind=b"text/html"), "keep"),
    "nobody there": None,
    "reset": lambda _: (b"", "reset"),
    "closed": lambda _: (b"", "close"),
    "no HTTP": lambda _: (b"220 smtp ready\r\n\r\n", "close"),
    "cut answer": lambda _: (answer()[:-5], "close"),
    "cut stream": lambda _: (SSE + chunked(ROLE, delta(content="a"), end=False), "reset"),
    "cut before content": lambda _: (SSE + chunked(ROLE, end=False), "close"),
    "error event": lambda _: (SSE + chunked(event({"error": {"message": "no", "code": "server_error"}})), "keep"),
    "silence": silence,
}


@moved_time
@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("second", ["keyed", "passing"])
async def test_however_the_first_provider_fails_the_key_that_was_meant_for_it_goes_to_no_other(failure, second):
    accounts = {"one": {"keyed": False}, "two": {"keyed": second == "keyed"}}
    policy = {**BRISK, "timeouts": {"first_token": "5s", "answer": "5s"}}
    async with stage({"one": FAILURES[failure], "two": good}, accounts, policy=policy) as there:
        for body in (BODY, STREAM_BODY):
            await there.tell(post(CHAT, body, b"Authorization: Bearer " + C.encode(), CLOSE))
            told = await there.told()
            assert told == ({C: {"one"}} if FAILURES[failure] else {})
            assert there.asked <= {"one"}
            there.forget()


# -- what a provider quotes -----------------------------------------------------------------------------------------------------


def error(status: bytes, code: str = "unlucky", *lines: bytes, template: str = "Refused: {}", kind: str = "error") -> Reply:
    """Quote the credential in the sentence of an error."""

    def reply(quoted: bytes) -> tuple[bytes, str]:
        body = {"error": {"message": template.format(quoted.decode()), "type": kind, "code": code}}
        return answer(json.dumps(body).encode(), *lines, status=status), "keep"

    return reply


def code(status: bytes) -> Reply:
    """Quote a key that begins as keys do, where the name of the error belongs."""
    return lambda quoted: (answer(b'{"error": {"message": "no", "code": "sk-%b"}}' % quoted, status=status), "keep")


def page(status: bytes) -> Reply:
    return lambda quoted: (answer(b"<html>" + quoted, status=status, kind=b"text/html"), "keep")


def with_line(line: bytes, status: bytes = b"200 OK", body: bytes = ANSWER) -> Reply:
    return lambda quoted: (answer(body, line % (quoted or b"-"), status=status), "keep")


def streamed(*events: Callable[[str], bytes], then: str = "keep") -> Reply:
    def reply(quoted: bytes) -> tuple[bytes, str]:
        return SSE + chunked(*(make(quoted.decode()) for make in events), end=then == "keep"), then

    return reply


def says(code: str) -> Callable[[str], bytes]:
    return lambda quoted: event({"error": {"message": f"Refused: {quoted}", "code": code, "type": "error"}})


def always(raw: bytes) -> Callable[[str], bytes]:
    return lambda _: raw


WORD = delta(content="word")
NO = b'{"error": {"message": "no", "code": "no"}}'
QUOTES: dict[str, Reply] = {
    "400": error(b"400 Bad Request"),
    "400, key refused": error(b"400 Bad Request", "API_KEY_INVALID", template="API key not valid: {}"),
    "400, too long": error(b"400 Bad Request", "context_length_exceeded"),
    "400, policy": error(b"400 Bad Request", "content_policy_violation"),
    "401": error(b"401 Unauthorized", "invalid_api_key", template="Incorrect API key provided: {}."),
    "401, scope": error(b"401 Unauthorized", "", template="Missing scopes: model.request. You may use a restricted API key: {}"),
    "402": error(b"402 Payment Required"),
    "403": error(b"403 Forbidden"),
    "404": error(b"404 Not Found"),
    "404, model": error(b"404 Not Found", "model_not_found", template="The key {} does not have access to it."),
    "409": error(b"409 Conflict"),
    "422": error(b"422 Unprocessable"),
    "429": error(b"429 Too Many Requests", "rate_limit_exceeded", template="Rate limit reached for key {}"),
    "429, wallet": error(b"429 Too Many Requests", "insufficient_quota"),
    "500": error(b"500 Oops"),
    "503": error(b"503 Busy"),
    "529": error(b"529 Overloaded", "overloaded_error"),
    "400, in the code": code(b"400 Bad Request"),
    "500, in the code": code(b"500 Oops"),
    "500, text": lambda quoted: (answer(b"panic: " + quoted, status=b"500 Oops", kind=b"text/plain"), "keep"),
    "400, page": page(b"400 Bad Request"),
    "401, page": page(b"401 Unauthorized"),
    "404, page": page(b"404 Not Found"),
    "502, page": page(b"502 Bad Gateway"),
    "200, page": page(b"200 OK"),
    "302": lambda quoted: (answer(b"", b"Location: https://h/?key=" + quoted.replace(b" ", b","), status=b"302 Found"), "keep"),
    "header of a good answer": with_line(b"x-debug: Bearer %b"),
    "header of a 400": with_line(b"x-debug: Bearer %b", b"400 Bad Request", NO),
    "header of a 500": with_line(b"x-debug: Bearer %b", b"500 Oops", NO),
    "header of a 401": with_line(b'WWW-Authenticate: Bearer error="%b"', b"401 Unauthorized", NO),
    "cookie": with_line(b"Set-Cookie: k=%b"),
    "reason phrase": lambda quoted: (answer(NO, status=b"400 No " + quoted), "keep"),
    "reason phrase of a good answer": lambda quoted: (answer(status=b"200 OK " + quoted), "keep"),
    "early hint": lambda quoted: (b"HTTP/1.1 103 Early Hints\r\nLink: <%b>\r\n\r\n" % quoted + answer(), "keep"),
    "trailer": lambda quoted: (SSE + chunked(ROLE, WORD, STOP, DONE)[:-2] + b"x-debug: %b\r\n\r\n" % quoted, "keep"),
    "good answer": lambda quoted: (answer(ANSWER[:-1] + b', "echo": "%b"}' % quoted), "keep"),
    "good text": lambda quoted: (answer(quoted, kind=b"text/plain"), "keep"),
    "error in a 200": error(b"200 OK", "server_error"),
    "refused key in a 200": error(b"200 OK", "invalid_api_key"),
    "error first in a stream": streamed(says("server_error")),
    "refused key first in a stream": streamed(says("invalid_api_key")),
    "error behind the role": streamed(always(ROLE), says("overloaded_error")),
    "error behind a word": streamed(always(ROLE + WORD), says("server_error")),
    "code behind a word": streamed(always(ROLE + WORD), lambda quoted: event({"error": {"message": "", "code": f"sk-{quoted}"}})),
    "comment in a stream": streamed(lambda quoted: f": {quoted}\n\n".encode(), always(ROLE + WORD + STOP + DONE)),
    "word in a stream": streamed(always(ROLE), lambda quoted: delta(content=quoted), always(STOP + DONE)),
    "half an event": streamed(always(ROLE + WORD), lambda quoted: f'data: {{"a": "{quoted}'.encode(), then="close"),
    "no HTTP": lambda quoted: (b"error: " + quoted + b"\r\n\r\n", "close"),
    "bad header": lambda quoted: (b"HTTP/1.1 200 OK\r\nbad " + quoted + b"\r\n\r\n", "close"),
    "bad length": lambda quoted: (b"HTTP/1.1 200 OK\r\nContent-Length: " + quoted + b"\r\n\r\n", "close"),
    "cut 401": lambda quoted: (error(b"401 Unauthorized", "invalid_api_key")(quoted)[0][:-2], "close"),
    "cut 400": lambda quoted: (error(b"400 Bad Request")(quoted)[0][:-2], "close"),
    "cut answer": lambda quoted: (answer(ANSWER[:-1] + b', "echo": "%b"}' % quoted)[:-2], "close"),
}
ASKED = {
    "chat": post(CHAT, BODY, b"Authorization: Bearer " + C.encode(), CLOSE),
    "stream": post(CHAT, STREAM_BODY, b"Authorization: Bearer " + C.encode(), CLOSE),
    "files": get(b"/v1/files", b"Authorization: Bearer " + C.encode(), CLOSE),
    "upload": post(b"/v1/files", b"x" * 10, b"Authorization: Bearer " + C.encode(), CLOSE),
}


GOOD = {
    "header of a good answer",
    "cookie",
    "reason phrase of a good answer",
    "good answer",
    "good text",
    "comment in a stream",
    "word in a stream",
    "half an event",
    "cut answer",
}
"""What a model answers is the client's, byte for byte (law 4), and is not searched: to the provider, the key is nobody's secret."""
UNREAD = {
    "200, page",
    "error in a 200",
    "refused key in a 200",
    "error first in a stream",
    "refused key first in a stream",
    "error behind the role",
    "error behind a word",
    "code behind a word",
}
"""Errors only to those who ask a model: elsewhere any 2xx may be what the client asked for, and nobody reads it."""
BENCHED_S = 24 * 3600.0


async def overheard(quote: Reply, accounts: dict[str, dict[str, Any]], allowed: dict[str, set[str]], **more: Any) -> list[str]:
    """Return what was read by somebody who may not, when every provider quotes what it was sent."""
    leaks = []
    async with stage(dict.fromkeys(accounts, quote), accounts, **more) as there:
        for name, request in ASKED.items():
            await there.tell(request)
            assert there.asked, "nobody was asked"
            # A refused key is given a rest, and the next request shall be asked with it too.
            skip(BENCHED_S)
            told = await there.told()
            leaks += [f"{name}: {canary} at {who}" for canary in told for who in sorted(told[canary] - allowed.get(canary, set()))]
            there.forget()
    return leaks


@moved_time
@pytest.mark.parametrize("quote", sorted(set(QUOTES) - GOOD))
async def test_our_key_never_reaches_a_client_however_its_provider_quotes_it(quote):
    allowed = {OWN["one"]: {"one"}, OWN["two"]: {"two"}}
    leaks = await overheard(QUOTES[quote], {"one": {}}, allowed)
    leaks += await overheard(QUOTES[quote], {"one": {}, "two": {}}, allowed)
    clients = [{"name": "team", "key": C}]
    leaks += await overheard(QUOTES[quote], {"one": {}, "two": {"keyed": False}}, allowed, clients=clients)
    assert not [leak for leak in leaks if quote not in UNREAD or leak.startswith(("chat", "stream"))]


@moved_time
@pytest.mark.parametrize("quote", QUOTES)
async def test_a_passed_key_that_its_provider_quotes_is_told_to_its_client_alone(quote):
    allowed = {C: {"one", "client"}}
    leaks = await overheard(QUOTES[quote], {"one": {"keyed": False}}, allowed)
    leaks += await overheard(QUOTES[quote], {"one": {"keyed": False}, "two": {}}, allowed)
    assert not leaks


@moved_time
@pytest.mark.parametrize("quote", ["401", "403", "401, page", "refused key in a 200"])
async def test_a_key_in_a_configured_header_is_ours_too(quote):
    accounts = {"one": {"keyed": False, "headers": {"x-api-key": "canary-own-header"}}}
    leaks = await overheard(QUOTES[quote], accounts, {C: {"one", "client"}, "canary-own-header": {"one"}})
    assert not [leak for leak in leaks if quote not in UNREAD or leak.startswith(("chat", "stream"))]


# -- our own keys ---------------------------------------------------------------------------------------------------------------


@uvloop_only
@pytest.mark.parametrize("asked", ["chat", "stream"])
async def test_of_two_keys_the_second_serves_when_the_first_is_refused_and_neither_shows(asked):
    def picky(quoted: bytes) -> tuple[bytes, str]:
        return QUOTES["401"](quoted) if b"canary-first" in quoted else good(quoted)

    async with stage({"one": picky}, {"one": {"api_key": ["canary-first", "canary-second"]}}) as there:
        for wanted in ({"canary-first", "canary-second"}, {"canary-second"}):
            assert b" 200 " in (await there.tell(ASKED["chat" if asked == "stream" else asked]))[:16]
            assert await there.told() == {canary: {"one"} for canary in wanted}
            there.forget()


@moved_time
async def test_a_key_from_a_file_is_read_anew_and_the_old_one_is_gone(tmp_path):
    file = tmp_path / "key"
    file.write_text("canary-old\n")

    def picky(quoted: bytes) -> tuple[bytes, str]:
        return QUOTES["401"](quoted) if b"canary-old" in quoted else good(quoted)

    async with stage({"one": picky}, {"one": {"api_key": f"file:{file}"}}) as there:
        assert b" 503 " in (await there.tell(ASKED["chat"]))[:16]
        assert await there.told() == {"canary-old": {"one"}}
        there.forget()
        file.write_text("canary-new-one\n")
        key = there.gateway.snapshot.providers["one"].credentials[0]
        async with asyncio.timeout(PATIENCE_S):
            while key.reveal() == "canary-old":
                skip(0.6)
                await turns(5)
        assert b" 200 " in (await there.tell(ASKED["chat"]))[:16]
        assert await there.told() == {"canary-new-one": {"one"}}


PROXIED: dict[str, Reply] = {
    "good": good,
    "refused behind it": QUOTES["header of a 401"],
    "refused by the proxy": lambda _: (answer(NO, b"Proxy-Authenticate: Basic", status=b"407 Proxy Authentication"), "keep"),
    "nobody behind it": lambda _: (answer(b"<html>no", status=b"502 Bad Gateway", kind=b"text/html"), "keep"),
    "reset": lambda _: (b"", "reset"),
}


@moved_time
@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("how", PROXIED)
async def test_a_proxys_password_is_read_by_the_proxy_alone(how, scheme):
    async with stage({"one": PROXIED[how]}) as proxy:
        port = proxy.gateway.snapshot.providers["one"].origin.port
        more = {"base_url": f"{scheme}://provider.invalid/v1", "proxy": f"http://user:canary-proxy-password@127.0.0.1:{port}"}
        async with stage({"two": None}, {"two": more}) as there:
            await there.tell(ASKED["chat"])
            assert await there.told() == {}
        reached = {OWN["two"]: {"one"}} if scheme == "http" else {}
        assert readers({"one": bytes(proxy._read["one"])}) == {"canary-proxy-password": {"one"}, **reached}


# -- what goes wrong here -------------------------------------------------------------------------------------------------------


CRASHES = {
    "reading the address": (admission_module, "read_target"),
    "authenticating": (Callers, "authenticate"),
    "reading the body": (admission_module, "read_json"),
    "keeping the body": (RequestBody, "feed"),
    "choosing candidates": (admission_module.Intake, "_candidates"),
    "finding the client's key": (admission_module, "client_key"),
    "making the driver": (admission_module, "Driver"),
    "deciding": (Exchange, "start"),
    "sending": (Driver, "_send"),
    "rendering the head": (request_module, "upstream_head"),
    "reading the head": (Answer, "_read_head"),
    "judging": (OpenAI, "classify"),
    "reading an event": (ChatStream, "read"),
    "writing the head": (Delivery, "_head"),
}


@pytest.mark.interpreted
@uvloop_only
@pytest.mark.parametrize("crash", CRASHES)
async def test_a_traceback_shows_no_key(crash):
    owner, name = CRASHES[crash]
    real = getattr(owner, name)
    wrecked = 0

    def wreck(*arguments: Any, **more: Any) -> Any:
        nonlocal wrecked
        wrecked += 1
        if wrecked > 1:
            return real(*arguments, **more)
        raise LookupError(name)

    reply = QUOTES["error first in a stream"] if crash == "reading an event" else QUOTES["401"]
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: loop.default_exception_handler(context))
    async with stage({"one": reply}, {"one": {"keyed": crash != "finding the client's key"}}) as there:
        with mock.patch.object(owner, name, wreck):
            await there.tell(ASKED["stream"])
        assert wrecked
        assert any(b"Traceback" in line and b"LookupError" in line for line in there._log.lines)
        told = await there.told()
    assert told.keys() <= {OWN["one"], C}
    assert told.get(OWN["one"], set()) <= {"one"}
    assert told.get(C, set()) <= ({"one"} if crash == "finding the client's key" else set())


AUTHORIZED = b"Authorization: Bearer " + C.encode()
MALFORMED = {
    "control byte in the key": get(b"/v1/models", AUTHORIZED + b"\x01"),
    "folded key": get(b"/v1/models", b"Authorization: Bearer\r\n " + C.encode()),
    "no colon": get(b"/v1/models", b"Authorization Bearer " + C.encode()),
    "space before the colon": get(b"/v1/models", b"Authorization : Bearer " + C.encode()),
    "bare line feed": get(b"/v1/models", AUTHORIZED + b"\nx: y"),
    "two lengths": post(CHAT, BODY, AUTHORIZED, b"Content-Length: 5"),
    "both framings": post(CHAT, BODY, AUTHORIZED, b"Transfer-Encoding: chunked"),
    "too large": get(b"/v1/models", AUTHORIZED + b"x" * 70_000),
    "too many": get(b"/v1/models", AUTHORIZED, *[b"x: y"] * 200),
    "too long an address": get(b"/v1/models?key=" + C.encode() + b"x" * 20_000),
    "userinfo": get(b"http://user:" + C.encode() + b"@gateway/v1/models"),
    "fragment": get(b"/v1/models?key=" + C.encode() + b"#x"),
    "unknown version": b"GET /v1/models?key=" + C.encode() + b" HTTP/2.0\r\nHost: gateway\r\n\r\n",
    "trace": get(b"/v1/models", AUTHORIZED, method=b"TRACE"),
    "connect": get(b"provider:443", AUTHORIZED, method=b"CONNECT"),
    "upgrade": get(b"/v1/realtime?api-key=" + C.encode(), AUTHORIZED, b"Connection: upgrade", b"Upgrade: websocket"),
    "expectation": post(CHAT, BODY, AUTHORIZED, b"Expect: " + C.encode()),
    "bad JSON": post(CHAT, b'{"model": "gpt-4o", "model": "' + C.encode() + b'"}', AUTHORIZED, CLOSE),
    "bad patience": post(CHAT, BODY, AUTHORIZED, b"x-gateway-timeout: " + C.encode(), CLOSE),
    "bad chunk": post(CHAT, C.encode() + b"\r\n", AUTHORIZED, b"Transfer-Encoding: chunked", length=False),
    "no HTTP": C.encode() + b"\r\n\r\n",
}


@uvloop_only
@pytest.mark.parametrize("how", MALFORMED)
async def test_a_request_that_is_refused_shows_no_key(how):
    async with stage({"one": good}) as there:
        response = await there.tell(MALFORMED[how])
        assert response[9:10] in b"45"
        assert not there.asked
        assert await there.told() == {}


@uvloop_only
async def test_a_stranger_is_refused_without_a_word_of_what_it_showed():
    async with stage({"one": good}, clients=[{"name": "team", "key": "canary-team"}]) as there:
        for carrier in CARRIERS.values():
            for kind in KINDS.values():
                assert b" 401 " in (await there.tell(kind.request(carrier)))[:16]
        assert not there.asked
        assert await there.told() == {}


@uvloop_only
async def test_two_clients_of_one_provider_never_share_a_key():
    """Heads that differ in nothing but the key, over one connection and over several."""
    keys = [b"canary-client-%d" % number for number in range(5)]
    got: list[bytes] = []

    def listen(quoted: bytes) -> tuple[bytes, str]:
        got.append(quoted)
        return answer(ANSWER, b"x-echo: " + quoted), "keep"

    async with stage({"one": listen}, {"one": {"keyed": False}}) as there:
        clients = [await there.connect() for _ in range(2)]
        for turn in range(4):
            for client, key in [(client, key) for client in clients for key in keys]:
                client.send(post(CHAT, BODY + b" " * turn, b"Authorization: Bearer " + key))
                response = await client.response()
                assert response.get(b"x-echo") == key
    assert got == keys * 8


def test_a_reading_is_searched_in_every_spelling():
    """The tests above find nothing only because there is nothing."""
    userinfo = b"Basic dXNlcjpjYW5hcnktcHJveHktcGFzc3dvcmQ="
    assert readers({"a": b"xCANARY-own-onex", "b": b"Bearer canary-own-one\r\n", "c": userinfo}) == {
        "canary-own-onex": {"a"},
        "canary-own-one": {"b"},
        "canary-proxy-password": {"c"},
    }
