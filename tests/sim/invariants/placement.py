"""Where attempts go: elsewhere at once, twice to the same only for a reason, and not too early back to the client.

Most of these look at exchanges that have an alternative which nothing speaks against, because only then is it certain what the
gateway should have done. What makes it certain is the ledger: the alternative has not met any trouble since the run began.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from tests.sim.invariants.breach import EPS, invariant
from tests.sim.invariants.races import hedged, resumes
from tests.sim.invariants.reading import TOO_LONG, Journey, alternative, another_key, family, journeys, successions, target_of
from tests.sim.ledger import Visit
from tests.sim.plays import PLAIN, RATE_LIMITS, REFUSED_UNDONE
from tests.sim.world import World

QUICK_S, QUICK_WITHIN_S = 0.05, 1.0
QUICKLY_GONE = frozenset({"500", "500_late", "refused", "reset", "stream_error", "late_error", "cut"})
"""Connections refused, resets before any byte, and 500. Without a stream, the streams' troubles are resets."""
LONGEST_LIMIT_WAIT_S = 3.0
REFUSALS = RATE_LIMITS | {"503", "503_later", "529", "come_back"}
THROTTLED_FROM, THROTTLE_S = 20, 1200.0
"""Of so many requests within so long, more were refused than accepted: then a part is sent elsewhere, until it gets better."""
CALLERS = frozenset({"400", "context"})
NO_OTHER_WAY = frozenset({"deadline", "client_gone", "stream_broken", "draining", "none"})
"""Ends that have nothing to do with where attempts might have gone."""
NO_ROOM = ("rate_limited", "queue_full", "shed")
"""Such a client would have been told when to come back, if anybody could tell."""
SDK_TRIES, SDK_SPAN_S = 3, 1.1
"""The official SDKs try three times, the last time 1.1 s after the first failure or later."""
RETRYABLE = frozenset(
    {"500", "500_late", "502", "503", "503_later", "504", "529", "refused", "connect_timeout", "reset", "400_drained"}
)
MIN_400S, MIN_GOOD = 5, 20
PROVIDERS_OWN = frozenset({"refused", "connect_timeout", "html_502", "html_403", "html_530", "html_200", "401", "billing"})
"""Trouble that concerns all of a provider's models."""
PROBE_S = 10.0


@invariant
def elsewhere_at_once(world: World) -> Iterator[tuple[str, str]]:
    """Law 9: a different target that nothing speaks against is asked the moment its predecessor fails, without a sleep."""
    for journey in journeys(world):
        if alternative(world, journey) is None:
            continue
        for before, visit in successions(world, journey):
            waited_s = visit.started_at - before.closed_at
            allowed_s = LONGEST_LIMIT_WAIT_S if _limited(journey.visits, visit) or world.policy.rate_limit_wait_s else QUICK_S
            if target_of(before) != target_of(visit) and before.trouble not in RATE_LIMITS and not world.policy.rate_limit_wait_s:
                allowed_s = 0.0
            if waited_s > allowed_s + EPS:
                yield journey.name, f"{visit.tag} came {waited_s:.2f} s after {before.tag}, though another could serve"


@invariant
def one_quick_try(world: World) -> Iterator[tuple[str, str]]:
    """Where another could serve, a target is asked twice at most: once more and soon, after a quick failure of the passing kind."""
    for journey in journeys(world):
        if alternative(world, journey) is None:
            continue
        quick = 0
        for before, visit in successions(world, journey):
            if target_of(before) != target_of(visit) or another_key(before, visit) or before.trouble in RATE_LIMITS:
                continue
            quick += 1
            took_s = before.closed_at - before.started_at
            if quick > 1:
                yield journey.name, f"{visit.tag} is the second quick try"
            if took_s > QUICK_WITHIN_S + EPS:
                yield journey.name, f"{visit.tag} repeats {before.tag}, which took {took_s:.2f} s to fail"
            if before.trouble not in QUICKLY_GONE:
                yield journey.name, f"{visit.tag} repeats {before.tag} after {before.trouble}"
            if journey.errand.already_retried:
                yield journey.name, f"{visit.tag} repeats what the client itself is repeating"


@invariant
def alternatives_are_used(world: World) -> Iterator[tuple[str, str]]:
    """No exchange fails while a target that nothing speaks against has not been asked."""
    for journey in journeys(world):
        client, visits = journey.client, journey.visits
        target = alternative(world, journey)
        if target is None or target in map(target_of, visits) or client.status < 400 or client.record.reason in NO_OTHER_WAY:
            continue
        last = visits[-1].trouble if visits else ""
        if journey.targets[0] in map(target_of, visits) and not world.providers[journey.targets[0][0]].keys:
            # Whoever passes no key on cannot tell whose fault a refused one is.
            continue
        if last not in CALLERS and len(visits) < world.policy.attempts and client.done_at < journey.limit_at - EPS:
            yield journey.name, f"{client.status} after {last or 'nobody was asked'}, and {target[0]} was not asked"


@invariant
def first_choice_first(world: World) -> Iterator[tuple[str, str]]:
    """The preferred target is the first to be asked, unless it, or what it shares with others, has given cause not to.

    Mistakes of callers are no cause, nor what a key may not do with another model, nor for longer than a second a rate limit that
    leaves quota.
    """
    asked: dict[tuple[str, str], list[Visit]] = defaultdict(list)
    for visit in world.visits:
        asked[target_of(visit)].append(visit)
    for journey in journeys(world):
        if len(journey.targets) < 2 or not journey.visits:
            continue
        first, preferred = journey.visits[0], journey.targets[0]
        if target_of(first) != preferred and not _cause(asked, preferred, first):
            yield journey.name, f"{first.tag} is asked first, and nothing speaks against {preferred}"


@invariant
def second_opinions(world: World) -> Iterator[tuple[str, str]]:
    """Law 3: a 400 goes to the client, unless its target says so suspiciously often: then one other target is asked, once."""
    good: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    bad: dict[tuple[str, str, str], list[Visit]] = defaultdict(list)
    for visit in world.visits:
        place = (*target_of(visit), family(visit.path))
        if visit.whole and visit.closed_seq:
            good[place].append(visit.closed_seq)
        elif visit.trouble == "400" and visit.end == "finished":
            bad[place].append(visit)
    for journey in journeys(world):
        apart = [*hedged(journey.visits), *resumes(world, journey.name)] if len(journey.visits) > 1 else []
        for visit in journey.visits:
            after = [other for other in journey.visits if other.started_seq > visit.closed_seq and other not in apart]
            if visit.trouble != "400" or not after or visit in apart:
                continue
            place = (*target_of(visit), family(visit.path))
            rejected = [each for each in bad[place] if each.closed_seq <= visit.closed_seq]
            whose = {"app" if world.guarded else each.client for each in rejected}
            usual = sum(seq < visit.closed_seq for seq in good[place])
            if len(after) > 1:
                yield journey.name, f"after the 400 of {visit.tag} {len(after)} others were asked"
            elif target_of(after[0]) == target_of(visit):
                yield journey.name, f"{after[0].tag} repeats a 400"
            elif len(rejected) < MIN_400S or len(whose) < 2 or usual < MIN_GOOD:
                yield journey.name, f"{after[0].tag} repeats a 400; {len(rejected)} to {len(whose)} clients, {usual} good ones"


@invariant
def as_persistent_as_the_sdk(world: World) -> Iterator[tuple[str, str]]:
    """Law 8: before a client with a single target is told not to retry, it was tried as often and as long as its SDK would have."""
    for journey in journeys(world):
        visits, client, errand = journey.visits, journey.client, journey.errand
        if len(journey.targets) != 1 or errand.already_retried or client.fields.get("x-should-retry") != "false":
            continue
        if not visits or any(visit.trouble not in RETRYABLE for visit in visits) or not _may_repeat(journey):
            continue
        if client.record.reason.value in ("deadline", "credentials_benched", *NO_ROOM) or TOO_LONG in errand.body:
            continue
        attempts = 4 if errand.homebound else world.policy.attempts
        failed_at = visits[0].closed_at
        if len(visits) < min(SDK_TRIES, attempts):
            yield journey.name, f"told not to retry after {len(visits)} attempts"
        elif visits[-1].started_at < failed_at + SDK_SPAN_S:
            yield journey.name, f"told not to retry; the last attempt was {visits[-1].started_at - failed_at:.2f} s after the first"


def _limited(visits: list[Visit], until: Visit) -> bool:
    return any(visit.trouble in RATE_LIMITS for visit in visits if visit.started_seq < until.started_seq)


def _may_repeat(journey: Journey) -> bool:
    """Whether all its failures allow another attempt (law 10)."""
    safe = journey.errand.replayable or journey.errand.method == b"GET"
    return safe or all(not visit.sent or visit.status in REFUSED_UNDONE for visit in journey.visits)


def _cause(asked: dict[tuple[str, str], list[Visit]], target: tuple[str, str], first: Visit) -> bool:
    """Whether there was a cause not to begin with this target."""
    if _throttled(asked[target], first):
        return True
    failing = set()
    callers = 0
    for (provider, model), visits in asked.items():
        if provider != target[0]:
            continue
        for visit in visits:
            if visit.started_seq >= first.started_seq:
                break
            trouble = visit.trouble
            if trouble in PLAIN and trouble != "400":
                continue
            if trouble == "400":
                callers += model == target[1]
            elif trouble == "rate_false":
                if model == target[1] and _keeps_away(visit, visits, first):
                    return True
            elif trouble in PROVIDERS_OWN or model == target[1]:
                return True
            elif trouble not in RATE_LIMITS and trouble != "403":
                failing.add((model, visit.path))
    return callers >= MIN_400S or len(failing) >= 2


def _throttled(visits: list[Visit], first: Visit) -> bool:
    """Whether a target refuses most of what it gets."""
    lately = [
        visit for visit in visits if visit.started_seq < first.started_seq and first.started_at - visit.started_at < THROTTLE_S
    ]
    for number in range(len(lately) - THROTTLED_FROM, -1, -1):
        part = lately[number:]
        if 2 * sum(visit.trouble in REFUSALS for visit in part) > len(part):
            return True
    return False


def _keeps_away(visit: Visit, others: list[Visit], first: Visit) -> bool:
    """Whether a doubtful rate limit is fresh, or the request that tests it is still under way."""
    if first.started_at <= visit.closed_at + 1.0 + EPS:
        return True
    return any(
        visit.started_seq < other.started_seq < first.started_seq
        and other.closed_at > first.started_at - EPS
        and other.started_at + PROBE_S > first.started_at
        for other in others
    )
