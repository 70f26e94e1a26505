"""What one key may do: parked by a rate limit, or benched because it was refused or is out of credit.

A hold has a scope (the whole key, or the key for one model) and an end. When the end has come, one request is the probe; until it
is answered the others stay away, so that a limit which still holds is not met by a herd. What a provider says of a key says nothing
about its target (law 7), which is why none of this is the breaker's.
"""

from __future__ import annotations

from typing import Final

MAX_HELD: Final = 4096
"""Models with a hold on one key, at most; beyond, all are forgotten, for clients choose the names (law 11)."""
MAX_PARK_S: Final = 60.0
FIRST_PARK_S: Final = 1.0
"""How long a rate limit without a stated delay keeps us away; doubles while it goes on."""
BENCH_S: Final = 60.0
MAX_BENCH_S: Final = 900.0
"""A benched key is tried again after a minute, then ever less often: an operator may have topped up the account."""
PARK_PROBE_S: Final = 2.0
BENCH_PROBE_S: Final = 10.0
"""A probe that has not been answered for so long is joined by another. A limit that still holds says so at once; a probe that is
not refused by then is merely a long answer, and nobody need wait for its end."""
LOOK_S: Final = 0.25
"""While a probe is under way, whoever waits for the key looks again after so long."""

WHOLE: Final = None
"""The scope of a hold that concerns the key whatever the model."""


class Hold:
    """Why a key is kept from use, and until when."""

    __slots__ = ("bench", "doubtful", "probe_until", "stated", "streak", "until")

    def __init__(self, *, bench: bool) -> None:
        self.bench = bench
        """Refused or out of credit, not merely at a limit."""
        self.until = 0.0
        self.streak = 0
        """How often in a row the end of the hold came too early."""
        self.stated = False
        """The provider named the delay."""
        self.doubtful = False
        """The refusal left quota, and named no delay: nobody need try first whether it is over."""
        self.probe_until = 0.0
        """The request that tests the key has until then; 0 where none is under way."""

    def usable_at(self, now: float) -> float:
        """Return from when on the key may be used, as far as can be told."""
        if now < self.until or now >= self.probe_until:
            return self.until
        return min(self.probe_until, now + LOOK_S)

    def renew(self, now: float, length_s: float) -> None:
        """Keep away for so long from now, or for longer if that was settled before."""
        self.until = max(self.until, now + length_s)
        self.probe_until = 0.0


class CredentialState:
    """One key, with the holds on it."""

    __slots__ = ("_benched", "_parked", "refused")

    def __init__(self) -> None:
        self._benched: dict[str | None, Hold] = {}
        self._parked: dict[str | None, Hold] = {}
        self.refused = False
        """The provider did not accept the key when it was last heard about it; being out of credit is something else."""

    @property
    def held(self) -> bool:
        """Whether anything is known against this key, be it over or not."""
        return bool(self._benched or self._parked)

    def usable_at(self, now: float, model: str) -> float:
        """Return from when on this key may be used for the model; 0, or a past moment, where nothing holds it back."""
        if not self.held:
            return 0.0
        return max((hold.usable_at(now) for hold in self._holds(model)), default=0.0)

    def benched(self, now: float, model: str | None = WHOLE) -> bool:
        """Whether the key is out of use as a whole, or for this model."""
        return any(hold.until > now for hold in self._holds(model) if hold.bench)

    def stated(self, now: float, model: str) -> bool:
        """Whether all that holds this key back is a time that the provider stated: such a wait is worth its while."""
        return all(hold.stated and hold.until > now for hold in self._holds(model) if hold.usable_at(now) > now)

    def take(self, now: float, model: str) -> float:
        """Note that a request with this key begins; return until when it is the probe of a hold that is over, 0 if it is none."""
        over = [hold for hold in self._holds(model) if hold.until <= now and hold.probe_until <= now and not hold.doubtful]
        if not over:
            return 0.0
        probe_until = now + (BENCH_PROBE_S if any(hold.bench for hold in over) else PARK_PROBE_S)
        for hold in over:
            hold.probe_until = probe_until
        return probe_until

    def let_go(self, model: str, probe_until: float) -> None:
        """The probe that has until `probe_until` ended without telling anything about the key."""
        for hold in self._holds(model):
            if hold.probe_until == probe_until:
                hold.probe_until = 0.0

    def park(self, now: float, model: str | None, delay_s: float | None, *, quota_left: bool = False) -> None:
        """Keep away for the stated delay, at most a minute; where none was stated for a second, which doubles while it goes on.

        A refusal that leaves quota is doubtful, and never keeps us away for longer than that second.
        """
        hold = self._hold(self._parked, model, bench=False)
        if now >= hold.until and not quota_left:
            # Only the first refusal after a pause says that the pause was too short; others were under way together with it.
            hold.streak += 1
        stated = delay_s is not None
        if delay_s is None:
            delay_s = FIRST_PARK_S if quota_left else FIRST_PARK_S * 2.0 ** max(0, min(hold.streak - 1, 6))
        delay_s = min(delay_s, MAX_PARK_S)
        if now + delay_s >= hold.until:
            # Not where an earlier refusal settled for longer: what is left of the delay is that one's.
            hold.stated = stated
            hold.doubtful = quota_left and not stated
        hold.renew(now, delay_s)

    def bench(self, now: float, model: str | None = WHOLE, *, refused: bool = True) -> None:
        """Take the key out of use, as a whole or for one model. Requests refused together count as one refusal."""
        if model is WHOLE:
            self.refused = refused
        hold = self._hold(self._benched, model, bench=True)
        if now >= hold.until:
            hold.renew(now, min(MAX_BENCH_S, BENCH_S * 2.0 ** min(hold.streak, 10)))
            hold.streak += 1

    def retry_at(self, at: float) -> None:
        """Test a key that is benched as a whole at this time, and not at the one settled before."""
        hold = self._benched.get(WHOLE)
        if hold is not None:
            hold.until, hold.probe_until = at, 0.0

    def forget(self) -> None:
        """All trouble is over: the key itself has changed."""
        self._benched.clear()
        self._parked.clear()
        self.refused = False

    def benched_for(self, now: float) -> float:
        """Return the seconds for which the key is still out of use as a whole."""
        hold = self._benched.get(WHOLE)
        return max(0.0, hold.until - now) if hold is not None else 0.0

    def served(self, model: str, began_at: float) -> None:
        """A request that began then was served with this key: trouble that had ended before it is over."""
        for holds in (self._benched, self._parked):
            for scope in (WHOLE, model):
                hold = holds.get(scope)
                if hold is not None and began_at >= hold.until:
                    del holds[scope]
                    if scope is WHOLE:
                        self.refused = False

    def _holds(self, model: str | None) -> list[Hold]:
        scopes = (WHOLE,) if model is WHOLE else (WHOLE, model)
        found = (holds.get(scope) for holds in (self._benched, self._parked) for scope in scopes)
        return [hold for hold in found if hold is not None]

    def _hold(self, holds: dict[str | None, Hold], scope: str | None, *, bench: bool) -> Hold:
        hold = holds.get(scope)
        if hold is None:
            if len(holds) >= MAX_HELD:
                holds.clear()
            hold = holds[scope] = Hold(bench=bench)
        return hold
