"""How much may be sent: the sections that say it, for accounts and for clients, and the plans they come to.

One law: limits hold together. A key may name one limit or a list of them, since accounts are checked over short windows beside the
long one (Azure over 1 to 10 s, Mistral by the second), and all of them hold at once, tokens beside input and output tokens too.
Separate from `schema` because clients and providers say the same things in the same words, and because a group of models that
share their limits is a rule of its own: the first group that takes a model counts, the account's other numbers are for the rest.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field

from gateway.config.section import Section
from gateway.config.units import Rate as Amount
from gateway.config.values import Glob, Name, Rate, as_list, count, short_for
from gateway.core.plan import GroupPlan, QuotaPlan, RatePlan, Resource


class RateLimit(Section):
    """How much per time, and how much of it at once."""

    rate: Rate = Field(description="Amount per period: 8/s, 600/min, 100/10s, 10k/h.", default=Amount(1, 1), validate_default=False)
    burst: Annotated[int, *count(1, 10**12)] | None = Field(
        description="How many may go at once; a tenth of the period's amount, at least 1, where it is not said.", default=None
    )

    @property
    def at_once(self) -> float:
        """The burst, said or not."""
        return self.rate.burst if self.burst is None else float(self.burst)


_Limit = Annotated[RateLimit, short_for("rate")]
_Several = Annotated[tuple[_Limit, ...], Field(min_length=1)]
_Limits = Annotated[_Several, BeforeValidator(as_list, json_schema_input_type=RateLimit | _Several)]
_ALL_HOLD: Final = "; one limit, or a list of them that all hold."

Requests = Annotated[_Limits | None, Field(description=f"Requests per time{_ALL_HOLD}")]
Tokens = Annotated[_Limits | None, Field(description=f"Tokens per time, input and output together{_ALL_HOLD}")]
InputTokens = Annotated[_Limits | None, Field(description=f"Input tokens per time{_ALL_HOLD}")]
OutputTokens = Annotated[_Limits | None, Field(description=f"Output tokens per time{_ALL_HOLD}")]
Concurrent = Annotated[
    Annotated[int, *count(1, 1_000_000)] | None, Field(description="Requests under way at the same time, at most.")
]


class ClientLimits(Section):
    """How much one client may send, to all models together."""

    requests: Requests = None
    tokens: Tokens = None
    concurrent: Concurrent = None


class Group(Section):
    """Models that share their limits."""

    name: Name = Field(description="Its name in metrics, where a model's would stand.", default="", validate_default=False)
    models: tuple[Glob, ...] = Field(
        description='The models in it, as patterns of the names that the provider knows them by; ["*"]: the account as a whole.',
        default=(),
        validate_default=False,
        min_length=1,
    )
    requests: Requests = None
    tokens: Tokens = None
    input_tokens: InputTokens = None
    output_tokens: OutputTokens = None
    concurrent: Concurrent = None


class Quota(Section):
    """What an account lets each of its keys send, to each model by itself."""

    requests: Requests = None
    tokens: Tokens = None
    input_tokens: InputTokens = None
    output_tokens: OutputTokens = None
    concurrent: Concurrent = None
    groups: tuple[Group, ...] = Field(
        description="Models that share their limits; the first group that takes a model counts, and the numbers outside the groups "
        "are for models in none. A provider's own list stands for itself: that of `provider_defaults` is not added to it.",
        default=(),
    )


def limits(section: ClientLimits | Group | Quota) -> dict[Resource, tuple[RateLimit, ...]]:
    """Return a section's rates by what they count; what it does not say is not there."""
    said: dict[Resource, Any] = {resource: getattr(section, resource, None) for resource in Resource}
    return {resource: rates for resource, rates in said.items() if resource is not Resource.CONCURRENT and rates is not None}


def quota_plan(section: ClientLimits | Group | Quota | None) -> QuotaPlan:
    """Return the plan of one set of limits; of None, the empty one."""
    if section is None:
        return QuotaPlan()
    return QuotaPlan(
        rates=tuple(
            RatePlan(resource, limit.rate.amount, limit.rate.period_s, limit.at_once)
            for resource, rates in limits(section).items()
            for limit in rates
        ),
        concurrent=section.concurrent,
    )


def group_plans(quota: Quota | None) -> tuple[GroupPlan, ...]:
    """Return the plans of a quota's groups, in their order."""
    return tuple(GroupPlan(group.name, group.models, quota_plan(group)) for group in (quota.groups if quota else ()))
