"""A client that reads raw bytes: what aiohttp or an SDK would hide is what is tested."""

from __future__ import annotations

import asyncio
import json
from typing import Any

PROMPT = [{"role": "user", "content": "How long is a piece of string?"}]


class RawPeer:
    """One TCP connection; `received` is everything that came, `ended` how it ended: `fin`, `rst`, or None."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.received = b""
        self.ended: str | None = None

    def ask(
        self, path: str = "/v1/chat/completions", method: str = "POST", headers: dict[str, str] | None = None, **body: Any
    ) -> None:
        payload = json.dumps({"model": "gpt-4o", "messages": PROMPT, **body}).encode() if method == "POST" else b""
        lines = {"host": "x", "content-type": "application/json", "content-length": str(len(payload)), **(headers or {})}
        head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        self.writer.write(head.encode() + b"\r\n" + payload)

    async def until(self, mark: bytes) -> bytes:
        """Read until these bytes came."""
        while mark not in self.received:
            piece = await self.reader.read(65536)
            assert piece, self.received
            self.received += piece
        return self.received

    async def rest(self) -> bytes:
        """Read until the connection ends."""
        try:
            while piece := await self.reader.read(65536):
                self.received += piece
            self.ended = "fin"
        except ConnectionResetError:
            self.ended = "rst"
        return self.received

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Read one whole answer of known length."""
        head, _, _ = (await self.until(b"\r\n\r\n")).partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines[1:])}
        whole = len(head) + 4 + int(headers["content-length"])
        while len(self.received) < whole:
            piece = await self.reader.read(65536)
            assert piece, self.received
            self.received += piece
        body, self.received = self.received[len(head) + 4 : whole], self.received[whole:]
        return int(lines[0].split()[1]), headers, body

    def leave(self) -> None:
        self.writer.transport.abort()
