"""Hedging: when a second attempt goes beside a slow one and where to, what it may cost, and what becomes of the two (law 9)."""

import pytest

from gateway.core.breaker import State
from gateway.core.bucket import NEVER
from gateway.core.hedge import CAP, HedgeBudget, hedge_delay
from gateway.core.latency import MIN_SAMPLES, History
from gateway.core.plan import Family, HedgePlan
from tests.core.build import NOW, World, policy, shut

SOON = HedgePlan(after_s=2.0)
SLOW = policy(hedge=SOON)


def hedging(*targets, saved=5.0, **settings):
    """A world whose route may spend on so many hedges."""
    world = World(*(targets or ("a", "b")), **settings)
    world.hedges.deposit(saved)
    return world


def slow(world, *, rule=SLOW, stream=True, **settings):
    """An exchange whose first attempt is sent and shows nothing."""
    told = world.exchange(policy=rule, stream=stream, **settings)
    assert told.start() == ["first a"]
    told.sent()
    return told


def raced(world=None, **settings):
    """An exchange with two attempts under way: the first, and its hedge."""
    told = slow(world or hedging(), **settings)
    assert told.wakes() == ["hedge b"]
    told.sent()
    return told


def results(world, name):
    """(All results, failures) counted for a target lately."""
    return world.breaker(name)._window.totals(world.now)


# -- the budget -------------------------------------------------------------------------------------------------------------------


def test_a_budget_begins_empty_and_each_hedge_takes_one():
    budget = HedgeBudget()
    assert (budget.balance, budget.withdraw(), budget.balance) == (0.0, False, 0.0)
    budget.deposit(0.6)
    assert (budget.withdraw(), budget.balance) == (False, 0.6)
    budget.deposit(0.6)
    assert (budget.withdraw(), budget.balance) == (True, pytest.approx(0.2))


def test_good_times_save_up_for_few_hedges_only():
    budget = HedgeBudget()
    for _ in range(10_000):
        budget.deposit(0.05)
    assert budget.balance == CAP
    assert [budget.withdraw() for _ in range(12)] == [True] * 10 + [False] * 2


@pytest.mark.parametrize(("share", "one_in"), [(0.05, 20), (0.5, 2), (1.0, 1), (0.25, 4)])
def test_hedges_are_a_share_of_the_requests_even_if_all_are_slow(share, one_in):
    world = World("a", "b")
    rule = policy(hedge=HedgePlan(after_s=2.0, budget=share))
    hedged = []
    for number in range(1, 3 * one_in + 1):
        told = slow(world, rule=rule)
        if told.wakes():
            hedged.append(number)
            told.sent()
        else:
            assert told.record.hedge_skipped == "no_budget"
        told.begins(of="a")
        told.finished(of="a")
    assert hedged == [one_in, 2 * one_in, 3 * one_in]


def test_a_request_that_may_not_be_hedged_earns_no_hedge_either():
    world = World("a", "b")
    for _ in range(30):
        told = world.exchange(policy=SLOW, hedged=False)
        told.start()
        told.answers()
    assert world.hedges.balance == 0.0
    told = world.exchange(policy=policy())
    told.machine._ask.hedges = world.hedges  # as after a reload that took the policy's hedge away
    told.start()
    assert (world.hedges.balance, told.sent().waits) == (0.0, 600.0)


def test_a_hedge_is_paid_from_the_retry_budget_of_the_provider_that_is_slow_too():
    world = hedging()
    raced(world)
    assert (world.hedges.balance, world.budget("a"), world.budget("b")) == (pytest.approx(4.05), 9.0, 10.0)


def test_without_a_retry_budget_there_no_hedge_goes_and_nothing_is_paid():
    world = hedging()
    told = slow(world)
    world.spend("a", leave=0.0)
    assert told.wakes() == []
    assert (told.record.hedge_skipped, world.hedges.balance, told.under_way) == ("no_budget", pytest.approx(5.05), ["a"])
    assert world.budget("a") == pytest.approx(0.6), "what came in meanwhile, and no token of it spent"


def test_without_a_hedge_budget_the_provider_does_not_pay_either():
    world = hedging(saved=0.0)
    told = slow(world)
    assert (told.wakes(), told.record.hedge_skipped, world.budget("a")) == ([], "no_budget", 10.0)


def test_routes_have_budgets_of_their_own_which_outlive_a_reload():
    world = hedging(saved=3.0)
    world.registry.adopt(world.plans.values(), world.now)
    assert (world.registry.hedges("chat").balance, world.registry.hedges("other").balance) == (3.0, 0.0)


# -- when -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plan", "delay"),
    [
        (HedgePlan(), None),
        (HedgePlan(after_s=0.8), 0.8),
        (HedgePlan(after_s=0.1), 0.3),
        (HedgePlan(after_s=0.1, floor_s=0.0), 0.1),
    ],
)
def test_a_fixed_time_needs_no_history_and_a_learned_one_does(plan, delay):
    assert hedge_delay(plan, History(), NOW) == delay


@pytest.mark.parametrize(
    ("quantile", "floor", "delay"), [(0.95, 0.3, 1.9), (0.5, 0.3, 1.0), (0.05, 0.3, 0.3), (0.95, 5.0, 5.0), (0.95, 0.0, 1.9)]
)
def test_a_learned_time_is_a_quantile_of_the_targets_own_history_and_never_below_the_floor(quantile, floor, delay):
    history = History()
    for step in range(1, 21):
        history.add(NOW, step / 10)
    assert hedge_delay(HedgePlan(quantile=quantile, floor_s=floor), history, NOW) == pytest.approx(delay, rel=0.06)


def test_the_second_attempt_goes_when_the_first_has_been_silent_for_the_fixed_time():
    told = slow(hedging())
    assert told.timer(after=1.9) == []
    assert told.waits == pytest.approx(0.1)
    assert told.timer(after=0.1) == ["hedge b"]
    assert [(attempt.number, attempt.kind) for attempt in told.record.attempts] == [(1, "first"), (2, "hedge")]
    assert told.record.hedge_skipped == ""


def test_there_is_no_hedge_before_enough_is_known_of_the_target():
    world = hedging()
    rule = policy(hedge=HedgePlan())
    world.knows("a", 1.0, times=MIN_SAMPLES - 1)
    assert slow(world, rule=rule).waits == 120.0
    world.knows("a", 1.0, times=1)
    assert slow(world, rule=rule).waits == pytest.approx(1.0, rel=0.02)


@pytest.mark.parametrize(
    ("case", "settings"),
    [
        ("another target's", {"name": "b"}),
        ("that of larger requests", {"size": 100_000}),
        ("that of whole answers", {"stream": False}),
    ],
)
def test_a_history_counts_for_its_own_target_size_and_kind_of_answer(case, settings):
    world = hedging()
    world.knows(settings.pop("name", "a"), 1.0, **settings)
    assert slow(world, rule=policy(hedge=HedgePlan())).waits == 120.0, case


def test_larger_requests_go_by_their_own_history():
    world = hedging()
    world.knows("a", 1.0)
    world.knows("a", 8.0, size=100_000)
    told = slow(world, rule=policy(hedge=HedgePlan()), size=100_000)
    assert told.waits == pytest.approx(8.0, rel=0.02)
    assert told.wakes() == ["hedge b"]


def test_answers_that_are_no_streams_go_by_theirs():
    world = hedging()
    world.knows("a", 1.0)
    world.knows("a", 8.0, stream=False)
    told = slow(world, rule=policy(hedge=HedgePlan(non_stream=True)), stream=False)
    assert told.waits == pytest.approx(8.0, rel=0.02)
    assert told.wakes() == ["hedge b"]
    assert told.answers() == ["cancel a", "open b", "commit b", "finish"]


def test_a_request_that_must_not_be_hedged_is_not():
    told = slow(hedging(), hedged=False)
    assert told.waits == 120.0


def test_the_clock_of_a_hedge_runs_from_the_attempts_beginning_even_while_it_connects():
    world = hedging()
    told = world.exchange(policy=SLOW, stream=True)
    told.start()
    assert told.waits == 2.0
    assert told.wakes() == ["hedge b"]


@pytest.mark.parametrize("event", ["content", "finished"])
def test_whatever_shows_content_in_time_is_not_hedged(event):
    told = slow(hedging())
    told.head(streaming=True, after=1.0)
    assert told.waits == 1.0, "a head is no content"
    getattr(told, event)()
    assert told.machine._race.hedge_at == NEVER
    assert told.under_way == (["a"] if event == "content" else [])


def test_a_failure_before_that_goes_elsewhere_at_once_and_costs_no_hedge():
    world = hedging("a", "b", "c")
    told = slow(world)
    assert told.fails("server_error", after=1.0) == ["failover b"]
    assert world.hedges.balance == pytest.approx(5.05)
    assert told.waits == 2.0, "and what comes after it may be hedged in its turn"
    assert told.wakes() == ["hedge c"]


def test_while_an_exchange_waits_nothing_is_hedged():
    told = slow(hedging("a"))
    told.world.chance.share = 1.0
    assert told.fails("overloaded", delay=4.0) == []
    assert told.waits == 6.0
    assert told.wakes() == ["retry a"]


# -- how many ---------------------------------------------------------------------------------------------------------------------


def test_one_hedge_and_no_more():
    told = raced(hedging("a", "b", "c"))
    assert told.waits == 118.0
    assert told.machine._race.hedge_at == NEVER


def test_two_where_the_policy_says_so_each_after_the_time_of_the_one_before():
    world = hedging("a", "b", "c", "d")
    told = raced(world, rule=policy(hedge=HedgePlan(after_s=2.0, max=2)))
    assert told.waits == 2.0
    assert told.wakes() == ["hedge c"]
    told.sent()
    assert (told.under_way, told.machine._race.hedge_at) == (["a", "b", "c"], NEVER)
    assert told.begins(of="b") == ["cancel a", "cancel c", "open b", "commit b"]
    assert (told.trail, world.hedges.balance) == (["a:cancelled", "b:", "c:cancelled"], pytest.approx(3.05))


def test_hedges_are_counted_for_the_whole_exchange():
    told = raced(hedging("a", "b", "c", "d"))
    assert (told.fails("server_error", of="a"), told.fails("server_error", of="b")) == ([], ["failover c"])
    told.sent()
    assert told.waits == 120.0


def test_a_hedge_is_one_of_the_attempts():
    told = slow(hedging(), rule=policy(hedge=SOON, attempts=1))
    assert (told.wakes(), told.record.hedge_skipped) == ([], "")
    told = raced(hedging("a", "b", "c"), rule=policy(hedge=SOON, attempts=2))
    assert told.fails("server_error", of="a") == []
    assert told.fails("server_error", of="b") == ["relay b"]
    assert (told.end, told.record.winner.kind) == ("failed: attempts_exhausted", "hedge")


def test_a_hedge_that_could_not_go_is_not_tried_again():
    world = hedging(saved=0.0)
    told = slow(world)
    assert (told.wakes(), told.waits) == ([], 118.0)
    world.hedges.deposit(5.0)
    assert told.timer(after=10.0) == []


# -- where to ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "targets", "settings", "where"),
    [
        ("the next one", ("a", "b", "c"), {}, "b"),
        ("there is no other", ("a",), {}, None),
        ("the same domain comes last", ("a", "b", "c"), {"domains": {"b": "a"}}, "c"),
        ("the first of its domain where there is no other", ("a", "b", "c"), {"domains": {"b": "a", "c": "a"}}, "b"),
        ("another account of one domain", ("a", "b"), {"domains": {"a": "x", "b": "x"}}, "b"),
        ("another dialect", ("a", "b"), {"dialects": {"b": "azure"}}, None),
        ("another dialect, marked", ("a", "b!"), {"dialects": {"b": "azure"}}, "b"),
        ("another dialect is passed over", ("a", "b", "c"), {"dialects": {"b": "azure"}}, "c"),
        ("another model", ("a", "b/small"), {}, None),
        ("another model, marked", ("a", "b/small!"), {}, "b/small"),
        ("the same model by name", ("a", "b/gpt-4o"), {}, "b"),
        ("only the slow one is marked", ("a!", "b/small"), {}, None),
        ("for something else", ("a", "b?context_length"), {}, None),
        ("for something else, marked", ("a", "b?context_length!"), {}, None),
    ],
)
def test_the_second_attempt_goes_where_the_answer_is_alike_and_the_failure_would_be_another(case, targets, settings, where):
    told = slow(hedging(*targets, **settings))
    assert told.wakes() == ([] if where is None else [f"hedge {where}"]), case
    assert told.record.hedge_skipped == ("no_target" if where is None else "")


def test_the_attempt_beside_which_it_goes_is_the_measure_and_not_the_first_of_the_route():
    world = hedging("a", "b/small", "c", "d/small", domains={"d": "b"})
    told = slow(world)
    assert told.fails("server_error") == ["failover b/small"]
    assert told.wakes() == ["hedge d/small"]


def test_never_to_a_target_that_was_tried():
    told = slow(hedging("a", "b"))
    assert told.fails("server_error") == ["failover b"]
    assert (told.wakes(), told.record.hedge_skipped) == ([], "no_target")


@pytest.mark.parametrize(
    ("case", "drawn", "where"),
    [
        ("open", 0.0, "c"),
        ("its provider open", 0.0, "c"),
        ("at its limit", 0.0, "c"),
        ("benched", 0.0, "c"),
        ("ramping, and it draws badly", 0.9, "c"),
        ("ramping, and it draws well", 0.05, "b"),
        ("half-open", 0.0, "b"),
    ],
)
def test_only_where_it_is_admitted(case, drawn, where):
    world = hedging("a", "b", "c")
    told = slow(world)
    if case == "at its limit":
        world.key("b").park(world.now, "gpt-4o", 30.0)
    elif case == "benched":
        world.key("b").bench(world.now)
    elif case == "its provider open":
        shut(world.state("b").breaker, world.now)
    else:
        shut(world.breaker("b"), world.now - (0.0 if case == "open" else 5.0))
    if case.startswith("ramping"):
        world.breaker("b").admit(world.now).success(world.now)
        assert world.breaker("b").state is State.RAMP
        world.now += 1.9
        world.breaker("b").admit(world.now).ignore()
        world.chance.share = drawn
    assert told.wakes() == [f"hedge {where}"], case


def test_another_key_serves_where_the_first_is_at_its_limit():
    world = hedging(keys=("key-1", "key-2"))
    told = slow(world)
    world.key("b").park(world.now, "gpt-4o", 30.0)
    assert (told.wakes(), told.attempt.credential) == (["hedge b"], "key-2")


def test_after_a_request_proved_too_long_only_targets_for_such_stand_in():
    world = hedging("a", "b?context_length", "c", "d?context_length")
    told = slow(world)
    assert told.fails("context_length") == ["failover b"]
    assert told.wakes() == ["hedge d"]


# -- the race ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("winner", "loser", "saved_by"), [("a", "b", None), ("b", "a", "hedge")])
@pytest.mark.parametrize("stream", [True, False])
def test_the_first_content_wins_and_the_other_is_let_go(winner, loser, saved_by, stream):
    world = hedging()
    told = raced(world, stream=stream)
    if stream:
        assert told.begins(of=winner, after=0.5) == [f"cancel {loser}", f"open {winner}", f"commit {winner}"]
        assert told.under_way == [winner]
        assert told.finished(of=winner, after=3.0) == ["finish"]
    else:
        assert told.answers(of=winner, after=0.5) == [f"cancel {loser}", f"open {winner}", f"commit {winner}", "finish"]
    assert sorted(told.trail) == sorted([f"{winner}:ok", f"{loser}:cancelled"])
    assert (told.end, told.record.winner.provider, told.record.saved_by) == ("ok: none", winner, saved_by)
    assert (results(world, winner), results(world, loser)) == ((1, 0), (0, 0)), "losing is no failure"
    assert [attempt.provider for attempt in told.machine.ended_attempts] == [loser, winner]


def test_a_head_wins_nothing():
    told = raced()
    told.head(streaming=True, of="a")
    assert told.begins(of="b") == ["cancel a", "open b", "commit b"]


def test_a_loser_leaves_the_places_of_its_probes_to_others():
    world = hedging()
    told = slow(world)
    world.key("b").park(world.now, "gpt-4o", 1.0)
    shut(world.breaker("b"), world.now - 5.0)
    assert told.wakes() == ["hedge b"]
    assert told.attempt.probe
    assert told.attempt.proving > 0.0
    assert (world.breaker("b").share(world.now), world.usable_in("b")) == (0.0, 0.25)
    assert told.begins(of="a") == ["cancel b", "open a", "commit a"]
    assert (world.breaker("b").state, world.breaker("b").share(world.now), world.usable_in("b")) == (State.HALF_OPEN, 1.0, 0.0)


def test_a_hedge_that_wins_and_breaks_is_broken_for_good():
    told = raced(hedging("a", "b", "c"))
    told.begins()
    assert told.broke(after=1.0, code="reset") == ["break reset"]
    assert (told.end, told.record.saved_by, told.record.winner.kind) == ("failed: stream_broken", None, "hedge")
    assert (results(told.world, "a"), results(told.world, "b")) == ((0, 0), (1, 1))


@pytest.mark.parametrize("wins", ["a", "b"])
def test_the_times_of_winner_and_overtaken_are_both_remembered(wins):
    world = hedging()
    told = raced(world)
    told.begins(of=wins, after=0.5)
    known = {name: world.history(name)._sketches[-1] for name in "ab"}
    assert {name: (sketch.count, sketch.sum) for name, sketch in known.items()} == {"a": (1, 2.5), "b": (1, 0.5)}
    told.finished(of=wins, after=9.0)
    assert known[wins].count == 1, "what comes after the first content is no part of it"


def test_one_that_was_overtaken_before_it_was_sent_tells_nothing():
    world = hedging()
    told = slow(world)
    told.wakes()
    told.begins(of="a", after=0.5)
    assert [len(world.history(name)._sketches) for name in "ab"] == [1, 0]


def test_failures_say_nothing_about_how_long_content_takes():
    world = hedging()
    slow(world).fails("server_error", after=1.0)
    assert world.history()._sketches == []


# -- failures in a race -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "second"), [("a", "b"), ("b", "a")])
@pytest.mark.parametrize("fault", ["server_error", "connect", "overloaded", "timeout", "credential", "model_gone"])
def test_one_that_fails_leaves_the_other_alone_and_only_when_both_have_it_goes_on(first, second, fault):
    told = raced(hedging("a", "b", "c"))
    assert told.fails(fault, of=first) == []
    assert told.under_way == [second]
    assert (told.machine._due, told.machine._race.hedge_at) == (None, NEVER)
    assert told.fails(fault, of=second) == ["failover c"]
    assert told.answers() == ["open c", "commit c", "finish"]
    assert (told.end, told.record.saved_by) == ("ok: none", "failover")


@pytest.mark.parametrize(("fails", "wins", "saved_by"), [("a", "b", "hedge"), ("b", "a", None)])
def test_the_other_may_yet_be_good(fails, wins, saved_by):
    world = hedging()
    told = raced(world)
    assert told.fails("server_error", of=fails, quick=True) == []
    assert told.begins(of=wins) == [f"open {wins}", f"commit {wins}"]
    told.finished(of=wins)
    assert (told.end, told.record.saved_by, results(world, fails)) == ("ok: none", saved_by, (1, 1))


def test_where_both_have_failed_the_first_to_fail_is_repeated():
    told = raced()
    told.fails("server_error", of="b")
    assert told.fails("overloaded", of="a") == []
    assert told.wakes() == ["retry b"]


CALLERS = pytest.mark.parametrize("fault", ["caller", "context_length", "content_policy"])


@CALLERS
def test_what_the_first_calls_the_callers_own_ends_the_race(fault):
    told = raced(hedging("a", "b", "c"))
    assert told.fails(fault, of="a", status=400) == ["cancel b", "relay a"]
    assert (told.end, told.record.winner.provider, told.advised()) == ("caller_error: caller", "a", (None, None))
    assert [attempt.provider for attempt in told.machine.ended_attempts] == ["a", "b"]


@CALLERS
def test_what_a_hedge_calls_so_is_not_the_last_word_while_the_first_may_still_serve(fault):
    told = raced(hedging("a", "b", "c"))
    assert told.fails(fault, of="b", status=400) == []
    assert told.under_way == ["a"]
    assert told.begins(of="a") == ["open a", "commit a"]
    told.finished(of="a")
    assert (told.end, told.record.saved_by) == ("ok: none", None)


@CALLERS
def test_where_the_first_fails_too_it_is_the_answer_unless_another_target_serves(fault):
    told = raced(hedging("a", "b", "c"))
    told.fails(fault, of="b", status=400)
    assert told.fails("server_error", of="a") == ["failover c"]
    for name in "abc":
        told.world.spend(name)
    assert told.fails("server_error") == ["relay b"]
    assert told.end == "caller_error: caller"


@pytest.mark.parametrize(
    ("fault", "targets", "rule"),
    [
        ("context_length", ("a", "b", "c?context_length"), SLOW),
        ("content_policy", ("a", "b", "c"), policy(hedge=SOON, failover_content_policy=True)),
    ],
)
def test_not_where_another_target_may_mend_it(fault, targets, rule):
    told = raced(hedging(*targets), rule=rule)
    assert told.fails(fault, of="a", status=400) == []
    assert told.fails("server_error", of="b") == ["failover c"]


def test_the_more_telling_of_two_failures_is_the_answer():
    told = raced(rule=policy(hedge=SOON, attempts=2))
    told.fails("overloaded", of="b")
    assert told.fails("connect", of="a", sent=False) == ["relay b"]


def test_each_of_two_is_cut_by_its_own_clock():
    told = raced(rule=policy(hedge=SOON, first_token=10.0, attempts=2))
    assert told.waits == 8.0
    assert told.wakes() == ["cancel a"]
    assert told.waits == 2.0
    assert told.wakes() == ["cancel b", "refuse 504 attempts_exhausted"]
    assert told.trail == ["a:timeout", "b:timeout"]
    assert told.machine.wake_at == NEVER


def test_silence_after_the_first_byte_cuts_the_one_that_is_silent():
    told = raced(rule=policy(hedge=SOON, stall=5.0))
    told.head(streaming=True, of="b")
    assert told.waits == 5.0
    assert told.wakes() == ["cancel b"]
    assert told.trail == ["a:", "b:stalled"]


# -- ends with two under way ------------------------------------------------------------------------------------------------------


def test_a_client_that_leaves_a_race_is_nobodys_failure():
    told = raced()
    assert told.gone() == ["cancel a", "cancel b", "finish"]
    assert (told.end, told.trail) == ("client_gone: client_gone", ["a:cancelled", "b:cancelled"])
    assert (results(told.world, "a"), results(told.world, "b")) == ((0, 0), (0, 0))
    assert (told.gone(), told.drain(), told.timer(after=1000.0)) == ([], [], [])


def test_patience_that_ends_in_a_race_ends_both():
    told = raced(patience=5.0)
    assert told.waits == 3.0
    assert told.wakes() == ["cancel a", "cancel b", "refuse 504 deadline"]
    assert told.end == "failed: deadline"


def test_clients_who_give_up_on_two_targets_at_once_are_witnesses_against_both():
    world = hedging()
    for client in ("one", "another"):
        told = raced(world, client=client)
        world.now += 20.0
        told.gone()
    assert (world.failures("a"), world.failures("b")) == (1, 1)


def test_draining_ends_both():
    told = raced()
    assert told.drain() == ["cancel a", "cancel b", "refuse 503 draining"]


def test_a_crash_ends_both():
    told = raced()
    assert told.crash() == ["cancel a", "cancel b", "refuse 500 internal"]
    assert [attempt.verdict for attempt in told.record.attempts] == ["cancelled", "cancelled"]


# -- doubts -----------------------------------------------------------------------------------------------------------------------


def suspect(*targets):
    """`a` says 400 to everybody, after having served well for long."""
    world = hedging(*targets)
    rejections = world.place("a").state.rejections
    rejections.served = 100
    for client in "bcdefg":
        rejections.rejected(world.now, client)
    assert rejections.suspect
    return world


@pytest.mark.parametrize(("opinion", "ending", "failures"), [("good", "ok: none", 1), ("rejects", "caller_error: caller", 0)])
def test_a_hedge_under_way_is_the_second_opinion_on_a_doubtful_400(opinion, ending, failures):
    world = suspect("a", "b", "c")
    told = raced(world)
    assert told.fails("caller", status=400, of="a") == []
    if opinion == "good":
        told.begins(of="b")
        told.finished(of="b")
    else:
        assert told.fails("caller", status=400, of="b") == ["relay a"]
    assert (told.end, world.failures("a"), len(told.trail)) == (ending, failures, 2)


def test_a_second_opinion_is_not_hedged():
    told = slow(suspect("a", "b", "c"))
    assert told.fails("caller", status=400) == ["failover b"]
    told.sent()
    assert told.waits == 120.0


# -- who is hedged ----------------------------------------------------------------------------------------------------------------


def test_a_clients_own_retry_may_be_hedged():
    assert raced(already_retried=True).under_way == ["a", "b"]


def test_a_clients_own_key_goes_along():
    told = raced(hedging(keys=()), foreign_key="hash", family=Family.RESPONSES)
    assert (told.under_way, told.attempt.credential) == (["a", "b"], None)
