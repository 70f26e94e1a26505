"""Circumstantial evidence against a target: what many unrelated clients agree on, and one alone can never show (laws 3 and 11)."""

import pytest

from gateway.core.suspicion import MAX_CLIENTS, Rejections, Silence
from tests.core.build import NOW


def usual(served=100, rejected=0):
    """What a target's clients usually do, learned until NOW."""
    rejections = Rejections()
    rejections.served = served
    for _ in range(rejected):
        rejections.rejected(0.0, "regular")
    return rejections


def reject(rejections, clients, at=NOW):
    for client in clients:
        rejections.rejected(at, client)
    return rejections.suspect


# -- rejections -------------------------------------------------------------------------------------------------------------------


def test_400s_that_jump_from_rare_to_common_across_clients_make_a_target_suspect():
    rejections = usual()
    assert [reject(rejections, client) for client in "ababababab"] == [False] * 9 + [True]


@pytest.mark.parametrize(
    ("case", "before", "clients", "served", "suspect"),
    [
        ("one client alone, however often", usual(), "a" * 500, 0, False),
        ("one client's flood and one slip of another", usual(), "a" * 500 + "b", 0, False),
        ("one client's flood and four slips of others", usual(), "a" * 500 + "bcde", 0, False),
        ("one client's flood and five slips of others", usual(), "a" * 500 + "bcdef", 0, True),
        ("two clients alike", usual(), "ab" * 5, 0, True),
        ("two clients, and not enough of the second", usual(), "ab" * 4 + "a" * 5, 0, False),
        ("too few to tell", usual(), "abcde", 0, False),
        ("all clients, each once", usual(), "abcdef", 0, True),
        ("three in ten", usual(), "abcdef", 14, True),
        ("fewer than three in ten", usual(), "abcdef", 15, False),
        ("a new target", usual(served=0), "abcdef", 0, False),
        ("hardly known", usual(served=19), "abcdef", 0, False),
        ("known just well enough", usual(served=20), "abcdef", 0, True),
        ("400s are what its clients always did", usual(served=90, rejected=10), "abcdefgh", 0, False),
        ("a few of them are usual", usual(served=95, rejected=5), "abcdefgh", 0, True),
        ("a few too many of them are usual", usual(served=93, rejected=7), "abcdefgh", 0, False),
    ],
)
def test_how_many_400s_to_whom_make_a_target_suspect(case, before, clients, served, suspect):
    before.rejected(NOW, clients[0])
    before.served += served
    assert reject(before, clients[1:]) is suspect, case


def test_one_client_alone_never_makes_a_target_suspect_however_long_it_goes_on():
    rejections = usual()
    assert not any(reject(rejections, "a" * 20, NOW + minute * 60.0) for minute in range(60))
    assert not reject(rejections, "b" * 20, NOW + 3600.0), "and what it always did has become usual"


@pytest.mark.parametrize(("later", "suspect"), [(59.0, True), (60.0, False)])
def test_other_clients_of_some_minutes_ago_are_no_witnesses_now(later, suspect):
    rejections = usual()
    assert not reject(rejections, "bcdef")
    rejections.served += 15
    assert reject(rejections, "a" * 20, NOW + later) is suspect


@pytest.mark.parametrize(("apart", "suspect"), [(60.0, True), (179.0, True), (180.0, False)])
def test_with_little_traffic_now_reaches_back_for_up_to_a_quarter_of_an_hour(apart, suspect):
    rejections = usual()
    said = [reject(rejections, client, NOW + number * apart) for number, client in enumerate("abcdef")]
    assert said == [False] * 5 + [suspect]


def test_clients_are_told_apart_up_to_a_bound():
    rejections = usual()
    for number in range(10 * MAX_CLIENTS):
        rejections.rejected(NOW, f"client-{number}")
    assert len(rejections._clients) == MAX_CLIENTS + 1
    assert rejections.suspect


def test_good_answers_end_the_suspicion():
    rejections = usual()
    assert reject(rejections, "abcdef")
    rejections.served += 14
    assert rejections.suspect
    rejections.served += 1
    assert not rejections.suspect


@pytest.mark.parametrize(("served", "later"), [(10, [60.0, 120.0]), (0, [60.0, 960.0])])
def test_a_suspicion_that_gets_no_food_ends_within_minutes_and_with_little_traffic_within_a_quarter_of_an_hour(served, later):
    rejections = usual()
    assert reject(rejections, "ab" * 10)
    said = []
    for moment in later:
        rejections.served += served
        said.append(reject(rejections, "a", NOW + moment))
    assert said == [True, False]


def test_one_client_alone_does_not_keep_a_suspicion_alive():
    rejections = usual()
    assert reject(rejections, "a" * 10 + "bcdefg")
    assert not any(reject(rejections, "a" * 50, NOW + later) for later in (60.0, 120.0))


def test_of_many_who_were_told_so_once_the_later_half_is_remembered_each_time():
    rejections = usual()
    assert reject(rejections, "abcdefghijklmnopqrstuvwxyz")
    assert [reject(rejections, "z", NOW + later) for later in (60.0, 960.0, 1860.0)] == [True, True, False]


def test_a_suspicion_that_goes_on_lasts_for_hours_and_does_not_become_usual():
    rejections = usual()
    reject(rejections, "ab" * 5)
    assert all(reject(rejections, "ab" * 5, NOW + minute * 60.0) for minute in range(1, 20 * 60))


def test_once_it_is_over_the_suspicion_can_come_again():
    rejections = usual()
    assert reject(rejections, "abcdef")
    for minute in range(1, 10):
        rejections.served += 500
        reject(rejections, "c", NOW + minute * 60.0)
    assert not rejections.suspect
    assert reject(rejections, "abcdef", NOW + 700.0)


def test_a_target_that_was_cleared_needs_as_much_evidence_once_more():
    rejections = usual()
    assert reject(rejections, "abcdef")
    rejections.cleared()
    assert [reject(rejections, client) for client in "abcdef"] == [False] * 5 + [True]
    rejections.cleared()
    assert not reject(rejections, "a" * 50), "clients too are counted anew"


def test_what_is_usual_fades_as_newer_answers_come():
    rejections = usual(served=100_000)
    for minute in range(3):
        rejections.served += 400
        reject(rejections, "a" * 100, NOW + minute * 60.0)
    assert not reject(rejections, "ab" * 300, NOW + 180.0), "by now every fifth answer was a 400"


# -- silence ----------------------------------------------------------------------------------------------------------------------


def gives_up(silence, client, *, at=NOW, after=10.0, lived_at=float("-inf"), stream=True):
    return silence.gave_up(at, client, sent_at=at - after, lived_at=lived_at, stream=stream)


def test_a_target_that_is_silent_to_one_client_after_the_other_hangs():
    silence = Silence()
    assert [gives_up(silence, client, at=NOW + step) for step, client in enumerate("abab")] == [False, True, True, True]


def test_one_client_alone_proves_nothing_however_often_it_gives_up():
    silence = Silence()
    assert not any(gives_up(silence, "a", at=NOW + 20.0 * step) for step in range(100))


@pytest.mark.parametrize(
    ("stream", "after", "proof"),
    [(True, 9.9, False), (True, 10.0, True), (False, 10.0, False), (False, 59.9, False), (False, 60.0, True)],
)
@pytest.mark.parametrize("impatient", ["the first", "the second"])
def test_short_patience_proves_nothing(impatient, stream, after, proof):
    silence = Silence()
    first, second = (after, 100.0) if impatient == "the first" else (100.0, after)
    gives_up(silence, "a", after=first, stream=stream)
    assert gives_up(silence, "b", at=NOW + 200.0, after=second, stream=stream) is proof


@pytest.mark.parametrize(
    ("case", "lived_at", "proof"),
    [
        ("before either was asked", 0.0, True),
        ("after the first had given up", 5.0, False),
        ("while the second waited", 45.0, False),
        ("when the second was sent", 40.0, False),
    ],
)
def test_life_shown_to_anybody_clears(case, lived_at, proof):
    silence = Silence()
    gives_up(silence, "a", at=NOW + 4.0, after=30.0, lived_at=NOW - 1000.0)
    lived_at = NOW - 1000.0 if case.startswith("before") else NOW + lived_at
    assert gives_up(silence, "b", at=NOW + 50.0, lived_at=lived_at) is proof


def test_after_life_was_shown_it_takes_two_clients_again():
    silence = Silence()
    gives_up(silence, "a")
    assert not gives_up(silence, "b", at=NOW + 50.0, lived_at=NOW + 45.0)
    assert not gives_up(silence, "b", at=NOW + 70.0, lived_at=NOW + 45.0)
    assert gives_up(silence, "c", at=NOW + 90.0, lived_at=NOW + 45.0)


@pytest.mark.parametrize(("later", "proof"), [(600.0, True), (600.1, False)])
def test_two_clients_far_apart_are_no_pattern(later, proof):
    silence = Silence()
    gives_up(silence, "a")
    assert gives_up(silence, "b", at=NOW + later) is proof
