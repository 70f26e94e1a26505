"""Law 12 in a real process: canary keys in every place that has one, a day of mishaps, and then a search of everything it said.

What each branch of the data plane may tell to whom is the matter of `wire`; here it is what only a process has: its pipes, its
environment, its admin port, its commands, and files that are read again while it runs.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import signal
from pathlib import Path
from typing import Any

import pytest

from gateway.config.describe import describe
from gateway.config.environment import starter_yaml
from gateway.config.load import load_text
from gateway.drill.faults import ErrorEvent, Html, Reset, Status
from gateway.errors import ConfigError
from tests.e2e.process import PATIENCE_S, Gateway, run
from tests.wire.canaries import readers
from tests.wire.plane import BODY, CHAT, STREAM_BODY, get, post

CLOSE = b"Connection: close"
TEAM = b"Authorization: Bearer canary-client-team"
BAGGAGE = (
    b"Cookie: s=canary-cookie",
    b"OpenAI-Organization: canary-org",
    b"x-api-key: canary-second-carrier",
    b"x-gateway-x: canary-x",
)


async def tell(port: int, request: bytes) -> bytes:
    """Send bytes to a port; return all that comes back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    async with asyncio.timeout(PATIENCE_S):
        writer.write(request)
        answer = await reader.read()
    writer.close()
    return answer


def arrived(provider: Any) -> bytes:
    """Everything that a simulated provider was sent."""
    lines = [f"{entry.method} {entry.target} {entry.headers}".encode() + (entry.body or b"") for entry in provider.ledger]
    return b"\n".join(lines)


async def looked_at(gateway: Gateway) -> dict[str, bytes]:
    """Read all that the admin port shows: with the token, with none, with a wrong one, and to what is no HTTP."""
    seen: dict[str, bytes] = {}
    for header in (b"Authorization: Bearer canary-admin-token", b"Authorization: Bearer canary-admin-wrong", b"x: y"):
        for path in (b"/metrics", b"/status.json", b"/healthz", b"/readyz", b"/nowhere", b"/status.json?token=canary-admin-token"):
            seen[f"admin {path!r} {header!r}"] = await tell(gateway.admin_port, get(path, header, CLOSE))
        for request in (get(b"/admin/reload", header, CLOSE), post(b"/admin/reload", b"", header, CLOSE)):
            seen[f"admin {request[:4]!r} {header!r}"] = await tell(gateway.admin_port, request)
    for number, line in enumerate(
        (b"Authorization: Bearer canary-admin-token\x01", b"Authorization Bearer canary-admin-token", b"x: \0")
    ):
        # What it answers to these repeats the sender's own line, to the sender.
        await tell(gateway.admin_port, get(b"/metrics?n=%d" % number, b"Authorization: Bearer canary-admin-token", line, CLOSE))
    return seen


SAID = {
    "refused": Status(
        401, {"error": {"message": "Incorrect API key provided: canary-own-primary", "code": "invalid_api_key"}}, times=1
    ),
    "page": Html(403, times=1),
    "reset": Reset(times=1),
    "event": ErrorEvent(payload={"error": {"message": "canary-own-primary", "code": "invalid_api_key"}}, times=1),
}


async def test_after_a_day_of_mishaps_no_key_is_anywhere_it_does_not_belong(start: Any, serve: Any, tmp_path: Path) -> None:
    primary, second = await start("primary", keep_bodies=True), await start("second", keep_bodies=True)
    file = tmp_path / "second-key"
    file.write_text("canary-own-second\n")
    digest = hashlib.sha256(b"canary-client-other").hexdigest()
    brisk = {"breaker": {"consecutive": 1000, "min_requests": 1000}}
    config = {
        "admin": {"token": "${GATEWAY_ADMIN_TOKEN}"},
        "clients": [{"name": "team", "key": "${TEAM_KEY}"}, {"name": "other", "key": f"sha256:{digest}"}],
        "providers": {
            "primary": {"dialect": "openai", "base_url": primary.url, "api_key": ["${FIRST_KEY}", "canary-own-spare"], **brisk},
            "second": {"dialect": "openai", "base_url": second.url, "api_key": f"file:{file}", **brisk},
        },
        "routes": [{"name": "all", "match": {}, "targets": ["primary", "second"]}],
        "policies": {"default": {"backoff": {"base": "1ms", "cap": "2ms"}}},
    }
    environ = {
        "FIRST_KEY": "canary-own-primary",
        "TEAM_KEY": "canary-client-team",
        "GATEWAY_ADMIN_TOKEN": "canary-admin-token",
        "OPENAI_API_KEY": "canary-unused",
    }
    gateway = await serve(config, environ=environ)
    asked = (
        post(CHAT, BODY, TEAM, *BAGGAGE, CLOSE),
        post(CHAT + b"?key=canary-in-query", STREAM_BODY, TEAM, *BAGGAGE, CLOSE),
        get(b"/v1/files?api-key=canary-in-query", b"api-key: canary-client-other", CLOSE),
        post(b"/v1/brand-new", b"{}", TEAM, *BAGGAGE, CLOSE),
        post(CHAT, BODY, b"Authorization: Bearer canary-stranger", CLOSE),
        get(b"/v1/models", TEAM + b"\x01"),
    )
    seen: dict[str, bytes] = {}
    statuses = set()
    for what in ("nothing", *SAID):
        if what in SAID:
            primary.faults.add(SAID[what])
        for number, request in enumerate(asked):
            seen[f"{what} {number}"] = answer = await tell(gateway.port, request)
            statuses.add(int(answer[9:12]))
    await primary.refuse()
    seen["refusing"] = await tell(gateway.port, asked[0])
    await primary.accept()
    assert statuses >= {200, 400, 401}

    file.write_text("canary-own-rotated\n")
    await gateway.process.err.saying("a key was read anew")
    await primary.refuse()
    seen["rotated"] = await tell(gateway.port, asked[0])

    seen |= await looked_at(gateway)
    good = gateway.config.read_text()
    await gateway.reconfigure(
        good.replace('"dialect": "openai"', '"dialect": "canary-own-primary"').replace("FIRST_KEY", "NOT_SET")
    )
    gateway.process.signal(signal.SIGHUP)
    await gateway.process.err.saying("reload rejected")
    seen |= {f"bad {name}": reading for name, reading in (await looked_at(gateway)).items()}
    await gateway.reconfigure(good)
    gateway.process.signal(signal.SIGHUP)
    await gateway.process.err.saying("reloaded: ")
    assert await gateway.stop() == 0
    lines = [json.loads(line) for line in gateway.process.out]
    assert len(lines) == len(asked) * (1 + len(SAID)) - (1 + len(SAID)) + 2, "one line for each request that was HTTP"

    seen |= {"stdout": gateway.process.out.text.encode(), "stderr": gateway.process.err.text.encode()}
    # The dialect that is none was written into the file by this test, in a place where nothing is taken for a secret.
    seen = {name: reading.replace(b"dialect: canary-own-primary", b"") for name, reading in seen.items()}
    assert readers(seen) == {}
    told = readers({"primary": arrived(primary), "second": arrived(second)})
    assert told == {
        "canary-own-primary": {"primary"},
        "canary-own-spare": {"primary"},
        "canary-own-second": {"second"},
        "canary-own-rotated": {"second"},
    }


async def test_a_passed_key_stays_with_its_provider_while_that_one_dies(start: Any, serve: Any) -> None:
    primary, second = await start("primary", keep_bodies=True), await start("second", keep_bodies=True)
    config = {
        "providers": {
            "primary": {"dialect": "openai", "base_url": primary.url},
            "second": {"dialect": "openai", "base_url": second.url, "api_key": "canary-own-second"},
        },
        "routes": [{"name": "all", "match": {}, "targets": ["primary", "second"]}],
        "policies": {"default": {"attempts": 2, "backoff": {"base": "1ms", "cap": "2ms"}}},
    }
    gateway = await serve(config)
    asked = [post(CHAT, body, TEAM, CLOSE) for body in (BODY, STREAM_BODY)]
    seen = {f"alive {number}": await tell(gateway.port, request) for number, request in enumerate(asked)}
    assert all(b" 200 " in answer[:16] for answer in seen.values())
    await primary.refuse()
    seen |= {f"dead {number}": await tell(gateway.port, request) for number, request in enumerate(asked)}
    for path in ("/metrics", "/status.json"):
        seen[path] = (await gateway.admin(path))[1].encode()
    assert await gateway.stop() == 0
    seen |= {"stdout": gateway.process.out.text.encode(), "stderr": gateway.process.err.text.encode()}
    assert readers(seen) == {}
    assert readers({"primary": arrived(primary), "second": arrived(second)}) == {"canary-client-team": {"primary"}}


ENVIRON = {"KEY": "canary-in-environment", "SPACED": "canary in-environment", "HTTPS_PROXY": "http://user:canary-in-proxy@proxy"}
MISPLACED = {
    "no space behind the colon": "{dialect: openai, base_url: https://h/v1, api_key:canary-a}",
    "no colon": "{dialect: openai, base_url: https://h/v1, api_key canary-a}",
    "a set of keys": "{dialect: openai, base_url: https://h/v1, api_key: {canary-a}}",
    "a mapping of keys": "{dialect: openai, base_url: https://h/v1, api_key: {canary-a: canary-b}}",
    "a list in a list": "{dialect: openai, base_url: https://h/v1, api_key: [[canary-a]]}",
    "a tag": "{dialect: openai, base_url: https://h/v1, api_key: !canary-a canary-b}",
    "an alias": "{dialect: openai, base_url: https://h/v1, api_key: *canary-a}",
    "half in quotes": "{dialect: openai, base_url: https://h/v1, api_key: 'canary-a' canary-b}",
    "twice": "{dialect: openai, base_url: https://h/v1, api_key: [canary-a, canary-a]}",
    "misspelt": "{dialect: openai, base_url: https://h/v1, api-key: canary-a}",
    "with a space": "{dialect: openai, base_url: https://h/v1, api_key: 'canary-a canary-b'}",
    "from the environment, with a space": "{dialect: openai, base_url: https://h/v1, api_key: '${SPACED}'}",
    "a name that is a key": "{dialect: openai, base_url: https://h/v1, api_key: '${canary-a}'}",
    "a file that is a key": "{dialect: openai, base_url: https://h/v1, api_key: 'file:canary-a'}",
    "userinfo": "{dialect: openai, base_url: 'https://user:canary-a@h/v1'}",
    "a query": "{dialect: openai, base_url: 'https://h/v1?key=canary-a'}",
    "the address itself": "{dialect: openai, base_url: canary-a}",
    "the address from the environment": "{dialect: openai, base_url: '${KEY}'}",
    "a header's name": "{dialect: openai, base_url: https://h/v1, headers: {'Bearer canary-a'}}",
    "a whole header as name": "{dialect: openai, base_url: https://h/v1, headers: {'x-key: canary-a': on}}",
    "a header of ours": "{dialect: openai, base_url: https://h/v1, headers: {authorization: Bearer canary-a}}",
    "a header with a line end": '{dialect: openai, base_url: https://h/v1, headers: {x-key: "canary-a\\r\\n"  , y: "canary-a\\n b"}}',
    "a proxy without a port": "{dialect: openai, base_url: https://h/v1, proxy: 'http://user:canary-a@proxy'}",
    "a proxy of the environment": "{dialect: openai, base_url: https://h/v1}",
    "a dialect from the environment": "{dialect: '${KEY}', base_url: https://h/v1}",
    "a region from the environment": "{dialect: openai, base_url: https://h/v1, region: '${SPACED}'}",
}


@pytest.mark.parametrize("where", MISPLACED)
def test_a_key_in_the_wrong_place_of_a_file_is_not_repeated(where: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_text(f"providers:\n  p: {MISPLACED[where]}\n", file="gateway.yaml", environ=ENVIRON)
    assert "gateway.yaml:2:" in str(caught.value) or "line 2" in str(caught.value)
    assert readers({"said": str(caught.value).encode(), "shown": repr(caught.value).encode()}) == {}
    assert "in-environment" not in str(caught.value)


def test_a_good_configuration_is_described_without_its_keys(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("canary-in-file")
    text = f"""
admin: {{token: canary-token}}
clients: [{{name: a, key: canary-client}}]
providers:
  p: {{dialect: openai, base_url: https://h/v1, api_key: ['${{KEY}}', canary-b, 'file:{file}'], headers: {{x-key: canary-c}}}}
  q: {{dialect: openai, base_url: https://h/v1, proxy: 'http://user:canary-d@proxy:1'}}
routes: [{{name: a, match: {{}}, targets: [p, q]}}]
"""
    snapshot = load_text(text, file="gateway.yaml", environ={"KEY": "canary-a"})
    assert [key.reveal() for key in snapshot.providers["p"].credentials] == ["canary-a", "canary-b", "canary-in-file"]
    shown = "\n".join((*describe(snapshot), repr(snapshot), str(snapshot), *map(repr, snapshot.providers.values())))
    assert readers({"shown": shown.encode()}) == {}


async def test_the_commands_print_no_key(tmp_path: Path) -> None:
    environ = {"OPENAI_API_KEY": "canary-a", "GROQ_API_KEY": "canary-b", "GATEWAY_ADMIN_TOKEN": "canary-token"}
    written = starter_yaml(environ)
    file = tmp_path / "gateway.yaml"
    file.write_text(written)
    seen = {"starter": written.encode()}
    for arguments in (("check", str(file)), ("init", "-"), ("health", "--config", str(file))):
        _, out, err = await run(*arguments, environ=environ)
        assert out or err
        seen[arguments[0]] = (out + err).encode()
    assert readers(seen) == {}
