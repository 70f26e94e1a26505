"""What the admin port shows."""

from __future__ import annotations

import json


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
