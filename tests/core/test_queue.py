"""The queue: who is next, who has to go, who is sent away, how long it takes. The machine beside it plays all at random."""

import random
from collections import Counter
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.plan import Priority
from gateway.core.queue import INTERVAL_S, LATE_S, LOOK_S, STARVED_S, TARGET_S, Queue, Waiter

INTERACTIVE, STANDARD, BATCH = Priority
NOW = 1000.0


def waiter(client="a", tokens=10.0, *, priority=STANDARD, weight=1.0, deadline_at=inf, since=NOW, promised=False):
    return Waiter(
        client=client, weight=weight, priority=priority, tokens=tokens, deadline_at=deadline_at, since=since, promised=promised
    )


def filled(*waiters, depth=10_000, now=NOW):
    queue = Queue(depth)
    for each in waiters:
        assert queue.join(now, each) is None
    return queue


def serve(queue, now=NOW):
    first = queue.first(now)
    queue.take(now, first)
    return first


def drain(queue, now=NOW):
    served = []
    while queue:
        served.append(serve(queue, now))
    return served


def clients(waiters):
    return "".join(each.client for each in waiters)


# -- order ----------------------------------------------------------------------------------------------------------------------


def test_an_empty_queue_has_no_first():
    queue = Queue(10)
    assert not queue
    assert len(queue) == 0
    assert queue.first(NOW) is None


def test_a_request_costs_at_least_one_token():
    assert waiter(tokens=0.0).tokens == 1.0


def test_inside_a_client_the_earliest_deadline_goes_first_and_arrival_breaks_ties():
    late, soon, soon_too, never = (waiter(deadline_at=at) for at in (NOW + 9, NOW + 5, NOW + 5, inf))
    assert drain(filled(never, late, soon, soon_too)) == [soon, soon_too, late, never]


def test_clients_take_turns_however_many_each_has_sent():
    queue = filled(*(waiter("a") for _ in range(6)), *(waiter("b") for _ in range(2)), waiter("c"))
    assert clients(drain(queue)) == "abcabaaaa"


def test_turns_are_counted_in_tokens():
    queue = filled(*(waiter("a", 100) for _ in range(3)), *(waiter("b", 25) for _ in range(8)))
    assert clients(drain(queue)) == "bbbabbbbaba"  # b is paid for in rounds 25, 50, 75, 100, and a in 100, where it comes first


def test_turns_follow_weights_without_long_runs():
    queue = filled(*(waiter("a", weight=3.0) for _ in range(9)), *(waiter("b") for _ in range(3)))
    assert clients(drain(queue)) == "aaabaaabaaab"


def test_a_client_that_comes_back_after_each_turn_does_not_overtake_those_that_wait():
    queue = filled(*(waiter("a", 10) for _ in range(9)), waiter("b", 20))
    served = []
    for _ in range(12):
        served.append(serve(queue))
        if served[-1].client == "b":
            queue.join(NOW, waiter("b", 20))
    assert clients(served) == "aabaabaabaab"


def test_what_a_client_earned_is_lost_when_nothing_of_it_waits():
    big = waiter("a", 1000)
    queue = filled(big, *(waiter("b", 10) for _ in range(99)))
    for _ in range(60):
        assert serve(queue).client == "b"
    assert queue.leave(big)
    for _ in range(30):
        queue.join(NOW, waiter("a", 10))
    turns = Counter(serve(queue).client for _ in range(20))
    assert turns["a"] <= 10


def test_a_weight_that_a_reload_changed_holds_from_the_next_request_on():
    queue = filled(*(waiter("a") for _ in range(20)), *(waiter("b") for _ in range(20)))
    assert Counter(clients(serve(queue) for _ in range(20))) == {"a": 10, "b": 10}
    queue.join(NOW, waiter("a", weight=4.0))
    assert Counter(clients(serve(queue) for _ in range(10))) == {"a": 8, "b": 2}


def test_promised_ones_go_before_the_others_of_their_class_in_the_order_they_came():
    late, soon = waiter("x", deadline_at=NOW + 50, promised=True), waiter("y", deadline_at=NOW + 5, promised=True)
    other, higher = waiter("a", deadline_at=NOW + 1), waiter("b", priority=INTERACTIVE)
    assert drain(filled(other, late, soon, higher)) == [higher, late, soon, other]


def test_a_promised_turn_is_paid_back_by_the_clients_others():
    queue = filled(
        *(waiter("a") for _ in range(9)), *(waiter("b") for _ in range(9)), *(waiter("a", promised=True) for _ in range(3))
    )
    assert clients(drain(queue)).startswith("aaabbb")


def test_one_taken_out_of_turn_is_paid_back():
    mine = [waiter("b") for _ in range(4)]
    queue = filled(*(waiter("a") for _ in range(4)), *mine)
    queue.take(NOW, mine[0])
    queue.take(NOW, mine[2])
    assert clients(drain(queue)) == "aaabab"


def test_the_first_stays_first_however_long_it_takes():
    queue = filled(waiter("a", priority=INTERACTIVE), waiter("b", priority=BATCH))
    first = queue.first(NOW)
    assert queue.first(NOW + 1000) is first


@pytest.mark.parametrize(
    ("waiting", "expected"),
    [
        ({INTERACTIVE, STANDARD, BATCH}, {INTERACTIVE: 0.7, STANDARD: 0.2, BATCH: 0.1}),
        ({INTERACTIVE, BATCH}, {INTERACTIVE: 0.9, BATCH: 0.1}),
        ({INTERACTIVE, STANDARD}, {INTERACTIVE: 0.8, STANDARD: 0.2}),
        ({STANDARD, BATCH}, {STANDARD: 0.9, BATCH: 0.1}),
        ({BATCH}, {BATCH: 1.0}),
    ],
)
@pytest.mark.parametrize("sizes", [(10, 10), (1, 400)])
def test_higher_classes_go_first_and_each_lower_one_has_its_share_of_tokens(waiting, expected, sizes):
    chance = random.Random(5)
    queue, served, now = Queue(10_000), Counter(), NOW
    for priority in waiting:
        for _ in range(50):
            queue.join(now, waiter("a", chance.uniform(*sizes), priority=priority))
    for _ in range(5000):
        now += 0.01
        each = queue.first(now)
        # It has just come, so that nobody starves: that is another rule.
        queue.take(now, each)
        served[each.priority] += each.tokens
        queue.join(now, waiter("a", chance.uniform(*sizes), priority=each.priority, since=now))
        for lane in queue._lanes:
            for other in lane.waiting:
                other.since = now
    assert {priority: served[priority] / served.total() for priority in waiting} == pytest.approx(expected, rel=0.06)


def test_of_many_small_requests_a_share_is_counted_in_turns():
    queue = filled(
        *(waiter("a", 1000, priority=INTERACTIVE) for _ in range(900)), *(waiter("b", 1, priority=BATCH) for _ in range(900))
    )
    turns = Counter(serve(queue).client for _ in range(900))
    assert turns["b"] == pytest.approx(0.1 * 900, rel=0.03)


def test_silence_saves_up_no_claim():
    queue = filled(*(waiter("a", priority=INTERACTIVE) for _ in range(900)))
    for _ in range(500):
        serve(queue)
    for _ in range(100):
        queue.join(NOW, waiter("b", priority=BATCH))
    assert clients(serve(queue) for _ in range(12)) == "abaaaaaaaaab"[:12]


def test_what_is_served_while_nobody_higher_waits_is_not_counted_against_a_class():
    queue = filled(*(waiter("b", 1000, priority=BATCH) for _ in range(300)))
    for _ in range(100):
        serve(queue)
    for _ in range(100):
        queue.join(NOW, waiter("a", 10, priority=INTERACTIVE))
    assert clients(serve(queue) for _ in range(3)) == "aba"


def test_one_huge_batch_request_is_paid_back_by_its_class():
    queue = filled(
        *(waiter("a", 10, priority=INTERACTIVE) for _ in range(1000)),
        waiter("b", 900, priority=BATCH),
        waiter("b", 1, priority=BATCH),
    )
    served = [serve(queue) for _ in range(1000)]
    at = [place for place, each in enumerate(served) if each.client == "b"]
    assert at[0] == 1
    assert at[1] - at[0] == pytest.approx(900 / 10 * 9, abs=2)


def test_when_nobody_waits_all_debts_are_forgotten():
    queue = filled(waiter("a", priority=INTERACTIVE), waiter("b", 1e5, priority=BATCH), waiter("a", priority=INTERACTIVE))
    assert clients(drain(queue)) == "aba"
    for each in (waiter("a", priority=INTERACTIVE), waiter("b", priority=BATCH), waiter("a", priority=INTERACTIVE)):
        queue.join(NOW, each)
    assert clients(drain(queue)) == "aba"


def test_who_starves_is_helped_out_and_the_longest_waiting_class_first():
    queue = filled(*(waiter("a", priority=INTERACTIVE) for _ in range(300)))
    for priority, client, since in ((STANDARD, "s", NOW + 1), (BATCH, "b", NOW)):
        for _ in range(100):
            queue.join(NOW, waiter(client, priority=priority, since=since))
    young = Counter(serve(queue, NOW + STARVED_S).client for _ in range(100))
    assert young == pytest.approx({"a": 70, "s": 20, "b": 10}, abs=1)
    # Batch has all the rescues: those of these turns, and of the last seconds', in which none was needed.
    old = Counter(serve(queue, NOW + STARVED_S + 2).client for _ in range(100))
    assert old == pytest.approx({"a": 60, "s": 20, "b": 20}, abs=1)


def test_rescues_are_bounded_in_turns_and_in_tokens():
    for tokens, most in ((10, 0.15), (1, 0.15), (1000, 0.15)):
        queue = filled(
            *(waiter("a", 10, priority=INTERACTIVE) for _ in range(5000)),
            *(waiter("b", tokens, priority=BATCH) for _ in range(5000)),
            depth=10_000,
        )
        served = Counter()
        turns = Counter()
        for _ in range(4000):
            each = serve(queue, NOW + 60)
            served[each.client] += each.tokens
            turns[each.client] += 1
        assert turns["b"] <= most * 4000 + 2
        assert served["b"] <= most * served.total() + 2 * tokens
        assert max(turns["b"] / 4000, served["b"] / served.total()) >= 0.145


def backlogged(chance, weights, sizes, turns):
    """What each client was served in so many turns in which it never ran out."""
    queue, served = Queue(100_000), dict.fromkeys(map(str, range(len(weights))), 0.0)
    for client, weight in enumerate(weights):
        for _ in range(3):
            queue.join(NOW, waiter(str(client), chance.uniform(*sizes[client]), weight=weight))
    for _ in range(turns):
        each = serve(queue)
        served[each.client] += each.tokens
        client = int(each.client)
        queue.join(NOW, waiter(each.client, chance.uniform(*sizes[client]), weight=weights[client]))
    return list(served.values())


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    flows=st.lists(
        st.tuples(st.floats(0.01, 1000.0), st.sampled_from([(1, 1), (1, 50), (1, 100_000), (500, 1000)])), min_size=2, max_size=6
    ),
)
def test_no_backlogged_client_is_ahead_of_another_by_more_than_a_request_of_each(seed, flows):
    weights, sizes = [weight for weight, _ in flows], [size for _, size in flows]
    served = backlogged(random.Random(seed), weights, sizes, 400)
    # The fairness bound of deficit round robin, with a quantum of one token per weight.
    slack = [1.0 + most / weight for weight, (_, most) in flows]
    per_weight = [tokens / weight for tokens, weight in zip(served, weights, strict=True)]
    for one in range(len(flows)):
        for other in range(len(flows)):
            assert per_weight[one] - per_weight[other] <= (slack[one] + slack[other]) * (1 + 1e-9)


@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.0, 2.0, 5.0), (0.01, 0.1), (1000.0, 300.0, 100.0)])
def test_in_the_long_run_shares_are_the_weights_within_three_percent(weights):
    sizes = [(1, 200), (1, 10), (200, 300)][: len(weights)]
    served = backlogged(random.Random(3), weights, sizes, 20_000)
    for tokens, weight in zip(served, weights, strict=True):
        assert tokens / sum(served) == pytest.approx(weight / sum(weights), rel=0.03)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32), count=st.integers(2, 40))
def test_equal_clients_are_served_equally(seed, count):
    chance = random.Random(seed)
    queue, served = Queue(100_000), Counter()
    for client in range(count):
        # Some hold a hundred times as much as others: that earns them nothing.
        for _ in range(chance.choice([2, 200])):
            queue.join(NOW, waiter(str(client), chance.uniform(1, 1000)))
    for _ in range(count * 60):
        each = serve(queue)
        served[each.client] += each.tokens
        queue.join(NOW, waiter(each.client, chance.uniform(1, 1000)))
    jain = served.total() ** 2 / (count * sum(tokens**2 for tokens in served.values()))
    assert jain >= 0.98


def test_extremes_of_size_and_weight_cost_no_more_than_others():
    queue = filled(
        waiter("a", 1e5, weight=0.01),
        waiter("b", 1.0, weight=1000.0),
        waiter("c", 1e5, weight=1000.0),
        waiter("d", 1.0, weight=0.01),
    )
    assert clients(drain(queue)) == "bcda"


# -- who has to go --------------------------------------------------------------------------------------------------------------


def test_a_full_queue_gives_the_place_of_the_newest_of_the_lowest_class_to_a_higher_one():
    old, new = waiter("b", priority=BATCH), waiter("b", priority=BATCH)
    queue = filled(old, new, waiter("s", priority=STANDARD), depth=3)
    assert queue.join(NOW, waiter("i", priority=INTERACTIVE)) is new
    assert queue.join(NOW, waiter("s", priority=STANDARD)) is old
    assert queue.depths() == (1, 2, 0)


def test_a_full_queue_of_equals_refuses_the_newcomer():
    queue = filled(waiter("a"), waiter("b"), depth=2)
    for client in "abc":
        newcomer = waiter(client)
        assert queue.join(NOW, newcomer) is newcomer
        assert not queue.leave(newcomer)
    lower = waiter("c", priority=BATCH)
    assert queue.join(NOW, lower) is lower


def test_a_client_that_floods_makes_room_for_the_others_and_never_for_itself():
    flood = [waiter("a") for _ in range(4)]
    queue = filled(*flood, depth=4)
    more = waiter("a")
    assert queue.join(NOW, more) is more
    assert queue.join(NOW, waiter("b")) is flood[3]
    assert queue.join(NOW, waiter("c")) is flood[2]
    second = waiter("b")
    assert queue.join(NOW, second) is second  # a would hold one then, and b two


def test_a_full_queue_counts_what_each_holds_by_weight():
    flood = [waiter("a", weight=4.0) for _ in range(8)]
    queue = filled(*flood, *(waiter("b") for _ in range(2)), depth=10)
    refused = waiter("b")
    assert queue.join(NOW, refused) is refused
    heavy = waiter("c", weight=4.0)
    assert queue.join(NOW, heavy) is flood[7]


def test_a_depth_of_nothing_refuses_all_but_the_promised():
    queue = Queue(0)
    newcomer, promised = waiter(), waiter(promised=True)
    assert queue.join(NOW, newcomer) is newcomer
    assert queue.join(NOW, promised) is None
    assert len(queue) == 1


def test_promised_ones_take_no_place_and_lose_none():
    queue = filled(*(waiter(promised=True, priority=BATCH) for _ in range(5)), depth=1)
    assert queue.join(NOW, waiter("a")) is None
    refused = waiter("b")
    assert queue.join(NOW, refused) is refused
    higher = waiter("c", priority=INTERACTIVE)
    assert queue.join(NOW, higher).client == "a"
    refused = waiter("d", priority=BATCH)
    assert queue.join(NOW, refused) is refused
    assert queue.depths() == (1, 0, 5)


def test_a_depth_that_a_reload_lowered_sends_nobody_away_but_lets_nobody_in():
    queue = filled(*(waiter("a") for _ in range(5)), depth=5)
    queue.depth = 2
    assert queue.join(NOW, waiter("b")).client == "a"
    assert len(queue) == 5
    serve(queue)
    refused = waiter("a")
    assert queue.join(NOW, refused) is refused


def test_who_leaves_is_gone_and_nobody_else():
    mine, other, promised = waiter("a"), waiter("a"), waiter("b", promised=True)
    queue = filled(mine, other, promised)
    assert queue.leave(mine)
    assert not queue.leave(mine)
    assert queue.leave(promised)
    assert drain(queue) == [other]


# -- who is sent away -----------------------------------------------------------------------------------------------------------


def test_nobody_waits_past_a_deadline_except_whose_turn_is_promised():
    queue = filled(
        waiter("i", priority=INTERACTIVE, deadline_at=NOW + 3),
        waiter("b", priority=BATCH, deadline_at=NOW + 4),
        waiter("s", deadline_at=NOW + 5),
        waiter("p", deadline_at=NOW + 1, promised=True),
    )
    assert queue.shed(NOW + 2.9) == []
    assert clients(queue.shed(NOW + 4)) == "bi"
    assert clients(queue.shed(NOW + 5)) == "s"
    assert queue.shed(NOW + 99) == []
    assert clients(drain(queue)) == "p"


def sickened(*waiters):
    """A queue in which nobody was served who had waited less than the target, for as long as an interval; and the time then."""
    queue = filled(*waiters, *(waiter("x", 10, since=NOW - 2) for _ in range(10)), depth=10_000)
    for second in range(10):
        assert not queue.sick
        queue.take(NOW + 1 + second, next(iter(queue._lanes[STANDARD].flows["x"].latest)))
    return queue, NOW + INTERVAL_S


def test_a_queue_in_which_everybody_waits_is_sick_until_somebody_does_not():
    queue, now = sickened(*(waiter("a") for _ in range(30)))
    assert queue.sick
    for second in range(1, 11):
        assert queue.sick
        quick = waiter("q", since=now + second - TARGET_S)
        queue.join(now + second, quick)
        queue.take(now + second, quick if second == 5 else queue.first(now + second))
    assert not queue.sick


def test_a_queue_that_nobody_leaves_is_sick_by_its_oldest():
    queue = filled(waiter("a"))
    queue.join(NOW + INTERVAL_S, waiter("b", priority=INTERACTIVE, since=NOW + INTERVAL_S))
    assert queue.shed(NOW + INTERVAL_S - 0.1) == []
    assert not queue.sick
    assert queue.shed(NOW + INTERVAL_S) == []  # nothing is known of its pace, so that nobody can be said to come too late
    assert queue.sick


@pytest.mark.parametrize("last", ["served", "gone"])
def test_an_empty_queue_is_well_at_once(last):
    only = waiter("a")
    queue = filled(only, waiter("p", promised=True))
    queue.shed(NOW + INTERVAL_S)
    assert queue.sick
    if last == "gone":
        queue.leave(only)
    else:
        queue.take(NOW + INTERVAL_S, only)
    assert not queue.sick
    serve(queue, NOW + 50)
    assert not queue.sick


def test_the_short_wait_of_a_promised_turn_does_not_make_a_sick_queue_well():
    queue = filled(waiter("a"))
    queue.join(NOW + 9, waiter("p", since=NOW + 9, promised=True))
    serve(queue, NOW + INTERVAL_S)
    assert queue.sick


def test_a_sick_queue_lets_go_of_old_batch_requests():
    old, young = waiter("b", priority=BATCH), waiter("b", priority=BATCH, since=NOW + INTERVAL_S - LATE_S)
    queue, now = sickened(old, young, waiter("p", priority=BATCH, promised=True), *(waiter("a") for _ in range(3)))
    assert queue.shed(now) == [old]
    assert queue.shed(now + LOOK_S / 2) == []
    assert queue.shed(now + LOOK_S) == [young]
    assert queue.depths() == (0, 3, 1)


def test_a_sick_queue_lets_go_of_whom_it_cannot_serve_in_time_and_counts_on_the_room_they_leave():
    at = NOW + INTERVAL_S
    interactive = [waiter("i", tokens, priority=INTERACTIVE, deadline_at=at + due) for tokens, due in ((30, 0.1), (10, 4.2))]
    # It served ten tokens per second. 30 go first and 20 are promised; a tenth beside that goes to batch.
    standard = [waiter("s", 10, deadline_at=at + due) for due in (5.6, 6.6, 6.7, 7.7)]
    batch = [waiter("b", 10, priority=BATCH, deadline_at=at + due, since=at) for due in (0.1, 7.9, 8.1)]
    queue, now = sickened(*interactive, *standard, *batch, waiter("p", 20, promised=True, deadline_at=NOW))
    assert queue.shed(now) == [batch[1], standard[1], standard[3], interactive[1]]


# -- how long it takes ----------------------------------------------------------------------------------------------------------


def expected(queue, client="z", *, priority=STANDARD, weight=1.0, tokens=10.0, tokens_per_s=10.0, requests_per_s=None):
    return queue.wait(
        client=client, weight=weight, priority=priority, tokens=tokens, tokens_per_s=tokens_per_s, requests_per_s=requests_per_s
    )


def test_an_empty_queue_is_no_wait():
    assert expected(Queue(1), tokens_per_s=0.1, requests_per_s=0.1) == 0.0


@pytest.mark.parametrize(
    ("asked", "seconds"),
    [
        ({"client": "a"}, 51.0),
        ({}, 2.0),
        ({"tokens": 30.0}, 4.0),
        ({"weight": 0.5}, 3.0),
        ({"priority": INTERACTIVE}, 0.0),
        ({"priority": BATCH}, 0.0),
        ({"tokens_per_s": None}, 0.0),
        ({"tokens_per_s": 0.0}, inf),
        ({"requests_per_s": 0.5}, 4.0),
        ({"requests_per_s": 5.0}, 2.0),
        ({"tokens_per_s": None, "requests_per_s": 0.5}, 4.0),
    ],
)
def test_a_newcomer_waits_for_its_own_backlog_and_for_what_others_are_served_meanwhile(asked, seconds):
    queue = filled(*(waiter("a", 10) for _ in range(50)), waiter("b", 10))
    assert expected(queue, **asked) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("priority", "seconds"),
    [
        (INTERACTIVE, 100 / 0.7 / 10),  # the lower classes have their shares meanwhile
        (STANDARD, 100 / 0.2 / 10),  # by its own share it is sooner than behind all that is higher
        (BATCH, (1000 + 1000 + 10) / 10),  # nothing is lower; and that is sooner than by its share
    ],
)
def test_a_newcomer_waits_for_higher_classes_and_for_the_shares_of_lower_ones(priority, seconds):
    queue = filled(
        *(waiter("a", 100, priority=INTERACTIVE) for _ in range(10)),
        *(waiter("a", 100, priority=STANDARD) for _ in range(10)),
        waiter("a", 10, priority=BATCH),
        waiter("p", 400, priority=BATCH, promised=True),
    )
    seconds += 40 if priority is BATCH else 0
    assert expected(queue, priority=priority, tokens=100) == pytest.approx(seconds)


def test_of_lower_classes_no_more_counts_than_they_have():
    queue = filled(waiter("a", 100, priority=INTERACTIVE), waiter("b", 5, priority=BATCH))
    assert expected(queue, priority=INTERACTIVE, tokens=100) == pytest.approx(10.5)


@pytest.mark.parametrize(("priority", "off_s"), [(INTERACTIVE, 1.0), (STANDARD, 2.0), (BATCH, 3.0)])
@pytest.mark.parametrize("weight", [0.5, 1.0, 4.0])
def test_a_newcomer_is_served_about_when_it_was_told(priority, off_s, weight):
    """It errs to the late side: others are taken to be served parts of requests. What goes by its share feels that several times."""
    errors = []
    for seed in range(60):
        chance = random.Random(seed)
        queue = Queue(1000)
        for _ in range(chance.randrange(1, 200)):
            client = chance.choice("abcdn")
            share = {"d": 2.0, "n": weight}.get(client, 1.0)
            queue.join(NOW, waiter(client, chance.uniform(1, 100), priority=chance.choice(list(Priority)), weight=share))
        newcomer = waiter("n", chance.uniform(1, 100), priority=priority, weight=weight)
        told = expected(queue, "n", priority=priority, weight=weight, tokens=newcomer.tokens, tokens_per_s=1000.0)
        assert 0.0 <= told <= sum(lane.tokens for lane in queue._lanes) / 1000 + 1e-9
        queue.join(NOW, newcomer)
        now = NOW
        while (first := serve(queue)) is not newcomer:
            now += first.tokens / 1000
        errors.append(told - (now - NOW))
    assert max(map(abs, errors)) <= off_s
    # On average by less than one request of each of the four others, of 50 tokens, at 70 % of the rate.
    assert 0.0 <= sum(errors) / len(errors) <= 4 * 50 / 700


# -- a flood --------------------------------------------------------------------------------------------------------------------


def interactive_p99_s(batch, *, seconds=120.0, requests_per_s=20.0, tokens_per_s=20_000.0):
    """The wait that 99 % of interactive requests stay below, at 60 % of what is served, beside a flood of `batch` tokens each."""
    chance = random.Random(11)
    queue, now, waits, come = Queue(2000), NOW, [], NOW
    while now < NOW + seconds:
        while batch and queue.depths()[2] < 1000:
            # A flood is old: it has waited since long ago.
            queue.join(now, waiter(f"batch{chance.randrange(5)}", batch, priority=BATCH, since=now - 60))
        while come <= now:
            queue.join(come, waiter(f"app{chance.randrange(5)}", chance.uniform(500, 1500), priority=INTERACTIVE, since=come))
            come += chance.expovariate(0.6 * requests_per_s)
        first = queue.first(now)
        if first is None:
            now = come
            continue
        queue.take(now, first)
        if first.priority is INTERACTIVE:
            waits.append(now - first.since)
        now += max(first.tokens / tokens_per_s, 1 / requests_per_s)
    assert len(waits) > 0.5 * requests_per_s * seconds
    return sorted(waits)[int(0.99 * len(waits))]


@pytest.mark.parametrize("batch", [1.0, 1000.0, 5000.0])
def test_a_flood_of_batch_does_not_keep_interactive_waiting(batch):
    assert interactive_p99_s(batch) <= interactive_p99_s(None) + 1.0


# -- and all of it together -----------------------------------------------------------------------------------------------------


def test_nobody_is_lost_or_doubled_in_a_long_run_with_cancellations():
    chance = random.Random(17)
    queue, now, inside, fates = Queue(60), NOW, {}, Counter()
    for step in range(60_000):
        now += chance.choice([0.0, 0.001, 0.05, 0.05, 0.2 if step % 9000 < 3000 else 0.01])
        does = chance.random()
        if does < 0.5:
            each = waiter(
                chance.choice("aaaabcdefgh"),
                chance.choice([1, 10, 100, 5000]),
                priority=chance.choice(list(Priority)),
                weight=chance.choice([0.01, 1.0, 1000.0]),
                deadline_at=now + chance.choice([0.5, 5.0, 60.0, inf]),
                since=now,
                promised=chance.random() < 0.05,
            )
            inside[each] = True
            out = queue.join(now, each)
            ended = [] if out is None else [out]
            assert not any(out.promised for out in ended)
            fates["refused"] += out is each
        elif does < 0.8:
            first = queue.first(now)
            ended = [] if first is None else [first]
            if first is not None:
                queue.take(now, first)
                fates["served"] += 1
        elif does < 0.9:
            ended = [chance.choice(list(inside))] if inside else []
            for each in ended:
                assert queue.leave(each)
                assert not queue.leave(each)
        else:
            ended = queue.shed(now)
            fates["shed"] += len(ended)
            assert not any(out.promised for out in ended)
        for each in ended:
            del inside[each]  # each was in, and ended once
        assert len(queue) == len(inside) == sum(queue.depths())
    assert min(fates.values()) > 100
    assert set(drain(queue, now)) == set(inside)
    for lane in queue._lanes:
        assert not lane.flows
        assert not lane._ready
        assert lane.tokens == 0.0
    assert not queue._deadlines
