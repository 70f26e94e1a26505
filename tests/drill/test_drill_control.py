"""A provider commanded from another process, over its own port and by its command line."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from typing import Any

import httpx2
import pytest

from gateway.drill.faults import Stall


async def test_faults_are_set_and_cleared_over_http(start: Any, prompt: Any) -> None:
    provider = await start()
    ask = {"model": "gpt-4o", "messages": prompt}
    async with httpx2.AsyncClient(base_url=provider.origin) as client:
        specs = [{"kind": "status", "status": 529, "only": {"family": "chat"}}]
        assert (await client.put("/_drill/faults", json=specs)).json() == {"faults": ["status"]}
        assert (await client.post("/v1/chat/completions", json=ask)).status_code == 529
        assert (await client.get("/v1/models")).status_code == 200
        await client.delete("/_drill/faults")
        assert (await client.post("/v1/chat/completions", json=ask)).status_code == 200
    assert [entry.path for entry in provider.ledger] == ["/v1/chat/completions", "/v1/models", "/v1/chat/completions"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("PUT", "/_drill/faults", b"[", 400),
        ("PUT", "/_drill/faults", b"{}", 400),
        ("PUT", "/_drill/faults", b'[{"kind": "statsu"}]', 400),
        ("POST", "/_drill/refuse", b"", 400),
        ("POST", "/_drill/refuse?for_ms=soon", b"", 400),
        ("GET", "/_drill/nothing", b"", 404),
    ],
)
async def test_a_command_that_is_not_understood_changes_nothing(
    start: Any, method: str, path: str, body: bytes, status: int
) -> None:
    provider = await start()
    provider.faults.set(Stall())
    async with httpx2.AsyncClient(base_url=provider.origin) as client:
        answer = await client.request(method, path, content=body)
    assert answer.status_code == status
    assert answer.json()["error"]
    assert provider.faults.faults == [Stall()]
    assert not provider.refusing


async def test_the_ledger_can_be_read_and_cleared(start: Any, prompt: Any) -> None:
    provider = await start()
    async with httpx2.AsyncClient(base_url=provider.origin, headers={"authorization": "Bearer sk-secret"}) as client:
        for _ in range(3):
            await client.post("/v1/chat/completions", json={"model": "gpt-4o", "messages": prompt})
        whole = (await client.get("/_drill/ledger")).json()
        later = (await client.get("/_drill/ledger?after=2")).json()
        assert (await client.delete("/_drill/ledger")).status_code == 200
        empty = (await client.get("/_drill/ledger")).json()
    assert (whole["provider"], whole["received"], whole["inflight"], whole["most_inflight"]) == ("primary", 3, 0, 1)
    assert [entry["number"] for entry in whole["entries"]] == [1, 2, 3]
    assert [entry["number"] for entry in later["entries"]] == [3]
    entry = whole["entries"][0]
    assert (entry["end"], entry["status"], entry["billed"], entry["model"]) == ("answered", 200, True, "gpt-4o")
    assert "sk-secret" not in json.dumps(whole)
    assert (empty["entries"], empty["received"]) == ([], 3)


@pytest.mark.looptime
async def test_refusing_for_a_while(start: Any, dial: Any) -> None:
    provider = await start()
    peer, bystander = await dial(provider), await dial(provider)
    peer.ask("/_drill/refuse?for_ms=5000", headers={})
    received = await peer.rest()
    assert b'{"refusing_for_ms":5000}' in received
    assert await bystander.rest() == b""
    with pytest.raises(ConnectionRefusedError):
        await dial(provider)
    await asyncio.sleep(5.1)
    await dial(provider)


async def test_a_process_says_where_it_listens_and_stops_on_sigterm() -> None:
    faults = json.dumps([{"kind": "status", "status": 418, "times": 1}])
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway.drill.provider", "--name", "spare", "--key", "sk-1", "--model", "m1", "--faults", faults),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        said = json.loads(await process.stdout.readline())
        assert (said["name"], said["pid"], said["url"]) == ("spare", process.pid, f"http://127.0.0.1:{said['port']}/v1")
        async with httpx2.AsyncClient(base_url=said["url"], headers={"authorization": "Bearer sk-1"}) as client:
            assert (await client.get("/models")).status_code == 418
            assert [model["id"] for model in (await client.get("/models")).json()["data"]] == ["m1"]
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
