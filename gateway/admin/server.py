"""The admin port: metrics, status, health, reload. On aiohttp, because nothing here is hot.

`/healthz` and `/readyz` answer without a token, since probes carry none and they tell nothing; everything else asks for it where
one is configured, which off loopback is always.
"""

from __future__ import annotations

import hmac
import logging

import orjson
from aiohttp import web
from aiohttp.http import HttpProcessingError
from aiohttp.typedefs import Handler

from gateway.admin.control import Control
from gateway.errors import ConfigError

_OPEN = frozenset({"/healthz", "/readyz"})


def _discreet(record: logging.LogRecord) -> bool:
    """Log nothing of a request that is not HTTP: aiohttp's sentence for it repeats the offending line, which may be the token's."""
    return record.exc_info is None or not isinstance(record.exc_info[1], HttpProcessingError)


_log = logging.getLogger("gateway.admin")
_log.addFilter(_discreet)


class AdminServer:
    """Serves the admin port until closed."""

    def __init__(self, control: Control) -> None:
        self._control = control
        app = web.Application(middlewares=[self._guard])
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/status.json", self._status)
        app.router.add_post("/admin/reload", self._reload)
        self._runner = web.AppRunner(app, access_log=None, logger=_log, handle_signals=False, shutdown_timeout=1.0)
        self.port = 0

    async def listen(self, host: str, port: int) -> None:
        """Listen; `port` 0 takes a free one. Raises OSError when the address cannot be bound."""
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def close(self) -> None:
        """Stop serving."""
        await self._runner.cleanup()

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        token = self._control.admin_token()
        if token is not None and request.path not in _OPEN:
            given = request.headers.get("Authorization", "").removeprefix("Bearer ")
            if not hmac.compare_digest(given.encode("utf-8", "surrogateescape"), token.encode()):
                return _json({"error": "the admin token is missing or wrong"}, status=401)
        try:
            return await handler(request)
        except web.HTTPException as answer:
            return _json({"error": answer.reason}, status=answer.status)

    async def _healthz(self, _request: web.Request) -> web.Response:
        return _json({"status": "alive"})

    async def _readyz(self, _request: web.Request) -> web.Response:
        return _json({"status": self._control.state}, status=200 if self._control.ready else 503)

    async def _metrics(self, _request: web.Request) -> web.Response:
        body, content_type = self._control.metrics()
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def _status(self, _request: web.Request) -> web.Response:
        return _json(self._control.status())

    async def _reload(self, _request: web.Request) -> web.Response:
        try:
            notes = self._control.reload()
        except ConfigError as error:
            return _json({"result": "rejected", "problems": [str(problem) for problem in error.problems]}, status=422)
        return _json({"result": "ok", "notes": notes})


def _json(document: object, *, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(document) + b"\n", status=status, content_type="application/json")
