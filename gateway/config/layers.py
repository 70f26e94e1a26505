"""Settings on top of settings: `provider_defaults` under each provider, `default` under each policy.

Layered key by key, down to the last section: a provider that sets its breaker's `open` keeps the defaults' `window`. Only what a
file says lies on top; what a section merely has by default does not cover what a lower layer says.
"""

from __future__ import annotations

from typing import Any, TypeVar

from gateway.config.schema import Configuration, Policy, Provider
from gateway.config.section import Section

S = TypeVar("S", bound=Section)


def layered(below: S, above: S) -> S:
    """Return `below` with everything that was said in `above` laid over it."""
    changes: dict[str, Any] = {}
    for key in above.model_fields_set:
        low, high = getattr(below, key), getattr(above, key)
        if isinstance(low, Section) and isinstance(high, Section):
            high = layered(low, high)
        elif isinstance(low, dict) and isinstance(high, dict):
            high = low | high
        changes[key] = high
    return below.model_copy(update=changes)


def providers(configuration: Configuration) -> dict[str, Provider]:
    """Return every provider with the defaults under it, in the file's order."""
    return {name: layered(configuration.provider_defaults, provider) for name, provider in configuration.providers.items()}


def policies(configuration: Configuration) -> dict[str, Policy]:
    """Return every policy with `default` under it, and `default` itself."""
    default = layered(Policy(), configuration.policies.get("default", Policy()))
    return {"default": default} | {name: layered(default, policy) for name, policy in configuration.policies.items()}
