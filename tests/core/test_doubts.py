"""Exchanges with a suspect target: a second opinion on its 400s, and clients who give up on its silence (laws 3 and 11)."""

import pytest

from gateway.core.plan import Family
from tests.core.build import World, policy, shut


def rejected(world, client, *, status=400, **settings):
    """One exchange that ends with the first target's 400."""
    story = world.exchange(client=client, **settings)
    story.start()
    return story, story.fails("caller", status=status)


def suspected(*targets, **settings):
    """A world in which `a` says 400 to everybody, after having served well for long."""
    world = World(*targets, **settings)
    for _ in range(30):
        story = world.exchange()
        story.start()
        story.answers(0.1)
    for client in ("one", "two") * 4 + ("one",):
        assert rejected(world, client)[1] == ["relay a"]
    return world


# -- a second opinion -------------------------------------------------------------------------------------------------------------


def test_when_400s_jump_from_rare_to_common_another_target_is_asked():
    world = suspected("a", "b")
    story, actions = rejected(world, "three")
    assert actions == ["failover b"]
    story.answers()
    assert (story.end, story.record.saved_by, story.trail) == ("ok: none", "failover", ["a:caller", "b:ok"])


def test_a_target_convicted_by_another_bears_the_failure():
    world = suspected("a", "b")
    story, _ = rejected(world, "three")
    assert world.failures("a") == 0, "as long as the other has not spoken"
    story.answers()
    assert (world.failures("a"), world.failures("b")) == (1, 0)


def test_a_stream_convicts_when_it_is_whole():
    world = suspected("a", "b")
    story, _ = rejected(world, "three", stream=True)
    story.sent().head(streaming=True).content(1.0)
    assert world.failures("a") == 0
    story.finished(1.0)
    assert world.failures("a") == 1


def test_enough_convictions_open_the_breaker():
    world = suspected("a", "b")
    for client in "defghijklm":
        story, actions = rejected(world, client)
        if actions == ["failover b"]:
            story.answers(0.3)
        if world.moves:
            break
    assert world.moves == ["a/gpt-4o: open"]
    assert world.exchange().start() == ["first b"]


def test_a_target_that_is_borne_out_is_cleared_and_its_own_answer_is_the_clients():
    world = suspected("a", "b")
    story, _ = rejected(world, "three")
    assert story.fails("caller", status=400) == ["relay a"]
    assert (story.end, story.advised(), story.record.winner) == ("caller_error: caller", (None, None), story.record.attempts[0])
    assert (world.failures("a"), world.failures("b")) == (0, 0)
    assert rejected(world, "four")[1] == ["relay a"], "it is no longer suspect"


@pytest.mark.parametrize(
    "fault", ["server_error", "overloaded", "timeout", "rate_limited", "credential", "context_length", "content_policy"]
)
def test_where_the_other_knows_nothing_the_first_answer_is_the_clients_and_the_doubt_remains(fault):
    world = suspected("a", "b", "c")
    story, _ = rejected(world, "three")
    assert story.fails(fault, quick=fault == "server_error") == ["relay a"]
    assert (story.end, len(story.trail), world.failures("a")) == ("caller_error: caller", 2, 0)
    assert rejected(world, "four")[1] in (["failover b"], ["failover c"])


def test_one_other_target_is_asked_and_no_more():
    world = suspected("a", "b", "c")
    story, _ = rejected(world, "three")
    assert story.fails("caller", status=400) == ["relay a"]
    assert len(story.trail) == 2


def test_the_other_is_the_next_one_that_can_be_asked_at_once():
    world = suspected("a", "b", "c", "d")
    world.key("b").park(world.now, "gpt-4o", 1.0)
    shut(world.breaker("c"), world.now)
    _, actions = rejected(world, "three")
    assert actions == ["failover d"], "a preferred target at its limit is not waited for"


def test_an_opinion_that_comes_too_late_is_not_asked_for():
    world = suspected("a", "b")
    story = world.exchange(client="three", patience=5.0)
    story.start()
    assert story.fails("caller", status=400, after=5.0) == ["relay a"]
    assert story.end == "caller_error: caller"


def test_failures_before_the_doubted_answer_do_not_become_the_clients():
    world = suspected("a", "b", "c")
    shut(world.breaker("a"), world.now)
    story = world.exchange(client="three", policy=policy(attempts=3))
    assert story.start() == ["first b"]
    world.now += 5.0
    assert story.fails("server_error") == ["failover a"]
    assert story.fails("caller", status=400) == ["failover c"]
    assert story.fails("overloaded") == ["relay a"]


@pytest.mark.parametrize(
    ("case", "targets", "settings"),
    [
        ("there is no other target", ("a",), {}),
        ("the other is for something else", ("a", "b?context_length"), {}),
        ("the attempts are spent", ("a", "b"), {"policy": policy(attempts=1)}),
        ("it is no inference", ("a", "b"), {"family": Family.FILES, "safe": True}),
        ("the body is gone", ("a", "b"), {}),
        ("the other is held back", ("a", "b"), {}),
        ("the other is at its limit", ("a", "b"), {}),
    ],
)
def test_without_another_opinion_the_answer_is_relayed_as_it_is(case, targets, settings):
    world = suspected(*targets)
    if settings.get("family"):
        state = world.places(Family.FILES)[0].state
        state.rejections = world.place("a").state.rejections
    elif case == "the other is held back":
        shut(world.breaker("b"), world.now)
    elif case == "the other is at its limit":
        world.key("b").park(world.now, "gpt-4o", 5.0)
    world.place("a").state.rejections.rejected(world.now, "three")
    story = world.exchange(client="four", **settings)
    story.start()
    story.machine.intact = case != "the body is gone"
    assert story.fails("caller", status=400, answered=True) == ["relay a"], case
    assert (story.end, story.advised(), world.failures("a")) == ("caller_error: caller", (None, None), 0)


def test_one_client_alone_never_makes_a_target_suspect():
    world = World("a", "b")
    for _ in range(30):
        story = world.exchange()
        story.start()
        story.answers()
    for _ in range(100):
        assert rejected(world, "noisy")[1] == ["relay a"]
    assert world.failures("a") == 0


@pytest.mark.parametrize("status", [401, 403, 407])
def test_answers_about_a_clients_own_key_never_count(status):
    world = World("a", "b", keys=())
    for _ in range(30):
        story = world.exchange(foreign_key="good")
        story.start()
        story.answers()
    for number in range(30):
        _, actions = rejected(world, f"key-{number}", status=status, foreign_key=f"key-{number}")
        assert actions == ["relay a"]
    assert world.place("a").state.rejections.suspect is False


@pytest.mark.parametrize("status", [401, 403, 407])
def test_answers_about_a_clients_own_key_get_no_second_opinion_from_a_suspect_target(status):
    world = suspected("a", "b")
    world.place("a").state.rejections.rejected(world.now, "three")
    assert rejected(world, "four", status=status)[1] == ["relay a"]


@pytest.mark.parametrize("fault", ["context_length", "content_policy"])
def test_what_is_known_to_be_the_callers_is_not_doubted(fault):
    world = World("a", "b")
    for _ in range(30):
        world.place("a").state.rejections.served += 1
    for number in range(30):
        story = world.exchange(client=f"client-{number}")
        story.start()
        assert story.fails(fault, status=400) == ["relay a"]


def test_the_suspicion_fades_when_the_target_is_well_again():
    world = suspected("a", "b")
    story, actions = rejected(world, "three")
    assert actions == ["failover b"]
    story.answers()
    for _ in range(30):
        story = world.exchange()
        story.start()
        story.answers()
    assert rejected(world, "four")[1] == ["relay a"]


@pytest.mark.parametrize("end", ["gone", "deadline", "drain"])
def test_an_opinion_that_does_not_come_in_time_convicts_nobody(end):
    world = suspected("a", "b")
    story, _ = rejected(world, "three", patience=5.0)
    story.sent()
    if end == "gone":
        assert story.gone() == ["cancel b", "finish"]
    elif end == "drain":
        assert story.drain() == ["cancel b", "refuse 503 draining"]
    else:
        assert story.wakes() == ["cancel b", "relay a"]
        assert story.end == "caller_error: caller"
    assert world.failures("a") == 0


# -- silence ----------------------------------------------------------------------------------------------------------------------


def gives_up(world, client, *, after=12.0, leaves=True, stream=True, head=False, uploading=False):
    """One client's request, unanswered until it gives up: by leaving, or because its patience is over."""
    story = world.exchange(client=client, stream=stream, patience=600.0 if leaves else after)
    story.start()
    story.attempt.uploading = uploading
    story.sent()
    if head:
        story.head(streaming=stream)
    world.now += after
    if leaves:
        story.gone()
    else:
        story.timer()
    assert story.trail == ["a:cancelled"]
    return world.failures("a")


@pytest.mark.parametrize("leaves", [True, False])
def test_a_target_that_hangs_is_found_out_by_clients_who_give_up(leaves):
    world = World("a", "b")
    assert [gives_up(world, client, leaves=leaves) for client in "abc"] == [0, 1, 2]
    assert world.moves == []
    for client in "aba":
        gives_up(world, client, leaves=leaves)
    assert world.moves == ["a/gpt-4o: open"]
    assert world.exchange().start() == ["first b"]


def test_one_client_that_gives_up_ever_so_often_is_nobodys_failure():
    world = World("a", "b")
    assert {gives_up(world, "a") for _ in range(20)} == {0}


@pytest.mark.parametrize(
    ("stream", "after", "counts"),
    [(True, 9.9, False), (True, 10.0, True), (False, 12.0, False), (False, 59.9, False), (False, 60.0, True)],
)
def test_a_stream_should_have_begun_by_ten_seconds_and_another_answer_by_sixty(stream, after, counts):
    world = World("a", "b")
    gives_up(world, "x", after=100.0)
    assert gives_up(world, "y", stream=stream, after=after) == counts


def test_life_shown_to_somebody_meanwhile_clears():
    world = World("a", "b")
    gives_up(world, "x")
    waiting = world.exchange(client="y", stream=True)
    waiting.start()
    waiting.sent()
    world.now += 5.0
    world.serves("a")
    world.now += 10.0
    waiting.gone()
    assert world.failures("a") == 0
    assert gives_up(world, "z") == 0, "and the first client's evidence is void"
    assert gives_up(world, "x") == 1


@pytest.mark.parametrize("circumstance", ["head", "uploading"])
def test_whoever_had_an_answer_begun_or_was_still_uploading_is_no_witness(circumstance):
    world = World("a", "b")
    gives_up(world, "x")
    assert gives_up(world, "y", **{circumstance: True}) == 0
    world = World("a", "b")
    gives_up(world, "x", **{circumstance: True})
    assert gives_up(world, "y") == 0


def test_an_attempt_that_was_never_sent_is_no_silence():
    world = World("a", "b")
    gives_up(world, "x")
    story = world.exchange(client="y", stream=True)
    story.start()
    world.now += 100.0
    story.gone()
    assert world.failures("a") == 0


def test_the_gateways_own_end_is_no_silence_either():
    world = World("a", "b")
    gives_up(world, "x")
    for end in ("drain", "crash"):
        story = world.exchange(client="y", stream=True)
        story.start()
        story.sent()
        world.now += 20.0
        getattr(story, end)()
    assert world.failures("a") == 0


def test_silence_after_a_failure_in_the_same_exchange_is_no_second_failure():
    world = World("a")
    gives_up(world, "x")
    story = world.exchange(client="y", stream=True)
    story.start()
    story.fails("overloaded")
    story.wakes()
    story.sent()
    world.now += 20.0
    story.gone()
    assert (story.trail, world.failures("a")) == (["a:overloaded", "a:cancelled"], 1)


def test_a_probe_on_which_clients_give_up_opens_the_breaker_again():
    world = World("a")
    gives_up(world, "x")
    shut(world.breaker("a"), world.now)
    world.serves("a")
    world.now += 5.0
    gives_up(world, "x")
    assert gives_up(world, "y") >= 1
    assert world.moves[-1] == "a/gpt-4o: open"
