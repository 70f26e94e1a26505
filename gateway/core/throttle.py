"""Adaptive throttling on our side: in front of a provider that refuses most of what it gets, less is sent (law 8: elsewhere).

The formula is that of the SRE book ("Handling Overload", client-side throttling): of the requests of a window, `(requests - K *
accepts) / (requests + 1)` are held back. There `requests` counts those held back as well. Here it counts only what was sent: where
refusals do not depend on our load, every request held back would be a reason to hold back more, down to nothing. Counted so, the
share is a function of the provider's own behaviour and has no feedback. The price: against a provider of fixed capacity it settles
between the book's figure and no throttle: offered three times what it takes, 59 % is refused, against 50 and 67.

Requests are counted when they are sent, refusals in the time bucket their request was sent in, and what is still under way counts
as accepted: refusals come quickly and answers slowly, so that counting either when it comes makes slow answers look like refusals
(go-zero's issue 5011 is that trap). Being wrong this way means sending more, never less.

Separate from the breaker, which asks whether a target works at all: a provider that refuses has answered.
"""

from __future__ import annotations

from math import exp
from typing import Final

K = 2.0
"""Up to one refusal for each accepted request is the price of knowing what a provider can take."""
FLOOR: Final = 0.1
"""No less than this is sent, or nothing would be learned; each request accepted in a row allows as much again."""
MIN_REQUESTS: Final = 20
"""Fewer in the window tell nothing."""
HOPELESS: Final = 0.95
"""From this share of refusals on, a provider without alternative gets a trickle."""
WINDOW_S: Final = 120.0
LONGEST_WINDOW_S: Final = 1200.0
CALLS: Final = 2.0
"""The window is so many times as long as the longest recent call."""
SHORT_S: Final = WINDOW_S / CALLS
"""Calls shorter than this need not be told, while no longer one is remembered."""
PEAK_TAU_S: Final = 600.0
"""The longest recent call is forgotten with this time constant."""
BUCKET_S: Final = 20.0
BUCKETS: Final = int(LONGEST_WINDOW_S / BUCKET_S)


class Throttle:
    """What one target made of the requests of the last minutes: sent, and refused."""

    __slots__ = ("_length", "_peak_at", "_peak_s", "_refused", "_refused_at", "_refused_total", "_sent", "_sent_total", "_since",
                 "_slot", "_streak", "_window_s", "watching")  # fmt: skip

    def __init__(self) -> None:
        self._sent = [0] * BUCKETS
        self._refused = [0] * BUCKETS
        """Of the requests sent in that bucket."""
        self._slot = 0
        """The newest bucket, counted from time zero."""
        self._window_s = WINDOW_S
        self._length = int(WINDOW_S / BUCKET_S)
        """Buckets in the window; the totals are theirs."""
        self._sent_total = 0
        self._refused_total = 0
        self._refused_at = float("-inf")
        """When the last refusal came that is not forgotten."""
        self._since = float("-inf")
        """What was sent before is forgotten, and what becomes of it says nothing."""
        self._streak = 0
        """Accepted in a row, all of them sent after the last refusal had come."""
        self._peak_s = 0.0
        self._peak_at = 0.0
        self.watching = False
        """A request was refused lately. Before that nothing need be told: what counts is what was made of requests since then."""

    def watch(self, now: float) -> None:
        """A request was refused, the first one for long: count from now on. What was sent before is not known, and says nothing."""
        self.watching = True
        self._since = self._refused_at = now

    def sent(self, now: float) -> None:
        """Count an attempt, when it is sent. One that never reached the provider counts too: it was not refused."""
        if int(now / BUCKET_S) > self._slot:
            self._advance(now)
        self._sent[self._slot % BUCKETS] += 1
        self._sent_total += 1

    def accepted(self, now: float, *, sent_at: float) -> None:
        """Count an answer that is no refusal: a good head, a first content, or another failure. Once per attempt.

        What follows a refusal in time and was not refused is news. So many in a row as bring the share back to 1 end the matter:
        the window begins anew, and recovery takes seconds where there is traffic, instead of a window.
        """
        if sent_at < self._refused_at or now - self._refused_at >= self._window_s:
            return
        self._streak += 1
        if FLOOR * (1 + self._streak) >= 1.0:
            self._sent = [0] * BUCKETS
            self._refused = [0] * BUCKETS
            self._sent_total = self._refused_total = self._streak = 0
            self._refused_at = float("-inf")
            self._since = now
            self.watching = False

    def refused(self, now: float, *, sent_at: float) -> None:
        """Count a refusal of an attempt that was counted as sent at `sent_at`: at a rate limit, or overloaded."""
        if sent_at < self._since:
            return
        self._advance(now)
        self._streak = 0
        self._refused_at = now
        behind = max(0, self._slot - int(sent_at / BUCKET_S))
        if behind < BUCKETS:
            self._refused[(self._slot - behind) % BUCKETS] += 1
            if behind < self._length:
                self._refused_total += 1

    def took(self, now: float, seconds: float) -> None:
        """Note how long a call took from its send to its end: the window is twice the longest recent one, within its bounds."""
        longest = max(seconds, self._peak_s * exp(min(0.0, self._peak_at - now) / PEAK_TAU_S))
        self._peak_at = now
        self._peak_s = longest if CALLS * longest > WINDOW_S else 0.0
        self._window_s = min(max(WINDOW_S, CALLS * longest), LONGEST_WINDOW_S)
        length = -int(-self._window_s // BUCKET_S)
        if length != self._length:
            self._advance(now)
            self._length = length
            self._reckon()

    @property
    def long(self) -> bool:
        """Whether a long call is remembered."""
        return self._peak_s > 0.0

    def share(self, now: float) -> float:
        """Return the share of requests to send here, from `FLOOR` to 1."""
        if now - self._refused_at >= self._window_s:
            self.watching = False
            return 1.0
        self._advance(now)
        sent = self._sent_total
        if sent < MIN_REQUESTS:
            return 1.0
        held_back = (sent - K * (sent - self._refused_total)) / (sent + 1)
        return min(1.0, max(1.0 - held_back, FLOOR * (1 + self._streak)))

    def hopeless(self, now: float) -> bool:
        """Whether nearly all of the window was refused: then only a trickle goes here even where nothing else can serve.

        Never while requests are accepted again, though the window is still full of refusals.
        """
        if now - self._refused_at >= self._window_s:
            return False
        self._advance(now)
        return not self._streak and self._sent_total >= MIN_REQUESTS and self._refused_total >= HOPELESS * self._sent_total

    def _advance(self, now: float) -> None:
        """Turn to the bucket of this moment, and forget what has left the window."""
        slot = int(now / BUCKET_S)
        behind = slot - self._slot
        if behind > 0:
            for i in range(min(behind, BUCKETS)):
                index = (slot - i) % BUCKETS
                self._sent[index] = self._refused[index] = 0
            self._slot = slot
            self._reckon()

    def _reckon(self) -> None:
        indices = [(self._slot - i) % BUCKETS for i in range(self._length)]
        self._sent_total = sum([self._sent[index] for index in indices])
        self._refused_total = sum([self._refused[index] for index in indices])
