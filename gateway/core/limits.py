"""What a provider has said about one of its limits, as it was said.

Dialects read it from answers and from the texts of refusals; what follows from it is decided in `core.quota`. Apart from both,
because verdicts carry it too: the core must know the word, and not how anybody spells it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # `plan` builds on `verdicts`, which carries what is defined here.
    from gateway.core.plan import Resource


class Stated:
    """One limit, as stated by one answer. Never mutated: answers that say the same may share one."""

    __slots__ = ("limit", "period_s", "remaining", "reset_s", "resource")

    def __init__(
        self,
        resource: Resource,
        limit: float,
        remaining: float | None = None,
        reset_s: float | None = None,
        period_s: float | None = None,
    ) -> None:
        self.resource = resource
        self.limit = limit
        """So much per period; finite and more than 0."""
        self.remaining = remaining
        """What is left of it, 0 to `limit`; None where that was not said."""
        self.reset_s = reset_s
        """Seconds until all of it is there again, 0 to 86400; None where that was not said."""
        self.period_s = period_s
        """Seconds; None where it cannot be told: whoever knew it before goes on with that."""

    def __repr__(self) -> str:
        return f"<Stated {self.resource} {self.remaining}/{self.limit} per {self.period_s}s, whole in {self.reset_s}s>"
