"""Streams that break after their commit and go on at another target: when, where, and what is learned from it (law 5)."""

import pytest

from gateway.core.plan import HedgePlan, Prefill
from tests.core.build import NOW, World, policy, shut

RESUMES = policy(resume=True, stall=20.0, first_token=10.0)
PREFILLED = {"b": Prefill.PLAIN, "c": Prefill.PREFIX}


def flowing(*targets, world=None, rule=RESUMES, resumable=True, **settings):
    """An exchange whose first attempt streams; the driver says that what the client has of it can be continued."""
    told = (world or World(*(targets or ("a", "b", "c")))).exchange(policy=rule, stream=True, **settings)
    told.start()
    told.sent().begins(after=1.0)
    told.machine.resumable = resumable
    return told


def resumed(*targets, **settings):
    """The same, broken and gone on with elsewhere."""
    told = flowing(*targets, **settings)
    assert told.broke(after=2.0) == ["resume b"]
    told.sent()
    return told


def test_a_stream_that_breaks_goes_on_elsewhere():
    told = flowing()
    assert told.broke(after=2.0, code="reset") == ["resume b"]
    assert told.sent().begins(after=0.5) == ["commit b"], "it is open since long"
    assert told.finished(after=3.0) == ["finish"]
    record = told.record
    assert (told.end, told.trail, record.saved_by) == ("ok: none", ["a:stream_broken", "b:ok"], "resume")
    assert (record.winner, record.stream_broken, record.opened_at) == (told.attempt, False, NOW + 1.0)
    assert (told.world.failures("a"), told.world.failures("b")) == (1, 0)


def test_a_stream_that_stalls_does_so_too():
    told = flowing()
    told.heard(after=3.0)
    assert told.waits == 20.0
    assert told.wakes() == ["cancel a", "resume b"]


@pytest.mark.parametrize(
    ("case", "targets", "settings"),
    [
        ("the policy says so", ("a", "b"), {"rule": policy()}),
        ("it cannot be continued", ("a", "b"), {"resumable": False}),
        ("the request is gone", ("a", "b"), {}),
        ("the attempts are spent", ("a", "b"), {"rule": policy(resume=True, attempts=1)}),
        ("there is no other target", ("a",), {}),
        ("the other is for something else", ("a", "b?context_length"), {}),
        ("the other is held back", ("a", "b"), {}),
        ("the other is at its limit", ("a", "b"), {}),
    ],
)
def test_otherwise_it_is_broken_off(case, targets, settings):
    world = World(*targets)
    told = flowing(world=world, **settings)
    if case == "the request is gone":
        told.machine.intact = False
    elif case == "the other is held back":
        shut(world.breaker("b"), world.now)
    elif case == "the other is at its limit":
        world.key("b").park(world.now, "gpt-4o", 5.0)
    assert told.broke(code="reset") == ["break reset"], case
    assert (told.end, told.record.stream_broken) == ("failed: stream_broken", True)


def test_never_at_a_target_that_has_failed_in_this_exchange():
    world = World("a", "b")
    told = world.exchange(policy=RESUMES, stream=True)
    told.start()
    assert told.fails("overloaded") == ["failover b"]
    told.sent().begins()
    told.machine.resumable = True
    assert told.broke(code="reset") == ["break reset"]


def test_one_that_was_overtaken_has_not_failed():
    world = World("a", "b")
    world.hedges.deposit(3.0)
    told = world.exchange(policy=policy(resume=True, hedge=HedgePlan(after_s=2.0, max=2)), stream=True)
    told.start()
    assert told.sent().wakes() == ["hedge b"]
    told.sent().begins()
    told.machine.resumable = True
    assert told.broke() == ["resume a"]
    assert told.sent().waits == 120.0, "and nothing goes beside it"


@pytest.mark.parametrize("resume", [True, False])
def test_the_driver_can_tell_whether_it_need_keep_what_is_needed_for_that(resume):
    assert World("a").exchange(policy=policy(resume=resume)).machine.resumes is resume


# -- one after the other ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["server_error", "overloaded", "rate_limited", "caller", "context_length"])
def test_one_that_cannot_go_on_leaves_it_to_the_next(fault):
    told = resumed()
    assert told.fails(fault, status=400 * (fault == "caller")) == ["resume c"]
    assert told.sent().begins() == ["commit c"]
    told.finished()
    assert (told.end, told.record.winner.provider) == ("ok: none", "c")


def test_where_nobody_can_go_on_the_client_is_told_what_happened_to_its_stream():
    told = resumed()
    told.fails("server_error", code="oops")
    assert told.fails("overloaded", code="busy") == ["break stream_broken"]
    assert (told.end, told.record.stream_broken, told.trail) == (
        "failed: stream_broken",
        True,
        ["a:stream_broken", "b:server_error", "c:overloaded"],
    )


def test_one_that_breaks_in_its_turn_is_followed_by_the_next():
    told = resumed()
    told.begins(after=1.0)
    assert told.broke(after=1.0) == ["resume c"]
    told.sent().begins()
    assert told.broke(code="reset") == ["break reset"]
    assert [attempt.broken for attempt in told.record.attempts] == [True, True, True]


def test_only_what_the_client_had_begun_to_read_has_broken():
    told = resumed()
    told.fails("server_error")
    assert [attempt.broken for attempt in told.record.attempts] == [True, False, False]


def test_an_answer_that_is_no_stream_continues_none():
    told = resumed()
    assert told.begins(streaming=False) == ["cancel b", "resume c"]
    told.sent().head()
    assert told.finished() == ["cancel c", "break stream_broken"], "and is not presented as the rest of it"
    assert (told.end, told.record.stream_broken) == ("failed: stream_broken", True)
    assert [(attempt.code, attempt.broken) for attempt in told.record.attempts] == [
        ("", True),
        ("no_stream", False),
        ("no_stream", False),
    ]
    assert (told.world.failures("b"), told.world.failures("c")) == (0, 0)


# -- clocks and other ends --------------------------------------------------------------------------------------------------------


def test_whoever_goes_on_has_its_time_for_the_first_token():
    told = resumed()
    assert told.waits == 10.0
    assert told.wakes() == ["cancel b", "resume c"]
    assert told.trail == ["a:stream_broken", "b:timeout", "c:"]


def test_patience_does_not_end_what_the_client_has_begun_to_read():
    told = resumed(patience=4.0)
    assert told.timer(after=5.0) == []
    assert told.begins() == ["commit b"]


def test_comments_bridge_the_gap():
    told = resumed(rule=policy(resume=True, keepalive=5.0))
    assert (told.waits, told.wakes()) == (5.0, ["comfort"])
    told.attempt.catching_up = True
    told.begins(after=4.0)
    assert (told.waits, told.wakes()) == (1.0, ["comfort"]), "what the client has already is nothing new to it"
    told.attempt.catching_up = False
    told.heard(after=3.0)
    assert told.waits == 5.0


def test_a_client_that_leaves_meanwhile_is_nobodys_failure():
    told = resumed()
    assert told.gone() == ["cancel b", "finish"]
    assert (told.end, told.world.failures("b")) == ("client_gone: client_gone", 0)


def test_draining_meanwhile_breaks_it_off():
    told = resumed()
    assert told.drain() == ["cancel b", "break draining"]
    assert (told.end, told.record.stream_broken) == ("failed: draining", True)


# -- how ------------------------------------------------------------------------------------------------------------------------


def test_it_is_asked_to_continue_in_the_way_its_operator_declares():
    told = flowing(world=World("a", "b", "c", prefills=PREFILLED))
    told.broke()
    assert told.attempt.prefill is Prefill.PLAIN
    told.fails("server_error")
    assert told.attempt.prefill is Prefill.PREFIX
    assert told.record.attempts[0].prefill is Prefill.NONE


def test_one_that_refuses_that_is_asked_from_the_beginning_now_and_ever_after():
    world = World("a", "b", "c", prefills=PREFILLED)
    told = resumed(world=world)
    assert told.fails("caller", status=400) == ["resume b"]
    assert told.attempt.prefill is Prefill.NONE
    told.sent().begins()
    assert told.finished() == ["finish"]
    assert told.trail == ["a:stream_broken", "b:caller", "b:ok"]
    assert world.place("b").state.rejections._rejected == 0, "no client has asked for anything wrong"
    told = resumed(world=world)
    assert told.attempt.prefill is Prefill.NONE
    assert told.fails("caller", status=400) == ["resume c"]


def test_it_is_known_ever_after_though_this_exchange_has_no_attempt_left_for_it():
    world = World("a", "b", prefills=PREFILLED)
    told = resumed(world=world, rule=policy(resume=True, attempts=2))
    assert told.fails("caller", status=400) == ["break stream_broken"]
    assert resumed(world=world).attempt.prefill is Prefill.NONE


@pytest.mark.parametrize(("fault", "content"), [("server_error", False), ("caller", True)])
def test_other_failures_do_not_mean_that_it_was_refused(fault, content):
    world = World("a", "b", "c", prefills=PREFILLED)
    told = resumed(world=world)
    if content:
        told.begins()
        assert told.broke(fault) == ["resume c"]
    else:
        assert told.fails(fault) == ["resume c"]
    assert not world.place("b").state.prefill_refused
