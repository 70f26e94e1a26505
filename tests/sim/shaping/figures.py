"""What a run came to, read from the providers' books and from what the clients got."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from tests.sim.client import Client
from tests.sim.clock import BEGIN_S
from tests.sim.retrying import served
from tests.sim.shaping.account import Entry, LimitedProvider
from tests.sim.shaping.crowd import told_s, tries
from tests.sim.world import World


@dataclass(frozen=True, slots=True)
class Figures:
    """One run, over; times are seconds since its beginning, spans are half open."""

    name: str
    world: World
    provider: LimitedProvider
    seconds: float
    """How long clients kept coming."""

    # -- the provider's side --------------------------------------------------------------------------------------------------

    def entries(self, since_s: float = 0.0, until_s: float = math.inf) -> list[Entry]:
        """Return what arrived in this time."""
        return [entry for entry in self.provider.books if since_s <= entry.at_s < until_s]

    def refused(self, since_s: float = 0.0, until_s: float = math.inf) -> tuple[int, int]:
        """Return how many were refused of how many."""
        entries = self.entries(since_s, until_s)
        return sum(not entry.granted for entry in entries), len(entries)

    def used(self, since_s: float = 0.0, until_s: float | None = None) -> float:
        """Return the share of the scarcest limit that was used, of what was gained in that time."""
        until_s = self.seconds if until_s is None else until_s
        granted = [entry for entry in self.entries(since_s, until_s) if entry.granted]
        amounts = {"requests": float(len(granted)), "tokens": sum(entry.tokens for entry in granted)}
        gained = {meter.resource: meter.per_minute / 60.0 * (until_s - since_s) for meter in self.provider.meters}
        return max(amounts[resource] / gain for resource, gain in gained.items())

    def tokens_by(self, key: Callable[[Entry], str], since_s: float = 0.0, until_s: float = math.inf) -> Counter[str]:
        """Return the tokens that answers took, by whatever the entries are sorted by."""
        sums: Counter[str] = Counter()
        for entry in self.entries(since_s, until_s):
            sums[key(entry)] += round(entry.used)
        return sums

    def densest(self, window_s: float, since_s: float = 0.0, until_s: float = math.inf) -> int:
        """Return the most that arrived within so many seconds."""
        times = sorted(entry.at_s for entry in self.entries(since_s, until_s))
        first, most = 0, 0
        for last, at_s in enumerate(times):
            while times[first] <= at_s - window_s:
                first += 1
            most = max(most, last - first + 1)
        return most

    # -- the clients' side ----------------------------------------------------------------------------------------------------

    @property
    def clients(self) -> Iterable[Client]:
        """All of them, and all their returns."""
        return self.world.clients.values()

    def count(self, *statuses: int) -> int:
        """Return how many got one of these."""
        return sum(client.status in statuses for client in self.clients)

    def served(self) -> int:
        """Return how many got a whole, good answer."""
        return sum(served(client) for client in self.clients)

    def sent_back(self) -> tuple[int, int]:
        """Return how many that came back as they were told were not served, of how many."""
        back = [client for client in self.clients if tries(client)]
        return sum(not served(client) for client in back), len(back)

    def promised(self) -> int:
        """Return how many were told to come back."""
        return sum(told_s(client) is not None for client in self.clients)

    def idle_s(self, client: Client) -> float:
        """Return how long a client waited while no provider was busy with its request."""
        at, total = client.began_at, 0.0
        for visit in self.world.by_client()[client.errand.name]:
            total += max(0.0, visit.started_at - at)
            at = max(at, visit.closed_at)
        return total + max(0.0, client.done_at - at)

    def waits_s(self, owner: str | None = None, since_s: float = 0.0) -> list[float]:
        """Return these waits of those who were served, sorted."""
        return sorted(
            self.idle_s(client)
            for client in self.clients
            if served(client)
            and client.began_at - BEGIN_S >= since_s
            and (owner is None or client.errand.name.startswith(f"{owner}:"))
        )

    def overdue(self, queue_wait_s: float) -> list[str]:
        """Return those who waited past their own patience, or past what the queue may take."""
        return [
            client.errand.name
            for client in self.clients
            if self.idle_s(client) > queue_wait_s + SLACK_S or client.opened_at - client.began_at > patience_s(client) + SLACK_S
        ]


SLACK_S = 0.26
"""What a coarse timer may be late."""


def patience_s(client: Client) -> float:
    """Return what a client has said that it waits."""
    stated = dict(client.errand.lines).get(b"x-gateway-timeout")
    return math.inf if stated is None else float(stated)


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the value within which so many per cent are; of nothing, 0."""
    return values[math.ceil(len(values) * percent / 100.0) - 1] if values else 0.0


def jain(values: Iterable[float]) -> float:
    """Return Jain's index: 1 where all have the same, 1/n where one has everything."""
    shares = list(values)
    return sum(shares) ** 2 / (len(shares) * sum(share * share for share in shares))
