"""Faults as data: their JSON form, their filters, and distributions that have the shape they claim."""

from __future__ import annotations

import random
import statistics
from typing import Any

import pytest

from gateway.drill.faults import (
    Bimodal,
    Call,
    Cut,
    Drip,
    Fault,
    Fixed,
    Html,
    Latency,
    LoadSensitive,
    LogNormal,
    Mix,
    Only,
    Oscillate,
    RateLimit,
    SpecError,
    Stall,
    Status,
    Uniform,
    as_delay,
    as_fault,
    share_of,
)


@pytest.mark.parametrize(
    ("spec", "fault"),
    [
        ({"kind": "status", "status": 503}, Status(503)),
        (
            {"kind": "status", "status": 429, "body": {"status": "come back later"}, "headers": [["retry-after", "2"], ["a", "b"]]},
            Status(429, {"status": "come back later"}, (("retry-after", "2"), ("a", "b"))),
        ),
        ({"kind": "status", "status": 500, "headers": {"a": "b"}}, Status(500, headers=(("a", "b"),))),
        ({"kind": "html", "probability": 1, "times": 3}, Html(times=3)),
        ({"kind": "latency", "delay": 2}, Latency(Fixed(2.0))),
        (
            {"kind": "latency", "delay": {"dist": "lognormal", "median_s": 1, "sigma": 2}, "before": "events"},
            Latency(LogNormal(1.0, 2.0), "events"),
        ),
        ({"kind": "stall", "after_events": 3, "for_s": None}, Stall(after_events=3)),
        ({"kind": "cut", "after_bytes": 10, "how": "rst", "billed": True}, Cut(after_bytes=10, how="rst", billed=True)),
        ({"kind": "drip", "only": {"family": "chat", "key_share": [0, 0.4]}}, Drip(only=Only(family="chat", key_share=(0.0, 0.4)))),
        ({"kind": "oscillate", "period_s": 5, "fault": {"kind": "html"}}, Oscillate(Html(), 5.0)),
        ({"kind": "load_sensitive", "base_per_s": 10, "fault": {"kind": "html"}}, LoadSensitive(Html(), 10.0)),
        (
            {"kind": "mix", "faults": [{"kind": "html"}, {"kind": "status", "status": 500}], "weights": [1, 2]},
            Mix((Html(), Status(500)), (1.0, 2.0)),
        ),
        ({"kind": "rate_limit", "requests": 10, "per": "key"}, RateLimit(10.0, per="key")),
    ],
)
def test_a_fault_can_be_said_in_json(spec: dict[str, Any], fault: Fault) -> None:
    assert as_fault(spec) == fault


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"kind": "statsu"}, "unknown kind 'statsu', did you mean 'status'?"),
        ({"kind": "status"}, "status needs 'status'"),
        ({"kind": "status", "status": "503"}, "status.status is a int, not '503'"),
        ({"kind": "status", "status": True}, "status.status is a int, not True"),
        ({"kind": "status", "status": 503, "probabilty": 1}, "status has no 'probabilty', did you mean 'probability'?"),
        ({"kind": "status", "status": 503, "probability": 1.5}, "probability is 1.5, not between 0 and 1"),
        ({"kind": "cut", "how": "badly"}, "cut.how is 'badly', not one of rst, close, clean"),
        ({"kind": "cut"}, "cut takes after_events or after_bytes, one of them"),
        ({"kind": "drip", "early": True}, "drip cannot be early: it shapes an answer that waits for the request's body"),
        ({"kind": "rate_limit"}, "rate_limit takes requests, tokens or both"),
        ({"kind": "mix", "faults": [], "weights": []}, "mix takes as many weights as faults, and at least one"),
        ({"kind": "latency", "delay": "fast"}, "a delay is a number of seconds or an object with `dist`, not 'fast'"),
        ({"kind": "html", "only": {"family": 3}}, "html.only.family is a str, not 3"),
        ({"kind": "html", "only": {"key_share": [0.1]}}, "html.only.key_share has 1 items, not 2"),
        (["html"], "a fault is an object with `kind`, not ['html']"),
    ],
)
def test_a_mistake_in_a_fault_says_what_would_do(spec: Any, message: str) -> None:
    with pytest.raises(SpecError) as raised:
        as_fault(spec)
    assert str(raised.value) == message


CALL = Call("POST", "/v1/chat/completions", "chat", "sk-1", "gpt-4o", stream=True)


@pytest.mark.parametrize(
    ("only", "takes"),
    [
        (Only(), True),
        (Only(family="chat", method="POST", stream=True, key="sk-1"), True),
        (Only(path="/v1/chat/*", model="gpt-4*"), True),
        (Only(family="responses"), False),
        (Only(path="/v1/models"), False),
        (Only(model="o1*"), False),
        (Only(stream=False), False),
        (Only(key="sk-2"), False),
        (Only(method="GET"), False),
    ],
)
def test_a_filter_takes_what_meets_every_condition(only: Only, takes: bool) -> None:
    assert only.takes(CALL) is takes


def test_a_share_of_keys_is_always_the_same_keys() -> None:
    keys = [f"sk-{number}" for number in range(2000)]
    low, high = Only(key_share=(0.0, 0.4)), Only(key_share=(0.4, 1.0))
    chosen = [key for key in keys if low.takes(Call("GET", "/", "other", key))]
    assert 700 < len(chosen) < 900
    assert not any(high.takes(Call("GET", "/", "other", key)) for key in chosen)
    assert 0.0 <= min(map(share_of, keys)) < max(map(share_of, keys)) < 1.0


def test_distributions_have_the_shape_they_claim() -> None:
    rng = random.Random(7)

    def sample(delay: Any) -> list[float]:
        return sorted(as_delay(delay).draw(rng) for _ in range(4000))

    assert set(sample(0.25)) == {0.25}
    uniform = sample(Uniform(1.0, 3.0))
    assert uniform[0] >= 1.0
    assert uniform[-1] <= 3.0
    assert statistics.mean(uniform) == pytest.approx(2.0, abs=0.05)
    lognormal = sample(LogNormal(0.4, 1.0))
    assert lognormal[2000] == pytest.approx(0.4, rel=0.1)
    assert lognormal[3960] == pytest.approx(0.4 * 10.24, rel=0.25)
    assert sample(Bimodal(0.1, 9.0, 0.1)).count(9.0) == pytest.approx(400, abs=80)
