"""The pure matcher of classification tables: what an error answer says, and the first rule that fits it.

Classification is data (law 3). A dialect reduces an answer to `ErrorFacts` and owns a table of `Rule`s; the order of the table is
its meaning, and its last rule takes everything. Nothing here knows a provider, a status code or a message.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gateway.core.verdicts import Fault, Scope


@dataclass(frozen=True, slots=True)
class ErrorFacts:
    """An error answer, reduced to what rules may look at."""

    status: int
    """HTTP status; for an error inside a 200, the one that its code stands for."""
    names: frozenset[str] = frozenset()
    """Everything the error calls itself (code, type, inner code, reason), in lower case."""
    message: str = ""
    """The sentence for humans, shortened."""
    html: bool = False
    """A page instead of an API answer."""
    shaped: bool = False
    """The body has a recognised error shape."""
    oversize: bool = False
    """The message says that this request exceeds the whole limit, so that waiting cannot help."""
    stated_delay: bool = False
    """The provider said when to come back."""
    own_key: bool = True
    """The credential was ours, not one passed through from the client."""
    body: bytes = b""
    """The answer's body, or its first part, as it came."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of a table. A condition that is None (or empty) holds for every answer; the others must all hold."""

    fault: Fault | None
    """None: a good answer."""
    statuses: tuple[tuple[int, int], ...] = ()
    """Ranges, both ends included."""
    names: frozenset[str] = frozenset()
    """Any of these names, in lower case."""
    text: re.Pattern[str] | None = None
    """Searched in the message. Messages may echo what a client sent, so patterns for faults that hurt others are anchored."""
    html: bool | None = None
    shaped: bool | None = None
    oversize: bool | None = None
    stated_delay: bool | None = None
    own_key: bool | None = None
    body: re.Pattern[bytes] | None = None
    """Searched in the body as it came; for rules that operators write."""
    code: str = ""
    """Replaces the provider's own code in the verdict."""
    waits: bool = True
    """False: a stated delay is void, because waiting cannot help."""
    retry_same: bool = True
    ambiguous: bool = False
    """The provider may have done the work."""
    scope: Scope | None = None
    """Whose failure it is, where not the fault's usual."""
    quick: bool = False
    """One quick try at the same target is worth it."""

    def fits(self, facts: ErrorFacts) -> bool:
        """Whether all conditions hold."""
        return (
            (not self.statuses or any(low <= facts.status <= high for low, high in self.statuses))
            and (not self.names or not self.names.isdisjoint(facts.names))
            and (self.html is None or self.html == facts.html)
            and (self.shaped is None or self.shaped == facts.shaped)
            and (self.oversize is None or self.oversize == facts.oversize)
            and (self.stated_delay is None or self.stated_delay == facts.stated_delay)
            and (self.own_key is None or self.own_key == facts.own_key)
            and (self.text is None or self.text.search(facts.message) is not None)
            and (self.body is None or self.body.search(facts.body) is not None)
        )


EVERYTHING_ELSE: Final = Rule(Fault.UNKNOWN)
"""Used where a table ends without an answer."""


def match(facts: ErrorFacts, rules: Sequence[Rule]) -> Rule:
    """Return the first rule that fits, or `EVERYTHING_ELSE`."""
    for rule in rules:
        if rule.fits(facts):
            return rule
    return EVERYTHING_ELSE
