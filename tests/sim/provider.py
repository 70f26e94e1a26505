"""A simulated provider in memory: its keys, its weather, its load.

What it does is drawn from its weather, by dice that belong to the client and the occasion, so that one client's doings never change
what another meets.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.core.matcher import Rule
from tests.sim.clock import BEGIN_S
from tests.sim.ledger import FOREVER, Desk, Visit
from tests.sim.plays import ANSWERS, MODEL_CALLS, MODELS_ONLY, Step, play


def everything(_visit: Visit) -> bool:
    """Falls on every request."""
    return True


@dataclass(frozen=True, slots=True)
class Spell:
    """Weather for a while, in seconds since the beginning: trouble by its share of requests; the rest is well."""

    start_s: float
    end_s: float
    mix: dict[str, float]
    covers: Callable[[Visit], bool] = everything
    """Whom it falls on."""


class SimulatedProvider:
    """One provider: its keys, its weather, its ledger."""

    def __init__(
        self,
        name: str,
        *,
        azure: bool = False,
        keys: Sequence[str] = (),
        weather: Sequence[Spell] = (),
        base_per_s: float = FOREVER,
        errors: tuple[Rule, ...] = (),
        prefill: str = "continues",
        counts: bool = False,
    ) -> None:
        self.name = name
        self.azure = azure
        self.keys = tuple(keys)
        """Ours; empty: it takes the client's own, which are good unless they say otherwise."""
        self.weather = tuple(weather)
        self.base_per_s = base_per_s
        """Requests a second it can bear; beyond a tenth more it answers 502 (a crash loop under retry load)."""
        self.errors = errors
        """What the operator of the gateway says about its errors."""
        self.prefill = prefill
        """What it does about an answer that was begun for it: `continues`, `refuses` (400) or `ignores`."""
        self.counts = counts
        """It tells the usage beside every piece of a chat stream, where it is asked for it at all."""
        self._recent: list[float] = []
        self._asked_before: dict[str, int] = {}

    def receive(self, desk: Desk, head: bytes, body: bytes) -> Visit:
        """Enter a request into the ledger and decide what to do about it."""
        line, *rest = head.decode("latin-1").split("\r\n")
        method, path, _ = line.split(" ")
        fields = {name.lower(): value for name, _, value in (entry.partition(": ") for entry in rest if entry)}
        key = fields.get("api-key" if self.azure else "authorization", "").removeprefix("Bearer ")
        client = fields["x-sim-client"]
        document = json.loads(body) if body.startswith(b"{") else {}
        visit = Visit(
            number=len(desk.visits) + 1,
            provider=self.name,
            client=client,
            key=key,
            model=_model(path, document),
            method=method,
            path=path.partition("?")[0],
            raw=head + body,
            started_at=desk.loop.time(),
            started_seq=desk.next(),
            nth=self._asked_before.get(client, 0) + 1,
            prefill=_prefill(document),
            continues=self.prefill == "continues",
            counts=self.counts,
        )
        desk.visits.append(visit)
        self._asked_before[client] = visit.nth
        visit.trouble = self._trouble(visit, body, self._dice(desk, visit, "weather"))
        if visit.prefill is not None and self.prefill == "refuses" and visit.trouble in ANSWERS:
            visit.trouble = "no_prefill"
        desk.tell(client, f"{visit.tag} is asked for {visit.model or visit.path} with {key or 'no key'}; weather: {visit.trouble}")
        return visit

    def steps(self, desk: Desk, visit: Visit, body: bytes, connect_s: float) -> Iterable[Step]:
        """Return what the provider will do, in order; each step is asked for when the one before is done."""
        return list(play(visit, body, self._dice(desk, visit, "steps"), connect_s))

    def _dice(self, desk: Desk, visit: Visit, purpose: str) -> random.Random:
        return random.Random(f"{desk.seed}/{self.name}/{visit.client}/{visit.nth}/{purpose}")

    def _trouble(self, visit: Visit, body: bytes, dice: random.Random) -> str:
        # The client's own doing comes first: it says so in its request.
        if b'"temperature":9' in body:
            return "400"
        if b'"max_tokens":150000' in body and visit.model != "gpt-4.1":
            return "context"
        if "wrong" in visit.key or (self.keys and visit.key not in self.keys):
            return "401"
        if "limited" in visit.key:
            return "rate_soon"
        now = visit.started_at
        if self.base_per_s < FOREVER:
            self._recent = [at for at in self._recent if at > now - 10.0]
            self._recent.append(now)
            if len(self._recent) > self.base_per_s * 11.0:
                return "502"
        for spell in self.weather:
            if spell.start_s <= now - BEGIN_S < spell.end_s and spell.covers(visit):
                drawn = dice.random()
                for trouble, share in spell.mix.items():
                    drawn -= share
                    if drawn < 0:
                        return "ok" if trouble in MODELS_ONLY and not visit.path.endswith(MODEL_CALLS) else trouble
                return "ok"
        return "ok"


def _model(path: str, document: dict[str, Any]) -> str:
    if "/deployments/" in path:
        return path.split("/")[3]
    model = document.get("model", "")
    return model if isinstance(model, str) else ""


def _prefill(document: dict[str, Any]) -> str | None:
    turns = document.get("messages") or document.get("input")
    last = turns[-1] if isinstance(turns, list) and turns else None
    return str(last["content"]) if isinstance(last, dict) and last.get("role") == "assistant" else None
