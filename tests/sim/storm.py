"""Storms: a world, its weather and its clients, all drawn from one seed.

Three providers: `alpha` is preferred and has two keys, `beta` stands in for it in Azure's dialect, `gamma` takes the clients' own
keys. While the storm lasts each of them goes through spells of trouble, drawn at random or taken from an outage that has happened;
afterwards all are well, requests trickle on for two minutes, and the last ones, `probe-…`, show whether everything has found its way
home.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
import re
from collections.abc import Callable, Sequence

from gateway.config.snapshot import Client as KnownClient
from gateway.core.matcher import Rule
from gateway.core.plan import BackoffPlan, Policy, Timeouts
from gateway.core.verdicts import Fault
from tests.sim import delivery
from tests.sim.client import Errand
from tests.sim.delivery import Delivery
from tests.sim.ledger import Visit
from tests.sim.provider import SimulatedProvider, Spell, everything
from tests.sim.world import Ways, World

STORM_S = 90.0
CALM_S = 130.0
EXCHANGES = 200
CALM_EVERY_S = 4.0
GATEWAY_KEY = "gw-canary-client-key"

ALPHA_KEYS = ("sk-canary-alpha-one", "sk-canary-alpha-two")
BETA_KEYS = ("canary-beta-one",)

WAYS: Ways = (
    (
        "chat",
        ("gpt-4o", "text-embedding-3-small"),
        (("alpha", None), ("beta", "gpt-4o-prod"), ("alpha", "gpt-4.1", Fault.CONTEXT_LENGTH)),
    ),
    ("solo", ("solo",), (("alpha", None),)),
    ("own", ("own",), (("gamma", None), ("alpha", None))),
)

TROUBLES: tuple[dict[str, float], ...] = (
    {"500": 0.5, "502": 0.2},
    {"500": 0.4, "500_final": 0.4},
    {"503": 0.95},
    {"503_later": 0.8},
    {"529": 0.6, "504": 0.2},
    {"refused": 0.9},
    {"connect_timeout": 0.6, "refused": 0.2},
    {"reset": 0.7},
    {"rate": 0.7, "rate_ms": 0.2},
    {"rate_soon": 0.5},
    {"rate_bare": 0.6},
    {"rate_false": 0.8},
    {"come_back": 1.0},
    {"html_502": 0.7, "html_403": 0.2},
    {"html_530": 1.0},
    {"html_200": 0.4},
    {"silent": 0.7},
    {"stall": 0.6},
    {"cut": 0.6},
    {"clean_end": 0.6},
    {"stream_error": 0.5, "late_error": 0.3},
    {"late_error": 0.6},
    {"error_200": 0.4, "no_stream": 0.3},
    {"slow": 0.7},
    {"drip": 0.3, "no_done": 0.3, "bare_done": 0.3},
    {"400": 0.4, "rate_bare": 0.15},
    {"400_drained": 0.7},
    {"404": 1.0},
    {"401": 1.0},
    {"500": 0.1, "reset": 0.1, "cut": 0.1, "rate": 0.1, "silent": 0.05, "clean_end": 0.1, "stream_error": 0.1, "late_error": 0.1},
)
"""What a provider goes through. A 401 for every request is the provider's failure, and over when it is over."""
BENCHING: tuple[dict[str, float], ...] = ({"401": 0.9}, {"billing": 0.5}, {"billing": 1.0}, {"403": 1.0})
"""These bench a key for a minute; a second time for two. So a provider gets one such spell, shorter than a minute."""
POOL_DRAINED = Rule(Fault.OVERLOADED, ((400, 400),), body=re.compile(rb"pool_drained"))
"""An operator who knows this provider's 400."""

MODELS = ("gpt-4o", "solo", "own", "gpt-4.1", "gpt-4o-prod", "text-embedding-3-small")


def storm(
    seed: int,
    *,
    exchanges: int = EXCHANGES,
    special: Callable[[random.Random], list[Spell]] | None = None,
    guarded: bool | None = None,
    deliver: Callable[[random.Random], Delivery] | None = None,
) -> tuple[World, list[Errand]]:
    """Return the world and the errands of this seed.

    Not left to chance, where they are given: what alpha goes through (`special`), whether clients authenticate (`guarded`), and how
    answers are delivered (`deliver`).
    """
    lot = random.Random(f"deliver/{seed}")
    way = deliver(lot) if deliver is not None else delivery.drawn(seed)
    dice = random.Random(f"storm/{seed}")
    drawn = dice.random() < 0.3
    guarded = drawn if guarded is None else guarded
    known = (KnownClient("app", hashlib.sha256(GATEWAY_KEY.encode()).digest()),) if guarded else None
    special = special or dice.choice((*SPECIALS, None, None, None, None))
    if way is not None and special is None:
        special = lot.choice((None, sluggish, breaking))
    alphas = special(dice) if special is not None else weather(dice)
    providers = (
        SimulatedProvider(
            "alpha", keys=ALPHA_KEYS, weather=alphas, base_per_s=dice.choice((1.5, 1e9, 1e9)), errors=(POOL_DRAINED,)
        ),
        SimulatedProvider("beta", azure=True, keys=BETA_KEYS, weather=weather(dice) if dice.random() < 0.5 else ()),
        SimulatedProvider("gamma", weather=weather(dice)),
    )
    policy = Policy(
        deadline_s=dice.choice((20.0, 40.0)),
        attempts=dice.choice((2, 3, 4, 4, 6)),
        timeouts=Timeouts(first_token_s=8.0, stall_s=6.0, answer_s=12.0, max_stream_s=25.0),
        backoff=BackoffPlan(base_s=0.2, cap_s=2.0),
        rate_limit_wait_s=dice.choice((0.0, 3.0)),
    )
    impatient = special is hanging
    if impatient:
        policy = dataclasses.replace(policy, timeouts=Timeouts(first_token_s=30.0, stall_s=20.0, answer_s=80.0, max_stream_s=90.0))
    for provider in providers if way is not None else ():
        provider.prefill = way.habits.get(provider.name, provider.prefill)
        provider.counts = provider.name in way.counts
    world = World(seed, providers, WAYS, policy=policy, clients=known, delivery=way)
    errands = [
        errand(dice, f"c{number}", dice.uniform(0.0, STORM_S), guarded=guarded, impatient=impatient) for number in range(exchanges)
    ]
    if way is not None:
        wishes = random.Random(f"wishes/{seed}")
        errands = [delivery.wish(each, wishes) for each in errands]
    return world, errands + calm(guarded=guarded)


def weather(dice: random.Random) -> list[Spell]:
    """Return a provider's spells: one after the other, or oscillating."""
    if dice.random() < 0.2:
        return oscillating(dice, dice.choice(TROUBLES))
    spells: list[Spell] = []
    at_s = dice.uniform(0.0, 20.0)
    may_bench = True
    while at_s < STORM_S:
        end_s = min(STORM_S, at_s + dice.uniform(5.0, 45.0))
        if may_bench and dice.random() < 0.15:
            mix, may_bench = dice.choice(BENCHING), False
        else:
            mix = dice.choice(TROUBLES)
        spells.append(Spell(at_s, end_s, mix, covers=_one_model(dice.choice(MODELS)) if dice.random() < 0.2 else everything))
        at_s = end_s + dice.uniform(0.0, 15.0)
    return spells


def oscillating(dice: random.Random, mix: dict[str, float] | None = None) -> list[Spell]:
    """2025-01-23, 2025-11-18: good and bad in turns."""
    every_s = dice.uniform(4.0, 15.0)
    mix = mix or dice.choice(({"502": 0.8}, {"html_502": 1.0}))
    return [Spell(at * every_s, (at + 1) * every_s, mix) for at in range(0, int(STORM_S / every_s), 2)]


def hanging(dice: random.Random) -> list[Spell]:
    """It accepts everything and answers nothing. The clients of such a storm are less patient than the policy."""
    return [Spell(dice.uniform(0.0, 15.0), dice.uniform(60.0, 80.0), {"silent": 1.0})]


def strange_400s(dice: random.Random) -> list[Spell]:
    """2026-03-09: one model answers 400 to a third of its requests, and 429 to some."""
    return [
        Spell(dice.uniform(30.0, 40.0), STORM_S, {"400": dice.choice((0.35, 0.7)), "rate_bare": 0.1}, covers=_one_model("gpt-4o"))
    ]


def no_rights(dice: random.Random) -> list[Spell]:
    """The keys may not use one of the models."""
    return [Spell(dice.uniform(0.0, 60.0), STORM_S, {"403": 1.0}, covers=_one_model(dice.choice(("gpt-4.1", "solo"))))]


def valid_keys_refused(dice: random.Random) -> list[Spell]:
    """2026-04-28: every key is refused for a while."""
    start_s = dice.uniform(0.0, 40.0)
    return [Spell(start_s, start_s + dice.uniform(10.0, 40.0), {"401": 1.0})]


def false_limits(dice: random.Random) -> list[Spell]:
    """2026-06-02: 429 while the headers say that there is quota left."""
    spells = [Spell(at, at + dice.uniform(2.0, 8.0), {"rate_false": 0.8}) for at in range(0, int(STORM_S), 15)]
    return [Spell(spell.start_s, spell.end_s, spell.mix, covers=_one_model("gpt-4o")) for spell in spells]


def accidents(_dice: random.Random) -> list[Spell]:
    """Now and then something goes wrong, as it does with providers that are well."""
    return [Spell(0.0, STORM_S, {"500": 0.04, "500_late": 0.04, "reset": 0.03, "refused": 0.03, "502": 0.02, "cut": 0.02})]


def two_of_its_models(dice: random.Random) -> list[Spell]:
    """Two models fail at once, one after the other recovers."""
    start_s, mix = dice.uniform(0.0, 40.0), dice.choice(({"500": 1.0}, {"503": 0.95}, {"cut": 1.0}))
    ends = dice.uniform(20.0, 45.0), dice.uniform(20.0, 45.0)
    return [
        Spell(start_s, start_s + ends[0], mix, covers=_one_model("gpt-4o")),
        Spell(start_s, start_s + ends[1], mix, covers=_one_model("solo")),
    ]


SPECIALS = (oscillating, hanging, strange_400s, no_rights, valid_keys_refused, false_limits, accidents, two_of_its_models)
"""What has happened to somebody, or happens every day."""


def sluggish(_dice: random.Random) -> list[Spell]:
    """It answers, but takes its time for every other request."""
    return [Spell(0.0, STORM_S, {"slow": 0.5})]


def breaking(_dice: random.Random) -> list[Spell]:
    """Every second answer breaks off, in one way or the other."""
    return [Spell(0.0, STORM_S, {"cut": 0.15, "late_error": 0.15, "clean_end": 0.1, "stall": 0.1})]


def _one_model(model: str) -> Callable[[Visit], bool]:
    return lambda visit: visit.model == model


def errand(dice: random.Random, name: str, at_s: float, *, guarded: bool, impatient: bool = False) -> Errand:
    """Return one client's request and manners."""
    kind = dice.random()
    key = GATEWAY_KEY if guarded else f"sk-client-{name}"
    lines = [(b"Authorization", b"Bearer " + key.encode())]
    manners: dict[str, object] = {}
    if impatient or dice.random() < 0.3:
        patience_s = dice.choice((12.0, 15.0) if impatient else (2.0, 6.0, 15.0, 600.0))
        lines.append((b"x-stainless-read-timeout", b"%d" % patience_s))
        manners["patience_s"] = patience_s
    if dice.random() < 0.1:
        lines.append((b"x-stainless-retry-count", b"1"))
        manners["already_retried"] = True
    if dice.random() < 0.1:
        manners["leaves_after_s"] = dice.uniform(0.01, 5.0)
    if dice.random() < 0.1:
        manners["leaves_at_chunk"] = dice.randint(1, 3)
    if dice.random() < 0.1:
        manners |= {"blocks_at_chunk": dice.randint(1, 3), "blocks_for_s": dice.choice((0.5, 9.0))}
    if kind < 0.08:
        return Errand(
            name, at_s, b"/v1/files/file-abc123", method=b"GET", lines=tuple(lines), pinned=True, homebound=True, **manners
        )
    if kind < 0.14:
        form = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n%b\r\n--b--\r\n' % (b"x" * 200)
        lines.append((b"Content-Type", b"multipart/form-data; boundary=b"))
        manners |= {"pieces": dice.randint(1, 4), "pinned": True, "homebound": True, "replayable": False}
        return Errand(name, at_s, b"/v1/files", form, lines=tuple(lines), **manners)
    lines.append((b"Content-Type", b"application/json"))
    model = dice.choice(("gpt-4o",) * 5 + ("solo",) * 2 + ("own",))
    if kind < 0.20:
        document = {"model": model, "input": "hi", "previous_response_id": "resp_9", "stream": dice.random() < 0.5}
        return _posted(name, at_s, b"/v1/responses", document, lines, manners, pinned=True)
    if kind < 0.30:
        return _posted(name, at_s, b"/v1/embeddings", {"model": "text-embedding-3-small", "input": "hi"}, lines, manners)
    if kind < 0.45:
        return _posted(name, at_s, b"/v1/responses", {"model": model, "input": "hi", "stream": True}, lines, manners)
    if kind < 0.50:
        return _posted(name, at_s, b"/v1/images/generations", {"model": model, "prompt": "hi", "stream": True}, lines, manners)
    document = {"model": model, "messages": [{"role": "user", "content": "hi"}], "stream": dice.random() < 0.6}
    if dice.random() < 0.08:
        document |= dice.choice(({"temperature": 9}, {"max_tokens": 150000}))
    return _posted(name, at_s, b"/v1/chat/completions", document, lines, manners)


def calm(*, guarded: bool) -> list[Errand]:
    """Return what comes after the storm: a trickle of well-behaved requests, the last of which are `probe-…`."""
    key = (GATEWAY_KEY if guarded else "sk-client-calm").encode()
    lines = [(b"Authorization", b"Bearer " + key), (b"Content-Type", b"application/json")]
    times = int(CALM_S / CALM_EVERY_S)
    calm = [_well_behaved(f"calm-{number}", STORM_S + number * CALM_EVERY_S, lines, number) for number in range(times)]
    return calm + [_well_behaved(f"probe-{number}", STORM_S + CALM_S + number, lines, number) for number in range(4)]


def _well_behaved(name: str, at_s: float, lines: list[tuple[bytes, bytes]], number: int) -> Errand:
    messages = [{"role": "user", "content": "hi"}]
    requests: Sequence[tuple[bytes, dict[str, object]]] = (
        (b"/v1/chat/completions", {"model": "gpt-4o", "messages": messages, "stream": True}),
        (b"/v1/chat/completions", {"model": "solo", "messages": messages}),
        (b"/v1/responses", {"model": "gpt-4o", "input": "hi", "stream": True}),
        (b"/v1/embeddings", {"model": "text-embedding-3-small", "input": "hi"}),
    )
    path, document = requests[number % len(requests)]
    return _posted(name, at_s, path, document, lines, {})


def _posted(
    name: str,
    at_s: float,
    path: bytes,
    document: dict[str, object],
    lines: list[tuple[bytes, bytes]],
    manners: dict[str, object],
    *,
    pinned: bool = False,
) -> Errand:
    body = json.dumps(document, separators=(",", ":")).encode()
    stream = document.get("stream") is True
    return Errand(name, at_s, path, body, lines=tuple(lines), stream=stream, pinned=pinned, **manners)
