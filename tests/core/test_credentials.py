"""What keeps a key from use, for how long, and who tests it afterwards (laws 7 and 11)."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway.core import credentials as module
from gateway.core.credentials import WHOLE, CredentialState
from tests.core.build import NOW


@pytest.fixture
def key():
    return CredentialState()


def usable_in(key, now, model="m"):
    return max(0.0, key.usable_at(now, model) - now)


def test_a_new_key_may_be_used_at_once(key):
    assert (key.usable_at(NOW, "m"), key.benched(NOW), key.benched_for(NOW), key.refused) == (0.0, False, 0.0, False)
    assert (key.take(NOW, "m"), key.stated(NOW, "m")) == (0.0, True)


# -- parked -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("stated", "seconds"), [(0.0, 0.0), (2.5, 2.5), (60.0, 60.0), (3600.0, 60.0), (None, 1.0)])
def test_a_rate_limit_parks_for_as_long_as_stated_and_a_minute_at_most(key, stated, seconds):
    key.park(NOW, "m", stated)
    assert key.usable_at(NOW, "m") == NOW + seconds


def test_a_rate_limit_concerns_one_model_unless_it_is_said_to_concern_the_whole_key(key):
    key.park(NOW, "m", 10.0)
    assert key.usable_at(NOW, "other") == 0.0
    key.park(NOW, WHOLE, 5.0)
    assert [usable_in(key, NOW, model) for model in ("m", "other")] == [10.0, 5.0]


def test_a_rate_limit_is_no_bench(key):
    key.park(NOW, WHOLE, 10.0)
    assert (key.benched(NOW), key.benched(NOW, "m"), key.benched_for(NOW), key.refused) == (False, False, 0.0, False)


def test_a_rate_limit_without_a_stated_delay_keeps_away_ever_longer(key):
    at, lengths = NOW, []
    for _ in range(8):
        key.park(at, "m", None)
        lengths.append(usable_in(key, at))
        at = key.usable_at(at, "m")
    assert lengths == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]


def test_refusals_that_were_under_way_together_are_one_rate_limit(key):
    for step in range(20):
        key.park(NOW + step / 100, "m", None)
    assert key.usable_at(NOW, "m") == pytest.approx(NOW + 0.19 + 1.0)


def test_a_refusal_that_leaves_quota_keeps_away_for_a_second_and_never_for_longer(key):
    at = NOW
    for _ in range(5):
        key.park(at, "m", None, quota_left=True)
        assert usable_in(key, at) == 1.0
        at += 1.0
    key.park(at, "m", None)
    assert usable_in(key, at) == 1.0, "the doubtful ones did not lengthen it"


def test_a_doubtful_refusal_does_not_use_up_the_doubling_of_a_real_one(key):
    for at, quota_left, seconds in [(0.0, False, 1.0), (1.0, True, 1.0), (2.0, False, 2.0), (4.0, True, 1.0), (5.0, False, 4.0)]:
        key.park(NOW + at, "m", None, quota_left=quota_left)
        assert usable_in(key, NOW + at) == seconds


def test_a_real_refusal_beside_a_doubtful_one_keeps_away_for_its_whole_second(key):
    key.park(NOW, "m", None, quota_left=True)
    key.park(NOW + 0.9, "m", None)
    assert key.usable_at(NOW, "m") == NOW + 1.9


def test_a_later_refusal_never_shortens_a_stated_delay(key):
    key.park(NOW, "m", 30.0)
    key.park(NOW + 1.0, "m", 2.0)
    key.park(NOW + 1.0, "m", None)
    assert key.usable_at(NOW, "m") == NOW + 30.0


def test_a_request_served_after_the_pause_ends_the_doubling(key):
    key.park(NOW, "m", None)
    key.park(NOW + 1.0, "m", None)
    key.served("m", began_at=NOW + 3.0)
    assert key.usable_at(NOW + 3.0, "m") == 0.0
    key.park(NOW + 4.0, "m", None)
    assert key.usable_at(NOW + 4.0, "m") == NOW + 5.0


def test_an_answer_that_was_under_way_when_the_limit_struck_does_not_lift_it(key):
    key.park(NOW, "m", 20.0)
    key.served("m", began_at=NOW - 5.0)
    assert key.usable_at(NOW, "m") == NOW + 20.0


def test_serving_one_model_leaves_the_limits_of_others(key):
    key.park(NOW, "m", 20.0)
    key.served("other", began_at=NOW + 90.0)
    assert key.usable_at(NOW, "m") == NOW + 20.0


@pytest.mark.parametrize(
    ("limits", "stated"),
    [
        ([("m", 5.0)], True),
        ([("m", None)], False),
        ([("m", 5.0), (WHOLE, None)], False),
        ([("m", 5.0), (WHOLE, 2.0)], True),
        ([("other", None)], True),
        ([("m", None), ("m", 5.0)], True),
        ([("m", 5.0), ("m", None)], True),  # the longer, stated one still holds
        ([("m", None), ("m", 0.1)], False),
    ],
)
def test_a_delay_is_stated_where_the_provider_named_all_that_is_left_of_it(key, limits, stated):
    for model, delay in limits:
        key.park(NOW, model, delay)
    assert key.stated(NOW, "m") is stated


def test_a_bench_is_no_stated_delay_though_a_stated_one_runs_beside_it(key):
    key.park(NOW, "m", 5.0)
    key.bench(NOW)
    assert (key.stated(NOW, "m"), key.stated(NOW + 61.0, "m")) == (False, True)


# -- benched ----------------------------------------------------------------------------------------------------------------------


def test_a_refused_key_is_tried_again_after_a_minute_and_then_ever_less_often(key):
    at, lengths = NOW, []
    for _ in range(6):
        key.bench(at)
        lengths.append((usable_in(key, at), key.benched_for(at)))
        at = key.usable_at(at, "m")
    assert lengths == [(seconds, seconds) for seconds in (60.0, 120.0, 240.0, 480.0, 900.0, 900.0)]


def test_requests_refused_together_bench_a_key_once(key):
    for step in range(10):
        key.bench(NOW + step)
    assert (key.usable_at(NOW, "any"), key.benched(NOW)) == (NOW + 60.0, True)
    key.bench(NOW + 60.0)
    assert key.benched_for(NOW + 60.0) == 120.0


def test_a_key_without_rights_to_one_model_serves_the_others(key):
    key.bench(NOW, "m")
    assert [usable_in(key, NOW, model) for model in ("m", "other")] == [60.0, 0.0]
    assert [key.benched(NOW, model) for model in ("m", "other", WHOLE)] == [True, False, False]
    assert (key.benched_for(NOW), key.refused) == (0.0, False)


@pytest.mark.parametrize("refused", [True, False])
def test_it_is_remembered_whether_a_key_was_refused_or_is_out_of_credit(key, refused):
    key.bench(NOW, refused=refused)
    assert (key.benched(NOW), key.refused) == (True, refused)
    key.bench(NOW + 1.0, refused=not refused)
    assert key.refused is not refused, "what was heard last"


def test_a_stream_that_outlived_the_refusal_of_its_key_does_not_call_it_back(key):
    key.bench(NOW)
    key.served("m", began_at=NOW - 30.0)
    assert (key.usable_at(NOW, "m"), key.refused) == (NOW + 60.0, True)
    key.served("m", began_at=NOW + 61.0)
    assert (key.usable_at(NOW, "m"), key.benched(NOW), key.refused) == (0.0, False, False)


def test_serving_one_model_calls_the_whole_key_back_but_not_for_another_model(key):
    key.bench(NOW)
    key.bench(NOW, "other")
    key.served("m", began_at=NOW + 61.0)
    assert [key.usable_at(NOW + 61.0, model) for model in ("m", "other")] == [0.0, NOW + 60.0]


def test_serving_a_model_that_was_benched_says_nothing_about_a_refusal_since_then(key):
    key.bench(NOW, "m")
    key.bench(NOW + 50.0)
    key.served("m", began_at=NOW + 61.0)
    assert (key.benched_for(NOW + 61.0), key.refused) == (49.0, True)


def test_a_rotated_key_begins_afresh(key):
    key.bench(NOW)
    key.bench(NOW, "m")
    key.park(NOW, "m", 30.0)
    key.forget()
    assert (key.usable_at(NOW, "m"), key.benched(NOW, "m"), key.refused) == (0.0, False, False)
    key.bench(NOW)
    assert key.benched_for(NOW) == 60.0


def test_a_bench_may_be_made_to_end_with_something_else(key):
    key.retry_at(NOW)
    assert key.usable_at(NOW, "m") == 0.0, "there is none"
    key.bench(NOW)
    key.retry_at(NOW + 4.0)
    assert (key.benched_for(NOW), usable_in(key, NOW)) == (4.0, 4.0)
    assert key.take(NOW + 4.0, "m") > 0.0
    key.retry_at(NOW + 9.0)
    assert [usable_in(key, NOW + at) for at in (4.0, 9.0)] == [5.0, 0.0], "and with a probe of its own"


# -- the probe --------------------------------------------------------------------------------------------------------------------


def park(key):
    key.park(NOW - 5.0, "m", 5.0)


def bench(key):
    key.bench(NOW - 60.0)


ALONE_S = {park: 2.0, bench: 10.0}
"""For how long a probe has the place to itself: a limit that still holds says so at once."""


@pytest.fixture(params=[park, bench])
def over(request, key):
    """A key with a hold on it whose end has come, and for how long its probe has the place."""
    request.param(key)
    assert key.usable_at(NOW, "m") == NOW
    return key, ALONE_S[request.param]


def test_when_a_hold_is_over_one_request_is_the_probe_and_others_look_again_soon(over):
    key, alone_s = over
    assert key.take(NOW, "m") == NOW + alone_s
    assert [usable_in(key, NOW + at) for at in (0.0, 1.0, alone_s - 0.1)] == pytest.approx([0.25, 0.25, 0.1])
    assert key.take(NOW + 1.0, "m") == 0.0, "whoever goes all the same is no second probe"


def test_a_probe_that_hangs_is_joined_by_another_which_then_has_the_place(over):
    key, alone_s = over
    first = key.take(NOW, "m")
    assert usable_in(key, NOW + alone_s) == 0.0
    second = key.take(NOW + alone_s, "m")
    assert second == NOW + 2 * alone_s
    key.let_go("m", first)
    assert usable_in(key, NOW + alone_s + 1.0) == 0.25
    key.let_go("m", second)
    assert usable_in(key, NOW + alone_s + 1.0) == 0.0


def test_a_probe_that_tells_nothing_leaves_its_place_to_another(over):
    key, alone_s = over
    key.let_go("m", key.take(NOW, "m"))
    assert usable_in(key, NOW) == 0.0
    assert key.take(NOW + 1.0, "m") == NOW + 1.0 + alone_s


def test_a_probe_that_is_served_ends_the_hold(over):
    over, _ = over
    over.take(NOW, "m")
    over.served("m", began_at=NOW)
    assert (over.usable_at(NOW, "m"), over.take(NOW, "m")) == (0.0, 0.0)


def test_a_probe_that_meets_the_limit_again_renews_the_hold():
    for renew, seconds in [(lambda key: key.park(NOW, "m", 8.0), 8.0), (lambda key: key.park(NOW, "m", None), 2.0)]:
        key = CredentialState()
        park(key)
        key.take(NOW, "m")
        renew(key)
        assert usable_in(key, NOW) == seconds
    bench(key := CredentialState())
    key.take(NOW, "m")
    key.bench(NOW)
    assert usable_in(key, NOW) == 120.0


def test_a_limit_that_somebody_else_meets_makes_the_probes_place_void(key):
    park(key)
    key.take(NOW, "m")
    key.park(NOW + 1.0, "m", 2.0)
    assert [usable_in(key, NOW + at) for at in (1.0, 3.0)] == [2.0, 0.0]


def test_nobody_is_a_probe_while_the_hold_lasts_or_where_it_concerns_another_model(key):
    key.park(NOW, "m", 5.0)
    assert (key.take(NOW, "m"), key.take(NOW + 5.0, "other")) == (0.0, 0.0)


def test_one_request_probes_all_that_is_over_on_its_way(key):
    park(key)
    bench(key)
    probe = key.take(NOW, "m")
    assert probe == NOW + 10.0, "and has as long as the one that needs it longest"
    assert [usable_in(key, NOW, model) for model in ("m", "other")] == [0.25, 0.25]
    key.let_go("m", probe)
    assert [usable_in(key, NOW, model) for model in ("m", "other")] == [0.0, 0.0]


@pytest.mark.interpreted
def test_holds_are_bounded_for_clients_choose_the_names(key, monkeypatch):
    monkeypatch.setattr(module, "MAX_HELD", 3)
    for hold in (lambda model, s: key.park(NOW, model, s), lambda model, _: key.bench(NOW, model)):
        key.forget()
        for model in "abc":
            hold(model, 60.0)
        hold("a", 60.0)
        assert [usable_in(key, NOW, model) for model in "abcd"] == [60.0, 60.0, 60.0, 0.0]
        hold("d", 60.0)
        assert [usable_in(key, NOW, model) for model in "abcd"] == [0.0, 0.0, 0.0, 60.0]


@pytest.mark.parametrize(
    ("delay", "left", "tried"), [(0.9, False, True), (None, True, False), (None, False, True), (0.0, True, True)]
)
def test_what_is_doubtful_is_not_tried_out_by_one_while_the_others_wait(key, delay, left, tried):
    key.park(NOW, "m", delay, quota_left=left)
    assert bool(key.take(NOW + 1.0, "m")) is tried
    assert (usable_in(key, NOW + 1.0, "m") > 0.0) is tried


# -- against a model --------------------------------------------------------------------------------------------------------------


class KeyAgainstModel(RuleBasedStateMachine):
    """The model: a hold is a dict, for each of the two kinds and each scope; a request is who began when and is whose probe."""

    @initialize()
    def begin(self):
        self.key, self.now, self.holds, self.sent, self.refused = CredentialState(), NOW, {}, [], False

    def concerning(self, model):
        return [hold for (_, scope), hold in self.holds.items() if scope in {None, model}]

    def wait(self, model):
        """Seconds until a request for this model may go."""
        waits = [0.0]
        for hold in self.concerning(model):
            if self.now < hold["until"]:
                waits.append(hold["until"] - self.now)
            elif self.probed(hold):
                waits.append(min(0.25, hold["probe"]["until"] - self.now))
        return max(waits)

    def probed(self, hold):
        """Somebody else is finding out whether it is over."""
        return hold["probe"] is not None and self.now < hold["probe"]["until"]

    def held(self, kind, scope):
        return self.holds.setdefault(
            (kind, scope), {"kind": kind, "until": 0.0, "times": 0, "probe": None, "stated": False, "doubtful": False}
        )

    @rule(seconds=st.sampled_from([0.0, 0.2, 1.0, 1.9, 2.0, 4.0, 9.9, 10.0, 60.0, 300.0]))
    def time_passes(self, seconds):
        self.now += seconds

    @rule(model=st.sampled_from("mn"), delay=st.sampled_from([None, None, 0.0, 0.5, 4.0, 500.0]), left=st.booleans())
    def a_rate_limit(self, model, delay, left):
        hold = self.held("park", model)
        left = left and delay is None
        self.key.park(self.now, model, delay, quota_left=left)
        if self.now >= hold["until"] and not left:
            hold["times"] += 1
        seconds = min(60.0, delay) if delay is not None else 1.0 if left else min(60.0, 2.0 ** max(0, hold["times"] - 1))
        if self.now + seconds >= hold["until"]:
            hold["until"], hold["stated"] = self.now + seconds, delay is not None
            # Nobody tries out what was doubtful from the beginning.
            hold["doubtful"] = left and delay is None
        hold["probe"] = None

    @rule(model=st.sampled_from(["m", None, None]), refused=st.booleans())
    def a_refusal(self, model, refused):
        hold = self.held("bench", model)
        self.key.bench(self.now, model, refused=refused)
        if model is None:
            self.refused = refused
        if self.now >= hold["until"]:
            hold["until"] = self.now + min(900.0, 60.0 * 2 ** hold["times"])
            hold["times"] += 1
            hold["probe"] = None

    @precondition(lambda self: min(self.wait("m"), self.wait("n")) <= 0.0)
    @rule(model=st.sampled_from("mn"))
    def a_request_begins(self, model):
        if self.wait(model) > 0.0:
            model = "n" if model == "m" else "m"
        over = [hold for hold in self.concerning(model) if not hold["doubtful"]]
        alone_s = 10.0 if any(hold["kind"] == "bench" for hold in over) else 2.0
        probe = {"model": model, "began": self.now, "until": self.now + alone_s}
        taken = self.key.take(self.now, model)
        assert taken == (probe["until"] if over else 0.0), "whatever is over is tested by whoever comes first"
        for hold in over:
            hold["probe"] = probe
        self.sent.append((probe, taken))

    @precondition(lambda self: self.sent)
    @rule(which=st.integers(0, 9), how=st.sampled_from(["served", "lost", "limited", "refused"]))
    def a_request_ends(self, which, how):
        request, taken = self.sent.pop(which % len(self.sent))
        model = request["model"]
        if how == "served":
            self.key.served(model, request["began"])
            for name in [name for name, hold in self.holds.items() if name[1] in {None, model}]:
                if request["began"] >= self.holds[name]["until"]:
                    del self.holds[name]
                    self.refused = self.refused and name[1] is not None
            return
        if taken:
            self.key.let_go(model, taken)
            for hold in self.concerning(model):
                # A probe is known by its time: two that began at one moment are one.
                if hold["probe"] is not None and hold["probe"]["until"] == taken:
                    hold["probe"] = None
        if how == "limited":
            self.a_rate_limit(model, None, left=False)
        elif how == "refused":
            self.a_refusal(None, refused=True)

    @rule(seldom=st.integers(0, 9))
    def the_key_changes(self, seldom):
        if not seldom:
            self.key.forget()
            self.holds.clear()
            self.refused = False

    @invariant()
    def all_is_as_in_the_model(self):
        for model in "mn":
            assert usable_in(self.key, self.now, model) == pytest.approx(self.wait(model), abs=1e-6)
            assert self.key.benched(self.now, model) is any(
                hold["kind"] == "bench" and hold["until"] > self.now for hold in self.concerning(model)
            )
            waits = [hold for hold in self.concerning(model) if hold["until"] > self.now]
            probed = [hold for hold in self.concerning(model) if hold not in waits and self.probed(hold)]
            assert self.key.stated(self.now, model) is (not probed and all(hold["stated"] for hold in waits))
        whole = self.holds.get(("bench", None), {"until": 0.0})
        assert self.key.benched_for(self.now) == pytest.approx(max(0.0, whole["until"] - self.now))
        assert self.key.benched(self.now) is (whole["until"] > self.now)
        assert self.key.refused is self.refused


KeyAgainstModel.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestKeyAgainstModel = KeyAgainstModel.TestCase
