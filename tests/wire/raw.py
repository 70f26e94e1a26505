"""Sockets without manners: a client that sends any bytes and reads answers strictly, and a service that notes what it was told."""

import asyncio
import contextlib
import re
import socket
import struct
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from gateway.config.snapshot import ServerPlan
from gateway.core.message import RequestHead
from gateway.egress.sink import Sink
from gateway.ingress.http1 import Server

PATIENCE_S = 20.0
"""When a test that waits for something gives up; nothing here waits for time to pass."""
TEXT = [b"Content-Type: text/plain\r\n"]


@dataclass
class Response:
    """One response as it came, its body without framing; `whole` is False where its framing was cut short."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes = b""
    whole: bool = True
    interim: list[int] = field(default_factory=list)

    def get(self, name: bytes) -> bytes | None:
        values = [value for key, value in self.headers if key.lower() == name]
        assert len(values) < 2, f"{name!r} more than once: {values}"
        return values[0] if values else None


class Client:
    """One TCP connection to a server, byte for byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.sock: socket.socket = writer.get_extra_info("socket")

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    def half_close(self) -> None:
        self.writer.write_eof()

    async def response(self, *, head: bool = False) -> Response:
        """Read the next final response, framed as RFC 9112 section 6.3 says, or fail; `head`: it answers a HEAD."""
        interim = []
        async with asyncio.timeout(PATIENCE_S):
            while True:
                block = (await self.reader.readuntil(b"\r\n\r\n"))[:-4].split(b"\r\n")
                line = re.fullmatch(rb"HTTP/1\.1 ([1-5][0-9][0-9]) [ -~]*", block[0])
                assert line, block[0]
                fields = [re.fullmatch(rb"([!-9;-~]+):[ \t]*(.*?)[ \t]*", each) for each in block[1:]]
                assert all(fields), block
                response = Response(int(line[1]), [each.groups() for each in fields], interim=interim)
                if response.status >= 200:
                    break
                interim.append(response.status)
            await self._body(response, head=head)
        return response

    async def _body(self, response: Response, *, head: bool) -> None:
        length, coding = response.get(b"content-length"), response.get(b"transfer-encoding")
        assert length is None or coding is None
        if head or response.status in {204, 304}:
            return
        try:
            if length is not None:
                response.body = await self.reader.readexactly(int(length))
            elif coding is not None:
                assert coding == b"chunked"
                size = -1
                while size:
                    line = await self.reader.readuntil(b"\r\n")
                    assert re.fullmatch(rb"[0-9a-f]+\r\n", line), line
                    size = int(line, 16)
                    chunk = await self.reader.readexactly(size + 2)
                    assert chunk.endswith(b"\r\n")
                    response.body += chunk[:-2]
            else:
                while more := await self.reader.read(65536):
                    response.body += more
        except (asyncio.IncompleteReadError, ConnectionResetError):
            response.whole = False

    async def rest(self) -> bytes:
        """Read until the server closes; a reset counts as closed."""
        got = b""
        async with asyncio.timeout(PATIENCE_S):
            with contextlib.suppress(ConnectionResetError):
                while more := await self.reader.read(65536):
                    got += more
        return got

    def reset(self) -> None:
        """Close with RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


class Exchange:
    """A `Source` that notes what it is told."""

    def __init__(self, recorder: "Recorder", head: RequestHead, sink: Sink) -> None:
        self.recorder = recorder
        self.head = head
        self.sink = sink
        self.body = b""
        self.events: list[str] = []

    def _note(self, event: str) -> None:
        assert "gone" not in self.events, f"{event} after gone"
        self.events.append(event)

    def data(self, chunk: bytes) -> None:
        assert chunk
        self._note("data")
        self.body += chunk
        self.recorder.on_data(self)
        self.recorder.stir()

    def end_of_body(self) -> None:
        self._note("end")
        self.recorder.on_end(self)
        self.recorder.stir()

    def blocked(self) -> None:
        self._note("blocked")
        self.recorder.stir()

    def unblocked(self) -> None:
        self._note("unblocked")
        self.recorder.stir()

    def gone(self) -> None:
        self._note("gone")
        self.recorder.stir()

    def answer(self, body: bytes = b"", status: int = 200) -> None:
        self.sink.open(status, b"OK", TEXT, length=len(body))
        if body:
            self.sink.write(body)
        self.sink.end()


class Recorder:
    """A service that notes every request, and answers as the test says: by default, the body it got."""

    def __init__(self) -> None:
        self.seen: list[Exchange] = []
        self.on_begin: Callable[[Exchange], None] = lambda exchange: None
        self.on_data: Callable[[Exchange], None] = lambda exchange: None
        self.on_end: Callable[[Exchange], None] = lambda exchange: exchange.answer(exchange.body)
        self._stirred: list[asyncio.Future[None]] = []

    def begin(self, head: RequestHead, sink: Sink) -> Exchange:
        exchange = Exchange(self, head, sink)
        self.seen.append(exchange)
        self.on_begin(exchange)
        self.stir()
        return exchange

    def stir(self) -> None:
        stirred, self._stirred = self._stirred, []
        for each in stirred:
            if not each.done():
                each.set_result(None)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until the condition holds; looked at after everything that happens to the service."""
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                stirred = asyncio.get_running_loop().create_future()
                self._stirred.append(stirred)
                await stirred

    @property
    def targets(self) -> list[bytes]:
        return [exchange.head.target for exchange in self.seen]


class Bench:
    """A server, the service behind it, and the clients that came."""

    def __init__(self, server: Server, service: Recorder, address: tuple[str, int]) -> None:
        self.server = server
        self.service = service
        self.address = address
        self.clients: list[Client] = []

    async def connect(self, *, receive_buffer: int | None = None) -> Client:
        sock = socket.socket()
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, self.address)
        except OSError:
            sock.close()
            raise
        client = Client(*await asyncio.open_connection(sock=sock, limit=2**16))
        self.clients.append(client)
        return client

    def later(self, seconds: float) -> None:
        """Sweep as if so many seconds had passed."""
        self.server.sweep(asyncio.get_running_loop().time() + seconds)

    async def echo(self, client: Client, target: bytes = b"/still-here") -> None:
        """Assert that the connection still serves requests."""
        client.send(b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\necho" % target)
        response = await client.response()
        assert (response.status, response.body) == (200, b"echo")
        assert self.service.targets[-1] == target


@contextlib.asynccontextmanager
async def served(plan: ServerPlan | None = None) -> AsyncIterator[Bench]:
    """Run a server on a free loopback port."""
    service = Recorder()
    server = Server(service, plan or ServerPlan(), asyncio.get_running_loop())
    [address] = await server.listen("127.0.0.1", 0)
    bench = Bench(server, service, address)
    try:
        yield bench
    finally:
        for client in bench.clients:
            await client.close()
        await server.close_listener()
        server.abort_all()
        await server.closed()
