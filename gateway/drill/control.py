"""Commands to a simulated provider from other processes, under `/_drill/` on its own port.

Apart from the provider because none of this is part of what it simulates: these requests leave no trace in its ledger, and no fault
touches them.

`PUT /_drill/faults` (a JSON list) and `DELETE /_drill/faults` · `GET /_drill/ledger?after=N` and `DELETE /_drill/ledger` ·
`POST /_drill/refuse?for_ms=N`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
from aiohttp import web

from gateway.drill.faults import Fault, SpecError, as_fault

if TYPE_CHECKING:
    from gateway.drill.provider import SimulatedProvider


async def control(provider: SimulatedProvider, request: web.BaseRequest) -> web.Response:
    """Carry out one command: 200 with a JSON object, 400 for what cannot be understood, 404 for what does not exist."""
    try:
        match request.method, request.path:
            case "PUT", "/_drill/faults":
                provider.faults.set(*_faults(await request.read()))
                return _said({"faults": [fault.kind for fault in provider.faults.faults]})
            case "DELETE", "/_drill/faults":
                provider.faults.clear()
                return _said({"faults": []})
            case "GET", "/_drill/ledger":
                after = _number(request, "after", 0)
                entries = [entry.as_json() for entry in provider.ledger if entry.number > after]
                ledger = provider.ledger
                sums = {"received": ledger.received, "inflight": ledger.inflight, "most_inflight": ledger.most_inflight}
                return _said({"provider": provider.name, "now_s": provider.now(), **sums, "entries": entries})
            case "DELETE", "/_drill/ledger":
                provider.ledger.clear()
                return _said({"entries": []})
            case "POST", "/_drill/refuse":
                for_ms = _number(request, "for_ms", None)
                await provider.refuse_for(for_ms / 1000, spare=request.transport)
                answer = _said({"refusing_for_ms": for_ms})
                answer.force_close()
                return answer
            case _:
                return _said({"error": f"no {request.method} {request.path} here"}, 404)
    except (SpecError, orjson.JSONDecodeError) as wrong:
        return _said({"error": str(wrong)}, 400)


def _faults(body: bytes) -> list[Fault]:
    specs = orjson.loads(body)
    if not isinstance(specs, list):
        raise SpecError("faults are a JSON list")
    return [as_fault(spec) for spec in specs]


def _number(request: web.BaseRequest, name: str, default: int | None) -> int:
    text = request.query.get(name)
    if text is None and default is not None:
        return default
    if text is None or not text.isascii() or not text.isdigit():
        raise SpecError(f"{name} is {text!r}, not a whole number")
    return int(text)


def _said(value: dict[str, Any], status: int = 200) -> web.Response:
    return web.Response(status=status, body=orjson.dumps(value), content_type="application/json")
