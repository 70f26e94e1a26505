"""Providers, raw connections and SDK clients that end with their test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import openai
import pytest

from gateway.drill.provider import SimulatedProvider
from tests.drill.peers import PROMPT, RawPeer

Dial = Callable[[SimulatedProvider], Awaitable[RawPeer]]
Start = Callable[..., Awaitable[SimulatedProvider]]
SDK = Callable[..., openai.AsyncOpenAI]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Start a provider: `await start("primary", tokens=3)`."""
    running: list[SimulatedProvider] = []

    async def begin(name: str = "primary", **settings: Any) -> SimulatedProvider:
        provider = SimulatedProvider(name, **settings)
        await provider.start()
        running.append(provider)
        return provider

    yield begin
    for provider in running:
        await provider.stop()


@pytest.fixture
async def dial() -> AsyncIterator[Dial]:
    """Connect to a provider."""
    peers: list[RawPeer] = []

    async def connect(provider: SimulatedProvider) -> RawPeer:
        peers.append(RawPeer(*await asyncio.open_connection("127.0.0.1", provider.port)))
        return peers[-1]

    yield connect
    for peer in peers:
        peer.leave()
    await asyncio.sleep(0)


@pytest.fixture
async def sdk() -> AsyncIterator[SDK]:
    """The official SDK, without its own retries."""
    clients: list[openai.AsyncOpenAI] = []

    def connect(provider: SimulatedProvider, **settings: Any) -> openai.AsyncOpenAI:
        clients.append(
            openai.AsyncOpenAI(base_url=provider.url, api_key=settings.pop("api_key", "sk-test"), max_retries=0, **settings)
        )
        return clients[-1]

    yield connect
    for client in clients:
        await client.close()


@pytest.fixture
def prompt() -> list[dict[str, str]]:
    """The messages that `RawPeer.ask` sends."""
    return PROMPT
