"""What refusals teach about limits that nobody states.

At the moment of a refusal a provider's bucket is empty. So between two refusals it has let through just what it gained meanwhile,
less what it could not hold: their distance and what was sent in it give the least that the limit's rate can be, whatever the size
of the bucket. The rate at which was sent when it refused is the most. From an estimate between the two the allowed rate follows
CUBIC (RFC 9438; botocore's adaptive retries use it for the same purpose): a little below at first, level with it for a while, then
faster and faster beyond it, until the next refusal tells where the limit stands now, or until enough time has gone without one and
the lesson fades. The surer the estimate, the longer that takes: a refusal in so many requests is the price of knowing.

A refusal that does not say what it is about may be about requests or tokens. One of them is paced as measured, the other with room
to spare, and they change places when the next refusal comes too soon, or when clearly less got through than the other way round.

Nothing is learned from a refusal that left quota, nothing from requests that had left before the last lesson (one 429 that hits
fifty requests under way is one lesson), and nothing where nothing gets through at all. Never from latency: long answers take long.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final

from gateway.core.plan import Resource

CUT: Final = 0.95
"""A measured rate is undershot by so much at first: what is learned so is nearly exact."""
BLIND_CUT: Final = 0.7
"""The same where nothing could be measured (CUBIC's own factor)."""
CURVE_S: Final = 20.0
"""From the cut until the rate is reached again, at least."""
CURVE_REQUESTS: Final = 150.0
"""And at least so many requests, where the rate is sure; but not longer than:"""
LONGEST_CURVE_S: Final = 150.0
MEMORY_S: Final = 300.0
"""Without a refusal for so long, a lesson is forgotten."""
FADE_S: Final = 240.0
FADE_TWICE_S: Final = 10.0
"""Before that it fades, by twice in so long: forgotten at once, it would let go at once of all that waits behind it."""
MEASURE_S: Final = 1.0
MEASURE_REQUESTS: Final = 5
"""Two refusals closer than this, or with less let through between them, measure nothing. Also how long a refusal takes to come, at
most: what was sent earlier and not refused was let through."""
SELDOM_PER_S: Final = 0.3
"""What is let through so seldom is not paced: the pause that each refusal brings is enough, and by such numbers a provider that
refuses a part of everything would look like one with a limit."""
ENOUGH_REQUESTS: Final = 20
"""A measurement over so many is good to about one in so many; the next one begins anew."""
TRUST: Final = 0.4
"""Where between the least and the most that the limit may be it is taken to be."""
DOUBT: Final = 2.0
"""How quickly doubt grows with their distance: where the least is half of the most, nothing is sure."""
SPARE: Final = 1.5
"""Room for the resource that a refusal is taken not to be about."""
CLEARLY: Final = 1.1
"""So many times what got through must have got through the other way round, to be no accident of sizes."""
EARLY: Final = 0.5
"""A refusal before this share of the curve comes too soon."""
SAMPLE_S: Final = 0.25
SAMPLES: Final = 40
"""What was sent lately is known for ten seconds, and where that is little, for so many requests."""
LAST: Final = 256
"""Of more refusals, all but so many are taken to be long over."""

_REQUESTS: Final = Resource.REQUESTS
_INPUT: Final = Resource.INPUT_TOKENS
_OUTPUT: Final = Resource.OUTPUT_TOKENS
_INFINITE: Final = float("inf")


class Tally:
    """Sums of what was sent up to a moment. Immutable: every reservation keeps the one of its own sending."""

    __slots__ = ("at", "input", "output", "requests")

    def __init__(self, at: float = 0.0, requests: int = 0, input_tokens: float = 0.0, output_tokens: float = 0.0) -> None:
        self.at = at
        self.requests = requests
        self.input = input_tokens
        self.output = output_tokens

    def plus(self, at: float, input_tokens: float, output_tokens: float) -> Tally:
        """Return the sums with one more request."""
        return Tally(at, self.requests + 1, self.input + input_tokens, self.output + output_tokens)

    def of(self, resource: Resource) -> float:
        """Return the sum of one resource."""
        if resource is _REQUESTS:
            return float(self.requests)
        if resource is _INPUT:
            return self.input
        return self.output if resource is _OUTPUT else self.input + self.output

    def since(self, earlier: Tally, resource: Resource) -> float:
        """Return how much of a resource was sent after an earlier moment."""
        return self.of(resource) - earlier.of(resource)


class Curve:
    """A value that was cut and comes back: `top * (1 - (1 - cut) * (1 - t / length)^3)`, and fades in the end."""

    __slots__ = ("_at", "_cut", "_length_s", "_top")

    def __init__(self) -> None:
        self._at = 0.0
        self._top = 0.0
        self._cut = 1.0
        self._length_s = CURVE_S

    def cut(self, now: float, top: float, share: float, length_s: float) -> None:
        """Begin anew: `share` of `top` now, `top` after `length_s`, more from then on."""
        self._at, self._top, self._cut, self._length_s = now, top, share, length_s

    def hold(self, now: float) -> None:
        """Begin anew from the same cut."""
        self._at = now

    def value(self, now: float) -> float:
        """Return where it stands."""
        age_s = now - self._at
        value = self._top * (1.0 - (1.0 - self._cut) * (1.0 - age_s / self._length_s) ** 3)
        # Twice each time, but no further: nobody asks for a lesson older than it is remembered, but for those who show it.
        return value if age_s <= FADE_S else value * 2.0 ** ((min(age_s, MEMORY_S) - FADE_S) / FADE_TWICE_S)

    def early(self, now: float) -> bool:
        """Whether it has come back only a part of its way."""
        return now - self._at < EARLY * self._length_s


class Learner:
    """The lessons of one key's refusals about rates."""

    __slots__ = (
        "_curves",
        "_estimated_from",
        "_lesson_at",
        "_look_at",
        "_mark",
        "_refused",
        "_refused_last",
        "_samples",
        "_suspect",
        "_worth",
    )

    def __init__(self, now: float) -> None:
        self._curves: dict[Resource, Curve] = {}
        self._lesson_at = -_INFINITE
        self._mark: Tally | None = None
        """All that was sent up to the refused request from which the next measurement begins."""
        self._refused = Tally(now)
        """What was sent after the mark and refused."""
        self._refused_last: deque[int] = deque(maxlen=LAST)
        """The last ones of them, by their place among all that was sent."""
        self._samples = deque([Tally(now)], SAMPLES)
        """Of all that was sent, now and then."""
        self._look_at = now + SAMPLE_S
        self._suspect: Resource | None = None
        """What the limit is about, where refusals do not say it."""
        self._worth: dict[Resource, float] = {}
        """What got through per second, by who was the suspect."""
        self._estimated_from = 0
        """Of what was sent before so many requests, nobody had estimated tokens."""

    def watch(self, now: float, sent: Tally) -> None:
        """Note what was sent so far, now and then: a refusal is judged by what came before it."""
        if now >= self._look_at:
            self._look_at = now + SAMPLE_S
            self._samples.append(sent)

    def estimated(self, sent: Tally) -> None:
        """From now on the tokens of all that is sent are estimated; `sent`: all until now."""
        self._estimated_from = sent.requests

    def remembers(self, now: float) -> bool:
        """Whether there was a refusal that is not forgotten."""
        return now - self._lesson_at < MEMORY_S

    def shadows(self, sent: Tally) -> bool:
        """Whether the request had left before the last lesson."""
        return sent.at <= self._lesson_at

    def curve(self, resource: Resource) -> Curve:
        """Return the curve that the learned limit of a resource follows."""
        curve = self._curves.get(resource)
        if curve is None:
            curve = self._curves[resource] = Curve()
        return curve

    def refused(self, now: float, request: Tally, sent: Tally, known: Mapping[Resource, float]) -> Sequence[Resource]:
        """Learn from the refusal of one request; return the resources whose curves have begun anew.

        `request`: what it takes, as a tally of one; `sent`: all that was sent up to it. `known`: the resources it may be about,
        with the learned rates per second so far, 0 where there is none.
        """
        mark = self._mark
        if mark is not None and sent.requests > mark.requests:
            self._refused = self._refused.plus(now, request.input, request.output)
            self._refused_last.append(sent.requests)
        if self.shadows(sent):
            return ()
        if mark is not None and sent.at - mark.at < MEMORY_S:
            if sent.at - mark.at < MEASURE_S:
                return ()
            if not self._lets_through(now, mark):
                # That is no rate, and no reason to go beyond it either.
                for curve in self._curves.values():
                    curve.hold(now)
                return ()
        else:
            mark = None
            self._begin(sent)
        self._lesson_at = now
        through = 0.0 if mark is None else self._through(mark, sent, _REQUESTS)
        if through < MEASURE_REQUESTS:
            mark = None
        per_s = 0.0 if mark is None else through / (sent.at - mark.at)
        if 0.0 < (per_s or self._recent(sent, _REQUESTS, 0)) < SELDOM_PER_S:
            return ()
        suspect = self._suspected(now, known, per_s, sure=through >= ENOUGH_REQUESTS) if len(known) > 1 else None
        sure_s = min(CURVE_REQUESTS / (per_s or self._recent(sent, _REQUESTS, 0) or 1.0), LONGEST_CURVE_S)
        taught = []
        for resource, known_per_s in known.items():
            top, doubt = self._estimate(mark, sent, resource, known_per_s)
            if top > 0.0:
                if suspect is not None and resource is not suspect:
                    top *= SPARE
                self.curve(resource).cut(now, top, CUT - (CUT - BLIND_CUT) * doubt, max(CURVE_S, sure_s * (1.0 - doubt)))
                taught.append(resource)
        if through >= ENOUGH_REQUESTS:
            self._begin(sent)
        return taught

    def _begin(self, sent: Tally) -> None:
        """Measure from here on."""
        self._mark, self._refused = sent, Tally(sent.at)
        self._refused_last.clear()

    def _through(self, mark: Tally, sent: Tally, resource: Resource) -> float:
        """Return what was let through from one refusal to another."""
        return sent.since(mark, resource) - self._refused.of(resource)

    def _lets_through(self, now: float, mark: Tally) -> bool:
        """Whether something sent after the mark was let through for sure: it would have been refused by now."""
        sent = max((sample.requests for sample in self._samples if sample.at <= now - MEASURE_S), default=0)
        refused = self._refused.requests - sum(number > sent for number in self._refused_last)
        return sent - mark.requests > refused

    def _suspected(self, now: float, known: Mapping[Resource, float], per_s: float, *, sure: bool) -> Resource:
        """Return which of two resources the limit is taken to be about; `per_s`: what got through since the last lesson."""
        suspect = self._suspect
        if suspect is None or suspect not in known:
            suspect = next(iter(known))
        elif per_s:
            other = next(resource for resource in known if resource is not suspect)
            if sure:
                self._worth[suspect] = per_s
            elif suspect in self._worth:
                # A few large requests in a row say little about the rest.
                self._worth[suspect] = (self._worth[suspect] + per_s) / 2.0
            if self.curve(suspect).early(now) or self._worth.get(other, _INFINITE) > CLEARLY * per_s:
                suspect = other
        self._suspect = suspect
        return suspect

    def _estimate(self, mark: Tally | None, sent: Tally, resource: Resource, known_per_s: float) -> tuple[float, float]:
        """Return the limit's rate as far as it can be told, 0 where it cannot, and how doubtful that is, 0 to 1."""
        counted_from = 0 if resource is _REQUESTS else self._estimated_from
        recent_per_s = self._recent(sent, resource, counted_from)
        if mark is None or mark.requests < counted_from:
            return known_per_s or recent_per_s, 1.0
        least_per_s = self._through(mark, sent, resource) / (sent.at - mark.at)
        most_per_s = min(known_per_s or _INFINITE, recent_per_s or known_per_s)
        if least_per_s >= most_per_s:
            return least_per_s, 0.0
        per_s = max(least_per_s + TRUST * (most_per_s - least_per_s), BLIND_CUT * most_per_s)
        return per_s, min(1.0, DOUBT * (1.0 - least_per_s / most_per_s))

    def _recent(self, sent: Tally, resource: Resource, counted_from: int) -> float:
        """Return the highest rate at which was sent up to that moment, be it far too much; 0 where that was too little to tell."""
        return max(
            (
                sent.since(sample, resource) / max(MEASURE_S, sent.at - sample.at)
                for sample in self._samples
                if counted_from <= sample.requests <= sent.requests - MEASURE_REQUESTS
            ),
            default=0.0,
        )
