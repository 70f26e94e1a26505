"""What the admin port shows."""

from __future__ import annotations

import hashlib
import json

from gateway.drill.faults import RateLimit
from tests.e2e.shapes import account, ask, config


async def test_the_status_shows_state_without_secrets(start, serve, sdk) -> None:
    """Providers with what the file says of them, live shares, connections; and no key."""
    provider = await start("primary", tokens=2)
    gateway = await serve(
        {
            "providers": {
                "primary": {
                    "dialect": "openai",
                    "base_url": provider.url,
                    "api_key": "canary-key",
                    "region": "eu",
                    "domain": "north",
                },
            },
            "routes": [{"name": "chat", "match": {}, "targets": ["primary"]}],
        },
    )
    await sdk(gateway).chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])
    status, text = await gateway.admin("/status.json")
    assert status == 200
    assert "canary-key" not in text
    document = json.loads(text)
    (shown,) = document["providers"]
    assert (shown["region"], shown["domain"], shown["share"]) == ("eu", "north", 1.0)
    assert shown["targets"] == [{"model": "m", "family": "chat", "share": 1.0}]
    assert document["connections"][0]["idle"] == 1


async def test_the_status_shows_limits_queues_and_what_clients_have_left(start, serve, sdk) -> None:
    """Of every source, by key and model; and no key of anybody's."""
    provider = await start("primary", tokens=2)
    provider.faults.set(RateLimit(requests=960, period_s=60))
    settings = config(provider)
    settings["providers"] = {
        "primary": account(
            provider, api_key=["canary-one", "canary-two"], queue={"depth": 7}, quota={"tokens": "64k/min", "concurrent": 5}
        )
    }
    digest = hashlib.sha256(b"sk-client").hexdigest()
    limits = {"requests": {"rate": "60/h", "burst": 10}}
    settings["clients"] = [
        {"name": "team", "key": f"sha256:{digest}", "priority": "interactive", "weight": 2, "limits": limits},
        {"name": "other", "key": f"sha256:{digest[::-1]}"},
    ]
    gateway = await serve(settings)
    await sdk(gateway).chat.completions.create(**ask(max_tokens=10))
    _, text = await gateway.admin("/status.json")
    assert not [secret for secret in ("canary", "sk-client", digest) if secret in text]
    document = json.loads(text)
    (shown,) = document["providers"][0]["limits"]
    assert (shown["model"], shown["promised"], shown["throttle_share"]) == ("gpt-4o", 0, 1.0)
    assert shown["queue"] == {"interactive": 0, "standard": 0, "batch": 0, "most": 7, "sick": False}
    used, unused = shown["keys"]
    assert [used["id"], unused["id"]] == [key["id"] for key in document["providers"][0]["credentials"]]
    told = {(limit["resource"], limit["source"]): limit for limit in used["limits"]}
    assert set(told) == {("tokens", "configured"), ("concurrent", "configured"), ("requests", "header")}
    stated = told["requests", "header"]
    assert (stated["limit"], stated["period_s"], stated["burst"]) == (960, 60, 960)
    assert 0 < stated["forgotten_in_s"] <= 300
    tokens = told["tokens", "configured"]
    assert (tokens["limit"], tokens["period_s"], tokens["burst"], tokens["forgotten_in_s"]) == (64_000, 60, 6400, None)
    assert {limit["source"] for limit in unused["limits"]} == {"configured"}
    assert told["concurrent", "configured"]["period_s"] is None
    assert document["providers"][0]["passed_through_keys"] == {"gates": 0, "queued": 0}
    team, other = document["clients"]
    assert (team["name"], team["priority"], team["weight"]) == ("team", "interactive", 2)
    assert [(limit["resource"], limit["burst"], round(limit["remaining"], 1)) for limit in team["limits"]] == [
        ("requests", 10, 9.0)
    ]
    assert (other["name"], other["limits"]) == ("other", [])
