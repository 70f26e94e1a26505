"""The life of an exchange: commit point, clocks, ends, what is blamed on whom, and what the client is told (§4.4)."""

import pytest

from gateway.core.breaker import State
from gateway.core.bucket import NEVER
from gateway.core.farewell import RANK
from gateway.core.plan import INFERENCE, Family
from gateway.core.record import Ending
from gateway.core.verdicts import FAULTS, Again, Fault, Scope
from tests.core.build import NOW, World, policy, shut

PATIENT = policy(first_token=10.0, stall=20.0, answer=60.0, max_stream=300.0)
NAMES = sorted(fault.value for fault in Fault)
ELSEWHERE = sorted(fault.value for fault in Fault if FAULTS[fault].elsewhere)
UNSPEAKABLE = ["billing", "credential", "edge_blocked"]
OTHER_FAMILIES = sorted(family.value for family in Family if family not in INFERENCE)


def story(*targets, **settings):
    told = World(*(targets or ("a",))).exchange(**settings)
    told.start()
    return told


# -- the happy path ---------------------------------------------------------------------------------------------------------------


def test_a_whole_answer_opens_commits_and_finishes_at_once():
    told = story()
    told.sent(0.1).head(after=0.5)
    assert told.finished(0.2) == ["open a", "commit a", "finish"]
    record, attempt = told.record, told.attempt
    assert (told.end, told.trail, record.winner, record.saved_by) == ("ok: none", ["a:ok"], attempt, None)
    assert [attempt.started_at, attempt.sent_at, attempt.head_at, attempt.content_at, attempt.ended_at] == pytest.approx(
        [NOW, NOW + 0.1, NOW + 0.6, NOW + 0.8, NOW + 0.8]
    )
    assert (record.opened_at, record.ended_at, attempt.status) == (attempt.ended_at, attempt.ended_at, 200)


def test_a_stream_commits_at_its_first_content_and_finishes_at_its_end():
    told = story(stream=True)
    told.sent().head(streaming=True)
    assert told.content(0.4) == ["open a", "commit a"]
    assert told.machine.done is False
    assert told.finished(5.0) == ["finish"]
    assert (told.record.opened_at, told.record.ended_at) == (NOW + 0.4, NOW + 5.4)


def test_every_ended_attempt_is_handed_over_for_the_books_once():
    told = story("a", "b")
    told.fails("server_error", code="oops")
    told.answers()
    assert [(attempt.provider, attempt.verdict, attempt.code) for attempt in told.machine.ended_attempts] == [
        ("a", "server_error", "oops"),
        ("b", "ok", ""),
    ]


# -- after the commit -------------------------------------------------------------------------------------------------------------


def test_a_stream_that_breaks_after_its_commit_is_broken_off_and_nothing_is_retried():
    told = story("a", "b", stream=True)
    told.sent().head(streaming=True).content()
    assert told.broke(code="reset", after=3.0) == ["break reset"]
    assert (told.end, told.record.stream_broken, told.trail) == ("failed: stream_broken", True, ["a:stream_broken"])
    assert (told.record.winner, told.record.saved_by) == (told.attempt, None)


def test_another_answer_that_breaks_after_its_commit_is_no_broken_stream():
    told = story()
    told.sent().head().content()
    assert told.broke() == ["break stream_broken"]
    assert (told.end, told.record.stream_broken) == ("failed: stream_broken", False)


def test_an_error_inside_a_committed_stream_teaches_as_much_as_one_before_it():
    told = story(stream=True)
    told.sent().head(streaming=True).content()
    told.broke("rate_limited", delay=30.0)
    assert told.world.usable_in() == 30.0
    told = story(stream=True)
    told.sent().head(streaming=True).content()
    told.broke("billing")
    assert told.world.key().benched(NOW)


def test_a_stream_that_breaks_after_its_commit_counts_against_its_target():
    world = World("a")
    for _ in range(5):
        told = world.exchange(stream=True)
        told.start()
        told.sent().head(streaming=True).content()
        told.broke(after=0.3)
    assert world.moves == ["a/gpt-4o: open"]


# -- clocks -----------------------------------------------------------------------------------------------------------------------


def test_a_stream_without_its_first_token_in_time_is_cut_and_the_next_target_asked():
    told = story("a", "b", stream=True, policy=PATIENT)
    told.sent(0.5).head(streaming=True, after=1.0)
    assert told.waits == 9.0
    assert told.wakes() == ["cancel a", "failover b"]
    assert told.trail == ["a:timeout", "b:"]


def test_the_clock_of_an_attempt_starts_when_it_is_sent():
    told = story(stream=True, policy=PATIENT)
    assert told.waits == 600.0
    told.sent(30.0)
    assert told.waits == 10.0


def test_another_answer_has_until_its_own_limit():
    told = story("a", "b", policy=PATIENT)
    told.sent()
    assert told.waits == 60.0
    assert told.wakes() == ["cancel a", "failover b"]


def test_silence_after_the_first_byte_is_a_stall():
    told = story("a", "b", policy=PATIENT)
    told.sent().head(after=5.0)
    told.heard(after=10.0)
    assert told.timer(after=10.0) == []
    assert told.timer(after=5.0) == []
    assert told.waits == 5.0
    assert told.wakes() == ["cancel a", "failover b"]
    assert (told.trail, told.record.attempts[0].code) == (["a:stalled", "b:"], "stalled")


def test_a_committed_stream_may_go_on_for_long_but_not_fall_silent():
    told = story("a", "b", stream=True, policy=PATIENT, patience=30.0)
    told.sent().head(streaming=True).content(1.0)
    for _ in range(5):
        told.heard(after=19.0)
        assert told.timer() == []
    assert told.wakes() == ["cancel a", "break stalled"]
    assert (told.end, told.record.stream_broken) == ("failed: stream_broken", True)


def test_a_stream_has_a_longest_life():
    told = story(stream=True, policy=PATIENT)
    told.sent().head(streaming=True).content(1.0)
    while told.world.now < NOW + 290.0:
        told.heard(after=10.0)
    assert told.timer() == []
    told.heard(after=9.0)
    assert told.timer() == ["cancel a", "break timeout"]


def test_a_committed_answer_that_is_no_stream_ends_only_by_silence():
    told = story(policy=PATIENT)
    told.sent().head().content()
    while told.world.now < NOW + 900.0:
        told.heard(after=19.0)
        assert told.timer() == []
    assert told.wakes() == ["cancel a", "break stalled"]


def test_while_the_body_is_on_its_way_the_providers_silence_is_no_fault():
    told = story(policy=PATIENT, family=Family.FILES)
    told.attempt.uploading = True
    told.sent()
    for _ in range(10):
        told.heard(after=19.0)
        assert told.timer() == []
    told.attempt.uploading = False
    told.attempt.heard_at = 0.0
    told.sent()  # from now on the provider owes an answer
    assert told.waits == 60.0
    assert told.wakes() == ["cancel a", "refuse 504 not_retryable"]


def test_an_upload_that_stops_is_cut_but_is_no_failure_of_the_target():
    world = World("a")
    for _ in range(6):
        told = world.exchange(policy=PATIENT, family=Family.FILES)
        told.start()
        told.attempt.uploading = True
        told.sent()
        assert told.wakes() == ["cancel a", "refuse 504 not_retryable"]
    assert (told.trail, world.moves) == (["a:stalled"], [])


def test_nothing_happens_before_its_time():
    told = story(policy=PATIENT)
    told.sent()
    assert told.timer(after=59.9) == []
    assert told.machine.done is False


def test_the_clients_patience_ends_the_exchange_and_is_nobodys_failure():
    world = World("a")
    for _ in range(6):
        told = world.exchange(patience=5.0)
        told.start()
        told.sent()
        assert told.wakes() == ["cancel a", "refuse 504 deadline"]
        assert (told.end, told.advised(), told.trail) == ("failed: deadline", (False, None), ["a:cancelled"])
    assert (world.moves, world.breaker("a").failing(world.now)) == ([], 0.0)


def test_patience_that_ends_after_a_failure_relays_that_failure():
    told = story("a", "b", patience=5.0)
    told.fails("server_error", after=1.0)
    told.sent()
    assert told.wakes() == ["cancel b", "relay a"]
    assert (told.end, told.advised(), told.record.winner) == ("failed: deadline", (False, None), told.record.attempts[0])


def test_patience_that_ends_while_waiting_ends_the_exchange():
    told = story("a", patience=10.0)
    told.world.chance.share = 1.0
    told.fails("overloaded", after=1.0, delay=5.0)
    assert told.waits == 7.5
    assert told.timer(after=9.0) == ["relay a"]
    assert told.end == "failed: deadline"


def test_nothing_is_sent_once_the_patience_is_over():
    world = World("a", "b")
    late = world.exchange(patience=0.0)
    assert late.start() == ["refuse 504 deadline"]
    told = world.exchange(patience=5.0)
    told.start()
    assert told.fails("server_error", after=5.0) == ["relay a"]
    assert told.end == "failed: deadline"


def test_patience_does_not_end_what_is_committed():
    told = story(stream=True, patience=5.0)
    told.sent().head(streaming=True).content(4.0)
    told.heard(after=3.0)
    assert told.timer() == []
    assert told.finished() == ["finish"]


@pytest.mark.parametrize(
    ("targets", "limit"),
    [(("a", "b"), 10.0), (("a",), 120.0), (("a", "b/big?context_length"), 120.0)],
)
def test_a_probe_is_cut_short_where_another_target_could_serve(targets, limit):
    world = World(*targets)
    shut(world.breaker("a"), world.now)
    world.now += 5.0
    told = world.exchange(stream=True)
    told.start()
    assert told.attempt.probe
    told.sent()
    assert told.waits == limit


def test_a_probe_is_not_cut_short_where_all_others_are_tried_or_at_their_limit():
    world = World("b", "a", "c", "d")
    world.key("c").park(world.now, "gpt-4o", 100.0)
    shut(world.breaker("d"), world.now + 4.0)
    shut(world.breaker("a"), world.now)
    world.now += 5.0
    told = world.exchange(stream=True)
    told.start()
    assert told.fails("timeout") == ["failover a"]
    assert told.attempt.probe
    told.sent()
    assert told.waits == 120.0


@pytest.mark.parametrize(
    ("targets", "answer", "limit"),
    [(("a", "b"), 600.0, 60.0), (("a", "b"), 20.0, 20.0), (("a",), 600.0, 600.0), (("a", "b?context_length"), 600.0, 600.0)],
)
def test_a_probe_that_need_not_stream_has_a_minute_where_another_target_could_serve(targets, answer, limit):
    world = World(*targets)
    shut(world.breaker("a"), world.now)
    world.now += 5.0
    told = world.exchange(policy=policy(answer=answer))
    told.start()
    assert told.attempt.probe
    told.sent()
    assert told.waits == limit


# -- other ends -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["not connected", "sent", "answering", "committed", "waiting"])
def test_a_client_that_leaves_is_nobodys_failure(state):
    told = story(stream=True)
    if state == "waiting":
        told.fails("server_error")
    elif state != "not connected":
        told.sent()
        if state != "sent":
            told.head(streaming=True)
        if state == "committed":
            told.content()
    assert told.gone() == (["finish"] if state == "waiting" else ["cancel a", "finish"])
    assert told.end == "client_gone: client_gone"
    assert told.world.breaker("a")._window.totals(NOW)[0] == (state == "waiting")
    assert (told.gone(), told.drain(), told.timer(), told.machine.wake_at) == ([], [], [], NEVER)


def test_a_client_that_leaves_a_probe_leaves_its_place_to_another():
    world = World("a")
    shut(world.breaker("a"), world.now)
    world.now += 5.0
    told = world.exchange()
    told.start()
    told.gone()
    assert (world.breaker("a").state, world.breaker("a").share(world.now)) == (State.HALF_OPEN, 1.0)


@pytest.mark.parametrize(("drawn", "delay"), [(0.0, 1.0), (1.0, 3.0)])
def test_draining_before_the_commit_sends_the_client_to_another_instance(drawn, delay):
    told = story("a", "b")
    told.world.chance.share = drawn
    assert told.drain() == ["cancel a", "refuse 503 draining"]
    assert (told.end, told.advised()) == ("refused: draining", (True, delay))
    assert told.drain() == []


def test_draining_while_waiting_cancels_nothing():
    told = story()
    told.fails("server_error")
    assert told.drain() == ["refuse 503 draining"]


@pytest.mark.parametrize("streaming", [True, False])
def test_draining_after_the_commit_breaks_the_answer_off(streaming):
    told = story(stream=streaming)
    told.sent().head(streaming=streaming).content()
    assert told.drain() == ["cancel a", "break draining"]
    assert (told.end, told.record.stream_broken) == ("failed: draining", streaming)


def test_what_fails_in_the_gateway_itself_is_answered_and_blamed_on_nobody():
    told = story("a", "b")
    assert told.crash() == ["cancel a", "refuse 500 internal"]
    assert (told.end, told.record.attempts[0].verdict) == ("failed: internal", "cancelled")
    assert told.crash() == []


# -- what may be repeated (law 10) ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", sorted(family.value for family in INFERENCE))
def test_inference_is_replayed_after_it_was_sent(family):
    assert story("a", "b", family=Family(family)).fails("server_error") == ["failover b"]


@pytest.mark.parametrize("family", OTHER_FAMILIES)
@pytest.mark.parametrize(
    ("fault", "circumstances", "repeated"),
    [
        ("server_error", {}, False),
        ("stream_broken", {}, False),
        ("credential", {}, False),
        ("connect", {"sent": False}, True),
        ("server_error", {"sent": False}, True),
        ("overloaded", {}, True),
        ("rate_limited", {"delay": 60.0}, True),
    ],
)
def test_other_work_is_replayed_only_where_it_never_left_or_was_refused_unread(family, fault, circumstances, repeated):
    told = story("a", "b", family=Family(family))
    actions = told.fails(fault, **circumstances)
    assert actions == ["failover b"] if repeated else told.end == "failed: not_retryable"
    assert told.machine.done is not repeated


def test_a_safe_method_may_be_repeated_wherever_it_goes():
    assert story("a", "b", family=Family.FILES, safe=True).fails("server_error") == ["failover b"]


@pytest.mark.parametrize("fault", ["connect", "overloaded", "server_error"])
def test_a_body_that_is_gone_cannot_be_sent_again(fault):
    told = story("a", "b")
    told.machine.intact = False
    told.fails(fault, answered=True)
    assert (told.end, told.advised()) == ("failed: not_retryable", (None, None))


def test_a_body_that_is_gone_reaches_no_larger_model_either():
    told = story("a", "b?context_length")
    told.machine.intact = False
    assert told.fails("context_length") == ["relay a"]
    assert told.end == "caller_error: caller"


# -- what the client gets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [*ELSEWHERE, "content_policy"])
def test_of_two_failures_the_more_telling_one_is_the_answer_and_the_later_of_equals(first):
    for second in NAMES:
        told = story("a", "b", policy=policy(attempts=2, rate_limit_wait=0.0, failover_content_policy=True))
        assert told.fails(first, answered=True) == ["failover b"]
        told.fails(second, answered=True)
        best, name = (Fault(second), "b") if RANK[Fault(second)] >= RANK[Fault(first)] else (Fault(first), "a")
        if best in UNSPEAKABLE:
            assert (told.record.winner, best.value in told.message) == (None, True)
        else:
            assert told.record.winner.provider == name
        assert told.end == ("caller_error: caller" if RANK[best] == 6 else "failed: attempts_exhausted")


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ("context_length", "rate_limited"),
        ("rate_limited", "overloaded"),
        ("rate_limited", "server_error"),
        ("server_error", "timeout"),
        ("timeout", "unknown"),
        ("stalled", "model_gone"),
        ("stream_broken", "connect"),
        ("unknown", "edge_blocked"),
        ("connect", "billing"),
        ("edge_blocked", "credential"),
    ],
)
def test_what_the_client_can_act_on_outranks_what_only_we_can(better, worse):
    assert RANK[Fault(better)] > RANK[Fault(worse)]


@pytest.mark.parametrize("fault", NAMES)
def test_what_was_not_answered_is_told_in_our_own_words_with_the_faults_status(fault):
    told = story(policy=policy(attempts=1))
    reason = "attempts_exhausted" if FAULTS[Fault(fault)].elsewhere else "caller"
    assert told.fails(fault, answered=False) == [f"refuse {FAULTS[Fault(fault)].status} {reason}"]
    assert fault in told.message
    assert told.record.winner is None


@pytest.mark.parametrize("fault", UNSPEAKABLE)
def test_our_own_accounts_troubles_are_never_relayed(fault):
    told = story(policy=policy(attempts=1))
    assert told.fails(fault, answered=True, message="key sk-123 refused", code="sk-123") == [
        f"refuse {FAULTS[Fault(fault)].status} attempts_exhausted"
    ]
    assert "sk-123" not in told.message


def test_time_that_ran_out_on_an_unanswered_failure_is_a_timeout():
    told = story("a", patience=5.0)
    assert told.fails("connect", after=5.0) == ["refuse 504 deadline"]


@pytest.mark.parametrize(
    ("case", "advice"),
    [
        ("attempts spent", (False, None)),
        ("attempts spent, delay stated", (False, 7.0)),
        ("attempts spent, long delay stated", (False, 60.0)),
        ("the caller's own", (None, None)),
        ("budget empty", (None, None)),
        ("budget empty, delay stated", (None, 7.0)),
        ("not repeatable", (None, None)),
        ("not repeatable, delay stated", (None, 7.0)),
        ("limit too far off", (True, 50.0)),
    ],
)
def test_retry_advice_follows_the_table(case, advice):
    spent = policy(attempts=1)
    if case.startswith("attempts spent"):
        delay = {"attempts spent": None, "attempts spent, delay stated": 7.0}.get(case, 4000.0)
        told = story(policy=spent)
        told.fails("overloaded", delay=delay)
    elif case == "the caller's own":
        told = story()
        told.fails("caller", delay=7.0)
    elif case.startswith("budget empty"):
        told = story()
        told.world.spend()
        told.fails("overloaded", delay=7.0 if "stated" in case else None)
    elif case.startswith("not repeatable"):
        told = story(family=Family.BATCHES)
        told.fails("server_error", delay=7.0 if "stated" in case else None)
    else:
        told = story()
        told.fails("rate_limited", delay=50.0)
    assert told.advised() == advice


# -- whose failure it is (laws 7 and 11) ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", NAMES)
def test_each_fault_opens_the_breaker_of_its_own_scope_and_no_other(fault):
    world = World("a", "a/other")
    herd = [world.exchange(policy=policy(attempts=1)) for _ in range(25)]
    # Together: whoever came after a refusal would wait for what it has taught, or go to the other target.
    assert [told.start() for told in herd] == [["first a"]] * 25
    for told in herd:
        told.fails(fault, after=0.1, delay=0.0)
    scope = FAULTS[Fault(fault)].scope
    expected = {Scope.TARGET: ["a/gpt-4o: open"], Scope.PROVIDER: ["a: open"]}.get(scope, [])
    if fault == "credential":
        expected = ["a: open"]  # its only key, and so all of them
    assert world.moves == expected


def both_fail(x, y, *, between=None):
    """Two models of one provider fail in turn, until the breaker of each has opened; returns the state of the provider's."""
    world = World("a/x", "a/y")
    for name, fault in (("a/x", x), ("a/y", y)):
        for said in [fault, fault, between or fault, fault, fault, fault]:
            if world.breaker(name).state is State.CLOSED:
                told = world.exchange(policy=policy(attempts=1))
                told.start()
                told.fails(said, after=0.3)
        assert world.breaker(name).state is State.OPEN
    return world.registry.providers["a"].breaker.state


def test_names_of_models_that_clients_make_up_never_open_a_providers_breaker():
    assert both_fail("server_error", "server_error") is State.OPEN
    assert both_fail("model_gone", "model_gone") is State.CLOSED
    assert both_fail("server_error", "model_gone") is State.CLOSED


@pytest.mark.parametrize("fault", ["caller", "context_length", "content_policy", "model_gone"])
def test_whoever_tells_clients_what_is_wrong_with_their_requests_is_alive_as_a_provider(fault):
    assert both_fail("server_error", "server_error", between=fault) is State.CLOSED


@pytest.mark.parametrize("fault", ["overloaded", "unknown", "timeout"])
def test_no_other_failure_is_a_sign_of_life(fault):
    assert both_fail("server_error", "server_error", between=fault) is State.OPEN


@pytest.mark.parametrize("fault", ["server_error", "connect", "caller"])
@pytest.mark.parametrize("scope", list(Scope))
def test_a_verdict_may_name_another_bearer_than_its_fault_usually_has(fault, scope):
    world = World("a")
    for _ in range(25):
        told = world.exchange(policy=policy(attempts=1))
        told.start()
        told.fails(fault, after=0.1, scope=scope)
    assert {move for move in world.moves if move.endswith(": open")} == {
        Scope.TARGET: {"a/gpt-4o: open"},
        Scope.PROVIDER: {"a: open"},
    }.get(scope, set())


def test_one_exchange_counts_one_failure_against_a_target_however_often_it_asks():
    world = World("a")
    told = world.exchange()
    told.start()
    for _ in range(3):
        told.fails("server_error")
        told.wakes()
    told.fails("server_error")
    assert world.breaker("a")._window.totals(world.now) == (1, 1)


def test_one_exchange_counts_one_failure_against_a_provider_however_many_of_its_targets_it_asks():
    world = World("a", "a/second", "a/third")
    told = world.exchange()
    told.start()
    told.fails("connect", sent=False)
    told.fails("connect", sent=False)
    told.fails("connect", sent=False)
    assert world.registry.providers["a"].breaker._window.totals(world.now) == (1, 1)


def test_a_rate_limit_before_it_does_not_hide_a_targets_failure():
    world = World("a")
    told = world.exchange()
    told.start()
    told.fails("rate_limited", delay=0.5)
    told.wakes()
    told.fails("server_error")
    assert world.breaker("a")._window.totals(world.now) == (1, 1)


def test_each_target_that_fails_bears_its_own_failure():
    world = World("a", "b")
    told = world.exchange(policy=policy(attempts=2))
    told.start()
    told.fails("connect", sent=False)
    told.fails("server_error")
    assert world.registry.providers["a"].breaker._window.totals(world.now) == (1, 1)
    assert world.breaker("b")._window.totals(world.now) == (1, 1)
    assert world.breaker("a")._window.totals(world.now) == (0, 0)
    assert world.registry.providers["b"].breaker._window.totals(world.now) == (0, 0)


def test_a_good_answer_counts_for_target_and_provider():
    told = story()
    told.answers()
    assert told.world.breaker("a")._window.totals(NOW) == (1, 0)
    assert told.world.registry.providers["a"].breaker._window.totals(NOW) == (1, 0)


def test_the_first_content_of_a_probe_lets_others_follow_before_its_stream_ends():
    world = World("a", "b")
    shut(world.breaker("a"), world.now)
    world.now += 5.0
    told = world.exchange(stream=True)
    told.start()
    told.sent().head(streaming=True).content(1.0)
    assert world.breaker("a").state is State.RAMP
    told.finished(60.0)
    assert world.breaker("a").share(world.now) == 1.0


def test_an_answer_under_way_when_the_limit_struck_does_not_lift_it():
    world = World("a")
    slow = world.exchange()
    slow.start()
    world.key().park(world.now, "gpt-4o", 30.0)
    slow.answers(after=5.0)
    assert world.usable_in() == 25.0


def test_an_answer_after_the_pause_ends_it():
    world = World("a")
    told = world.exchange()
    told.start()
    told.fails("rate_limited")
    told.wakes()
    told.answers()
    assert world.key().usable_at(world.now, "gpt-4o") == 0.0


def test_every_fault_has_its_rank_and_a_rank_below_the_callers_may_go_elsewhere():
    assert set(RANK) == set(Fault) == set(FAULTS)
    for fault, rule in FAULTS.items():
        assert rule.elsewhere is (RANK[fault] < 6)
        assert rule.elsewhere or rule.again is Again.NEVER
    assert {ending.value for ending in Ending} == {"ok", "caller_error", "failed", "refused", "client_gone"}
