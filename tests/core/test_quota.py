"""What one key may send: configured limits, what providers say of theirs, and what becomes of refusals.

Reckoning is compared with naive buckets in `test_quota_machine`; here each rule is told by itself.
"""

import pytest

from gateway.core.bucket import FREE, NEVER, Bucket, Cost, LearnedBucket, Source
from gateway.core.learner import MEMORY_S
from gateway.core.limits import Stated
from gateway.core.plan import QuotaPlan, RatePlan, Resource
from gateway.core.quota import LOOK_S, MOST_STATED, ON_THE_WAY_S, STATED_S, Quota
from tests.core.build import NOW, limits

REQUESTS, TOKENS, INPUT, OUTPUT = Resource.REQUESTS, Resource.TOKENS, Resource.INPUT_TOKENS, Resource.OUTPUT_TOKENS
MINUTE = 60.0
HEARD = NOW + 1.0
"""When the answer to what was sent at `NOW` is there."""


def quota(*rates, concurrent=None):
    return Quota(QuotaPlan(rates, concurrent), NOW)


def requests(limit, left=None, period_s=MINUTE):
    return Stated(REQUESTS, limit, left, None, period_s)


def heard(limit, *stated, now=NOW, back_s=0.0, cost=FREE):
    """A request was served that said this of its provider's limits."""
    reservation = limit.reserve(now, cost)
    reservation.state(now + back_s, stated)
    reservation.served(now + back_s, None)
    return limit


def in_force(limit):
    return {(bucket.resource, bucket.amount, bucket.period_s) for bucket in limit.buckets}


def left(limit, now=NOW):
    return [bucket.level(now) for bucket in limit.stated]


def wait_s(limit, now=NOW, cost=FREE):
    return limit.ready_at(now, cost) - now


def steadily(limit, *, per_s, seconds, cost=FREE, since=NOW):
    """So many requests were sent and served, one after the other; returns when that was over."""
    for number in range(int(per_s * seconds)):
        now = since + number / per_s
        limit.reserve(now, cost).served(now, None)
    return since + seconds


def refused(limit, now, resource=None, cost=FREE, stated=()):
    reservation = limit.reserve(now, cost)
    reservation.refused(now)
    reservation.state(now, stated)
    reservation.denied(now, resource)
    return reservation


def learned(limit):
    return {bucket.resource: bucket for bucket in limit.buckets if bucket.source is Source.LEARNED}


# -- configured -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("resource", "amount"), [(REQUESTS, 1.0), (TOKENS, 50.0), (INPUT, 30.0), (OUTPUT, 20.0)])
def test_a_request_takes_of_each_resource_what_it_counts(resource, amount):
    assert Cost(30.0, 20.0).of(resource) == amount
    limit = quota(RatePlan(resource, 100.0, 1.0, 100.0))
    limit.reserve(NOW, Cost(30.0, 20.0))
    assert limit.buckets[0].level(NOW) == pytest.approx(100.0 - amount)


def test_without_limits_everything_has_room_always():
    limit = quota()
    for _ in range(1000):
        limit.reserve(NOW, Cost(1e6, 1e6))
    assert (limit.ready_at(NOW, Cost(1e9)), limit.limit(NOW), limit.counts_tokens, limit.bound) == (0.0, None, False, False)


@pytest.mark.parametrize("limit", [quota(RatePlan(REQUESTS, 1.0, 1.0, 1.0)), quota(concurrent=1)])
def test_with_a_limit_it_is_bound(limit):
    assert limit.bound


def test_a_request_larger_than_the_burst_goes_when_the_limit_is_whole_and_is_paid_for_by_the_next():
    limit = quota(RatePlan(TOKENS, 10.0, 1.0, 20.0))
    limit.reserve(NOW, Cost(1.0))
    large = Cost(100.0)
    assert wait_s(limit, cost=large) == pytest.approx(0.1)
    assert wait_s(limit, NOW + 0.1, large) == pytest.approx(0.0)
    limit.reserve(NOW + 0.1, large)
    assert limit.buckets[0].level(NOW + 0.1) == pytest.approx(-80.0)
    assert wait_s(limit, NOW + 0.1, Cost(1.0)) == pytest.approx(8.1)


def test_the_tightest_limit_decides():
    limit = quota(RatePlan(REQUESTS, 10.0, 1.0, 1.0), RatePlan(REQUESTS, 60.0, MINUTE, 1.0), RatePlan(TOKENS, 100.0, 1.0, 100.0))
    limit.reserve(NOW, Cost(10.0))
    assert wait_s(limit, cost=Cost(10.0)) == pytest.approx(1.0)


def test_as_many_are_under_way_as_may_be_and_the_next_waits_for_an_end():
    limit = quota(concurrent=2)
    first, _ = limit.reserve(NOW, FREE), limit.reserve(NOW, FREE)
    assert limit.ready_at(NOW, FREE) == NEVER
    first.kept()
    assert limit.ready_at(NOW, FREE) <= NOW


ENDINGS = {
    "served": lambda reservation: reservation.served(NOW, None),
    "refused": lambda reservation: reservation.refused(NOW),
    "unsent": lambda reservation: reservation.unsent(NOW),
    "kept": lambda reservation: reservation.kept(),
}


@pytest.mark.parametrize("second", ENDINGS)
@pytest.mark.parametrize("first", ENDINGS)
def test_a_reservation_ends_exactly_once(first, second):
    limit = quota(RatePlan(REQUESTS, 10.0, 1.0, 5.0), RatePlan(TOKENS, 10.0, 1.0, 50.0), concurrent=1)
    reservation = limit.reserve(NOW, Cost(20.0))
    ENDINGS[first](reservation)
    levels = [bucket.level(NOW) for bucket in limit.buckets]
    with pytest.raises(AssertionError, match="exactly once"):
        ENDINGS[second](reservation)
    assert (limit.inflight, [bucket.level(NOW) for bucket in limit.buckets]) == (0, levels)


@pytest.mark.parametrize(
    ("ending", "requests_left", "tokens_left"),
    [("served", 4.0, 30.0), ("refused", 4.0, 50.0), ("unsent", 5.0, 50.0), ("kept", 4.0, 30.0)],
)
def test_what_was_not_carried_out_is_given_back(ending, requests_left, tokens_left):
    limit = quota(RatePlan(REQUESTS, 10.0, 1.0, 5.0), RatePlan(TOKENS, 10.0, 1.0, 50.0))
    ENDINGS[ending](limit.reserve(NOW, Cost(20.0)))
    assert [bucket.level(NOW) for bucket in limit.buckets] == [pytest.approx(requests_left), pytest.approx(tokens_left)]


@pytest.mark.parametrize(("used", "level"), [(Cost(5.0, 5.0), 40.0), (Cost(20.0, 40.0), -10.0), (None, 30.0)])
def test_a_reservation_is_settled_by_what_was_used(used, level):
    limit = quota(RatePlan(TOKENS, 10.0, 1.0, 50.0))
    limit.reserve(NOW, Cost(10.0, 10.0)).served(NOW, used)
    assert limit.buckets[0].level(NOW) == pytest.approx(level)


def test_a_limit_that_came_with_a_reload_gives_nothing_back_that_it_never_took():
    limit = quota()
    reservation = limit.reserve(NOW, Cost(20.0))
    limit.replan(NOW, QuotaPlan((RatePlan(TOKENS, 10.0, 1.0, 50.0),), 3))
    limit.reserve(NOW, Cost(30.0))
    reservation.unsent(NOW)
    assert limit.buckets[0].level(NOW) == pytest.approx(20.0)
    assert (limit.counts_tokens, limit.limit(NOW)) == (True, 3)


def test_a_reload_keeps_what_the_provider_said_and_what_it_taught():
    limit = heard(quota(RatePlan(REQUESTS, 10.0, 1.0, 1.0)), requests(100.0, 10.0))
    now = steadily(limit, per_s=20, seconds=3)
    refused(limit, now, REQUESTS)
    limit.replan(now, QuotaPlan())
    assert {bucket.source for bucket in limit.buckets} == {Source.HEADER, Source.LEARNED}


# -- stated -----------------------------------------------------------------------------------------------------------------------


def test_what_a_provider_says_is_left_is_what_is_left():
    limit = heard(quota(), requests(60.0, 3.0))
    assert left(limit) == [pytest.approx(3.0)]
    for _ in range(3):
        assert wait_s(limit) <= 0.0
        limit.reserve(NOW, FREE)
    assert wait_s(limit) == pytest.approx(1.0)
    assert [(bucket.source, bucket.burst) for bucket in limit.buckets] == [(Source.HEADER, 60.0)]


def test_what_was_sent_since_is_reckoned_on_top_of_what_is_stated():
    limit = quota()
    first = limit.reserve(NOW, FREE)
    for _ in range(4):
        limit.reserve(NOW + 0.5, FREE)
    first.state(NOW + 0.5, [requests(60.0, 10.0)])
    # At one a second, 0.45 s have been gained for sure.
    assert left(limit, NOW + 0.5) == [pytest.approx(10.0 + 0.5 - ON_THE_WAY_S - 4.0)]


def test_what_was_sent_just_before_may_have_come_in_later_and_what_was_sent_long_before_has_come_in():
    limit = quota()
    limit.reserve(NOW, FREE)
    limit.reserve(NOW + 1.0, FREE)
    limit.reserve(NOW + 1.0 + 0.5 * ON_THE_WAY_S, FREE).state(NOW + 1.0 + 0.5 * ON_THE_WAY_S, [requests(60.0, 10.0)])
    assert left(limit, NOW + 1.0 + 0.5 * ON_THE_WAY_S) == [pytest.approx(9.0)]


def test_an_answer_about_an_earlier_moment_is_no_news():
    limit = quota()
    earlier, later = limit.reserve(NOW, FREE), limit.reserve(NOW + 1.0, FREE)
    later.state(NOW + 2.0, [requests(60.0, 5.0)])
    level = left(limit, NOW + 2.0)
    earlier.state(NOW + 2.0, [requests(60.0, 29.0)])
    assert left(limit, NOW + 2.0) == level


@pytest.mark.parametrize(
    ("ending", "requests_left", "tokens_left"),
    [("served", 9.0, 80.0), ("refused", 9.0, 80.0), ("unsent", 10.0, 100.0), ("kept", 9.0, 80.0)],
)
def test_what_a_provider_gives_back_of_its_own_limits_it_says_itself(ending, requests_left, tokens_left):
    limit = heard(quota(), requests(60.0, 10.0), Stated(TOKENS, 600.0, 100.0, None, MINUTE))
    reservation = limit.reserve(NOW, Cost(20.0))
    ENDINGS[ending](reservation)
    assert left(limit) == [pytest.approx(requests_left), pytest.approx(tokens_left)]


def test_limits_without_a_known_period_are_none():
    limit = heard(quota(), requests(60.0, 3.0, None))
    assert (limit.stated, limit.buckets, limit.curious(NOW)) == ([], [], True)


def test_a_period_that_is_not_said_again_goes_on():
    limit = heard(heard(quota(), requests(60.0, 3.0)), requests(60.0, 2.0, None), now=NOW + 1.0)
    assert in_force(limit) == {(REQUESTS, 60.0, MINUTE)}
    assert left(limit, NOW + 1.0) == [pytest.approx(2.0)]


def test_a_limit_that_the_provider_changed_is_followed():
    limit = heard(heard(quota(), requests(60.0, 20.0)), requests(600.0, 200.0), now=NOW + 1.0)
    assert in_force(limit) == {(REQUESTS, 600.0, MINUTE)}
    assert left(limit, NOW + 1.0) == [pytest.approx(200.0)]


def test_a_misread_period_is_corrected_and_makes_no_second_limit():
    limit = heard(heard(quota(), requests(60.0, 20.0, 30.0)), requests(60.0, 20.0), now=NOW + 1.0)
    assert in_force(limit) == {(REQUESTS, 60.0, MINUTE)}


def test_limits_of_one_resource_over_several_periods_hold_side_by_side():
    limit = heard(quota(), requests(5.0, 1.0, 1.0), requests(60.0, 20.0))
    assert in_force(limit) == {(REQUESTS, 5.0, 1.0), (REQUESTS, 60.0, MINUTE)}
    limit.reserve(NOW, FREE)
    assert wait_s(limit) == pytest.approx(0.2)


def test_no_more_is_kept_than_so_many_limits_and_the_oldest_goes_first():
    limit = quota()
    for number in range(MOST_STATED + 2):
        heard(limit, requests(10.0 + number, 1.0, 1.0 + number), now=NOW + number)
    kept = [10.0 + number for number in range(2, MOST_STATED + 2)]
    assert [bucket.amount for bucket in limit.stated] == kept
    assert sorted(bucket.amount for bucket in limit.buckets) == kept


def test_what_was_said_of_a_limit_without_what_is_left_is_worth_looking_at_again_at_once():
    limit = heard(quota(), requests(60.0))
    assert [(bucket.amount, bucket.level(NOW)) for bucket in limit.stated] == [(60.0, 60.0)]
    assert limit.curious(NOW)


def test_what_was_stated_is_forgotten_when_it_is_not_said_again():
    limit = heard(quota(), Stated(TOKENS, 100.0, 0.0, None, 10_000.0))
    assert wait_s(limit, NOW + STATED_S - 1.0, Cost(100.0)) > 1000.0
    assert limit.counts_tokens
    assert [bucket.amount for bucket in limit.known(NOW + STATED_S - 1.0)] == [100.0]
    assert limit.known(NOW + STATED_S) == []
    assert limit.ready_at(NOW + STATED_S, Cost(100.0)) <= NOW + STATED_S
    assert (limit.stated, limit.buckets, limit.counts_tokens) == ([], [], False)


def test_what_is_said_again_holds_for_longer_be_it_said_of_an_earlier_moment():
    limit = quota()
    earlier = limit.reserve(NOW, FREE)
    heard(limit, requests(60.0, 0.0, 1e6), now=NOW + 1.0)
    earlier.state(NOW + STATED_S, [requests(60.0, 0.0, 1e6)])
    assert wait_s(limit, NOW + STATED_S + 2.0) > 0.0


def test_until_something_is_said_every_answer_is_looked_at():
    assert quota().curious(NOW)


def test_while_little_is_left_every_answer_is_looked_at():
    limit = heard(quota(), requests(100.0, 49.0))
    assert limit.curious(NOW)


def test_while_plenty_is_left_one_answer_in_a_while_is_looked_at_and_nothing_is_reckoned():
    limit = heard(quota(), requests(100.0, 80.0))
    assert (limit.buckets, [bucket.amount for bucket in limit.known(NOW)]) == ([], [100.0])
    assert not limit.curious(NOW + 0.9 * LOOK_S)
    assert limit.curious(NOW + LOOK_S)


def test_while_plenty_is_left_one_answer_in_an_eighth_of_what_is_left_is_looked_at():
    limit = heard(quota(), requests(100.0, 80.0))
    for _ in range(9):
        limit.reserve(NOW, FREE)
    assert not limit.curious(NOW)
    limit.reserve(NOW, FREE)
    assert limit.curious(NOW)


def test_of_several_limits_the_one_with_the_least_left_decides_whether_there_is_plenty():
    limit = heard(quota(), requests(100.0, 80.0), Stated(TOKENS, 1000.0, 400.0, None, MINUTE))
    assert limit.curious(NOW)
    assert {bucket.resource for bucket in limit.buckets} == {REQUESTS, TOKENS}
    assert limit.counts_tokens


def test_a_limit_is_reckoned_with_again_when_plenty_is_over_and_let_go_when_it_is_back():
    limit = heard(quota(), requests(100.0, 80.0))
    taken_unseen = limit.reserve(NOW, FREE)
    heard(limit, requests(100.0, 10.0), now=NOW + 1.0)
    assert left(limit, NOW + 1.0) == [pytest.approx(10.0)]
    taken_unseen.unsent(NOW + 1.0)
    assert left(limit, NOW + 1.0) == [pytest.approx(10.0)], "it had taken nothing of it"
    heard(limit, requests(100.0, 90.0), now=NOW + 2.0)
    assert limit.buckets == []


def test_an_answer_that_says_nothing_changes_nothing():
    limit = quota()
    reservation = limit.reserve(NOW, FREE)
    reservation.state(NOW, ())
    assert (limit.stated, reservation.curious(NOW)) == ([], True)


def test_what_was_stated_can_be_read_by_whoever_looks_for_a_fault():
    assert repr(requests(60.0, 3.0)) == "<Stated requests 3.0/60.0 per 60.0s, whole in Nones>"


# -- learned ----------------------------------------------------------------------------------------------------------------------


def test_a_refusal_paces_what_comes_after_it_by_what_was_let_through():
    limit = quota()
    now = steadily(limit, per_s=20, seconds=5)
    assert wait_s(limit, now) <= 0.0
    refused(limit, now, REQUESTS)
    bucket = learned(limit)[REQUESTS]
    assert 5.0 < bucket.per_s <= 21.0
    assert (bucket.level(now), bucket.until) == (pytest.approx(0.0), now + MEMORY_S)
    assert wait_s(limit, now) == pytest.approx(1.0 / bucket.per_s)


def test_without_anything_to_go_by_nothing_is_learned():
    limit = quota()
    refused(limit, NOW, REQUESTS)
    assert limit.buckets == []


def test_a_lesson_is_about_what_the_refusal_names():
    limit = quota()
    now = steadily(limit, per_s=20, seconds=5, cost=Cost(70.0, 30.0))
    refused(limit, now, INPUT, Cost(70.0, 30.0))
    assert learned(limit).keys() == {INPUT}


def test_a_refusal_that_names_nothing_may_be_about_tokens_once_they_are_estimated():
    limit = quota()
    now = steadily(limit, per_s=20, seconds=5)
    refused(limit, now)
    assert (learned(limit).keys(), limit.counts_tokens) == ({REQUESTS}, True)
    now = steadily(limit, per_s=5, seconds=30, cost=Cost(70.0, 30.0), since=now + 1.0)
    refused(limit, now, cost=Cost(70.0, 30.0))
    assert learned(limit).keys() == {REQUESTS, TOKENS}


def test_a_learned_limit_gives_nothing_back_that_it_never_took():
    limit = quota()
    now = steadily(limit, per_s=20, seconds=5)
    earlier = limit.reserve(now, FREE)
    refused(limit, now, REQUESTS)
    earlier.unsent(now)
    assert learned(limit)[REQUESTS].level(now) == pytest.approx(0.0)


def test_a_learned_limit_gives_back_what_it_took():
    limit = quota()
    now = steadily(limit, per_s=20, seconds=5)
    refused(limit, now, REQUESTS)
    limit.reserve(now, FREE).unsent(now)
    assert learned(limit)[REQUESTS].level(now) == pytest.approx(0.0)
    limit.reserve(now, FREE).served(now, None)
    assert learned(limit)[REQUESTS].level(now) == pytest.approx(-1.0)


def test_a_learned_limit_grows_and_is_forgotten_without_another_refusal():
    limit = quota()
    now = steadily(limit, per_s=20, seconds=5)
    refused(limit, now, REQUESTS)
    rates = []
    for later in (0.0, 5.0, 15.0, 60.0, 150.0):
        limit.buckets[0].correct(now + later, 0.0)
        wait = limit.ready_at(now + later, FREE) - now - later
        rates.append(limit.buckets[0].per_s)
        assert wait == pytest.approx(1.0 / rates[-1], rel=0.01)
    assert rates == sorted(rates)
    assert rates[-1] > 1.2 * rates[0]
    assert limit.ready_at(now + MEMORY_S, FREE) <= now + MEMORY_S
    assert (limit.buckets, limit.counts_tokens) == ([], False)


def test_a_refusal_that_teaches_no_rate_still_tells_that_nothing_is_left():
    limit = quota()
    now = steadily(limit, per_s=20, seconds=5)
    refused(limit, now, REQUESTS)
    bucket, rate = learned(limit)[REQUESTS], learned(limit)[REQUESTS].per_s
    assert bucket.level(now + 0.5) > 1.0
    refused(limit, now + 0.5, INPUT)
    assert bucket.level(now + 0.5) > 0.0, "it is about something else"
    refused(limit, now + 0.5, REQUESTS)
    assert (bucket.level(now + 0.5), bucket.per_s) == (pytest.approx(0.0), rate)


def test_a_refusal_of_what_had_left_before_the_last_lesson_says_nothing_new():
    limit = quota()
    now = steadily(limit, per_s=20, seconds=5)
    earlier = limit.reserve(now, FREE)
    refused(limit, now, REQUESTS)
    bucket = learned(limit)[REQUESTS]
    before = bucket.level(now + 0.5), bucket.per_s
    earlier.denied(now + 0.5, REQUESTS)
    assert (bucket.level(now + 0.5), bucket.per_s) == before


def test_a_learned_limit_that_is_all_there_is_followed_when_it_matters():
    bucket = LearnedBucket(REQUESTS, 4.0, NOW, 0)
    bucket.follow(NOW, 8.0)
    assert (bucket.per_s, bucket.burst, bucket.level(NOW)) == (8.0, 4.0, pytest.approx(2.0))


def test_a_learned_limit_wants_all_of_a_large_request_to_be_there():
    bucket = LearnedBucket(TOKENS, 10.0, NOW, 0)
    assert bucket.burst == 5.0
    assert bucket.ready_at(20.0) == pytest.approx(NOW + 1.5)
    assert bucket.ready_at(20.0) == pytest.approx(NOW + 1.5), "asking costs nothing"
    bucket.take(NOW + 1.5, 20.0)
    assert bucket.level(NOW + 1.5) == pytest.approx(0.0)
    bucket.follow(NOW + 1.5, 12.0)
    assert bucket.burst == 20.0


def test_what_the_refusal_itself_tells_of_a_limit_is_not_guessed():
    limit = quota()
    now = steadily(limit, per_s=20, seconds=5)
    refused(limit, now, REQUESTS, stated=[requests(60.0, 0.0)])
    assert [bucket.source for bucket in limit.buckets] == [Source.HEADER]


def test_a_refusal_for_what_is_under_way_teaches_how_much_may_be():
    limit = quota(concurrent=20)
    for _ in range(9):
        limit.reserve(NOW, FREE)
    for _ in range(3):
        reservation = limit.reserve(HEARD, FREE)
        reservation.overloaded(HEARD)
        reservation.kept()
    assert limit.limit(HEARD) == 20, "nothing was served that could be compared"
    served = [limit.reserve(HEARD, FREE) for _ in range(3)]
    late = limit.reserve(HEARD + 1.0, FREE)
    for reservation in served:
        limit.ceiling.served(HEARD + 1.0, sent_at=HEARD, beside=9)
        reservation.kept()
    late.denied(HEARD + 1.0, Resource.CONCURRENT)
    late.refused(HEARD + 1.0)
    assert limit.limit(HEARD + 1.0) in {8, 9}
    assert limit.ready_at(HEARD + 1.0, FREE) == NEVER
    assert not learned(limit)
    assert limit.limit(HEARD + 1.0 + MEMORY_S) == 20
    limit.replan(HEARD + 1.0, QuotaPlan((), 5))
    assert limit.limit(HEARD + 1.0) == 5, "the lower one holds"


def test_what_is_learned_of_concurrency_holds_where_nothing_is_configured_too():
    limit = quota()
    done = [limit.reserve(NOW, FREE) for _ in range(4)]
    limit.overloaded(NOW, limit.reserve(NOW, FREE))
    for reservation in done:
        reservation.served(NOW, None)
    limit.reserve(HEARD, FREE)
    for _ in range(6):
        limit.reserve(HEARD, FREE)
    limit.reserve(HEARD, FREE).overloaded(HEARD)
    assert limit.limit(HEARD) is not None
    assert limit.limit(HEARD) < limit.inflight
    assert limit.limit(HEARD + MEMORY_S) is None


def test_a_bucket_says_its_rate():
    assert Bucket(RatePlan(REQUESTS, 600.0, MINUTE, 10.0), Source.CONFIGURED, NOW).per_s == 10.0
    assert {(bucket.resource, bucket.per_s) for bucket in Quota(limits(6.0, per=2.0, tokens=8.0), NOW).buckets} == {
        (REQUESTS, 3.0),
        (TOKENS, 4.0),
    }
