"""Scripts read like an incident's time line, and a mistake in one names its step."""

from __future__ import annotations

import math

import pytest

from gateway.drill.faults import Html, Refuse, SpecError, Status
from gateway.drill.plan import Step
from gateway.drill.script import Script

TEXT = """
name: one bad afternoon
speed: 60
providers:
  openai:
    - {from: 0s, to: 4m, fault: {kind: html, status: 530}}
    - {from: 5m, to: 1.5h, ramp: [0, 0.9], fault: {kind: status, status: 503}}
    - {from: 2h, fault: {kind: status, status: 500, probability: 0.1}}
  azure:
    - {to: 500ms, fault: {kind: refuse}}
"""


def test_a_script_has_steps_for_each_provider_and_a_speed() -> None:
    openai, azure, other = (Script.parse(TEXT, provider=name) for name in ("openai", "azure", "other"))
    assert openai.steps == (
        Step(Html(530), 0.0, 4.0),
        Step(Status(503), 5.0, 90.0, (0.0, 0.9)),
        Step(Status(500, probability=0.1), 120.0, math.inf),
    )
    assert openai.length_s == 90.0
    assert azure.steps == (Step(Refuse(), 0.0, 0.5 / 60),)
    assert other.steps == ()
    assert Script.parse("steps: [{to: 1s, fault: {kind: html}}]").steps == (Step(Html(), 0.0, 1.0),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps: [{from: 4, fault: {kind: html}}]", "step 1: from is 4, not a duration with a unit, such as 90s or 4m"),
        ("steps: [{to: 1s, fault: {kind: html}}, {fault: {kind: htm}}]", "step 2: unknown kind 'htm', did you mean 'html'?"),
        ("steps: [{from: 5s, to: 2s, fault: {kind: html}}]", "step 1 ends before it begins"),
        ("steps: [{fault: {kind: refuse}}]", "step 1 needs `to`"),
        ("steps: [{to: 1s, ramp: [0, 2], fault: {kind: html}}]", "step 1: ramp is two probabilities, [from, to]"),
        ("steps: [{until: 1s, fault: {kind: html}}]", "step 1 has no 'until'; it has from, to, ramp and fault"),
        ("steps: [html]", "step 1 is an object with `fault`, and `from`, `to`, `ramp` if needed"),
        ("speed: 0\nsteps: []", "speed is 0, not a positive number"),
        ("sped: 2\nsteps: []", "a script has no 'sped'"),
        ("[]", "a script has `steps` or `providers`, one of them"),
        ("providers: [openai]", "providers is an object: a list of steps for each name"),
    ],
)
def test_a_mistake_names_its_step(text: str, message: str) -> None:
    with pytest.raises(SpecError) as raised:
        Script.parse(text)
    assert str(raised.value) == message


def test_what_is_not_yaml_is_said_to_be_none() -> None:
    with pytest.raises(SpecError, match="not YAML"):
        Script.parse("steps: [")
