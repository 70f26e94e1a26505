"""A client's own limits: what they have no room for is refused, and told when there will be some."""

import pytest

from gateway.core.accounts import FULL_S, Account, Full
from gateway.core.bucket import FREE, Cost
from gateway.core.plan import ClientPlan
from gateway.core.quota import Reservation
from tests.core.build import NOW, limits


def account(**settings):
    return Account(ClientPlan("app", quota=limits(**settings)), NOW)


def refused(client, now=NOW, cost=FREE):
    full = client.admit(now, cost)
    assert isinstance(full, Full)
    return full.delay_s


def admitted(client, now=NOW, cost=FREE):
    reservation = client.admit(now, cost)
    assert isinstance(reservation, Reservation)
    return reservation


def test_within_its_limits_a_client_is_let_in():
    client = account(requests=10.0, burst=3.0, tokens=100.0, token_burst=100.0, concurrent=3)
    assert [admitted(client, cost=Cost(10.0)).cost.tokens for _ in range(3)] == [10.0] * 3
    assert client.quota.inflight == 3


@pytest.mark.parametrize(
    ("settings", "before", "seconds"),
    [
        ({"requests": 10.0}, [FREE], 0.1),
        ({"requests": 600.0, "per": 60.0, "burst": 2.0}, [FREE, FREE], 0.1),
        ({"tokens": 10.0, "token_burst": 50.0}, [Cost(40.0)], 1.0),
        ({"tokens": 10.0, "token_burst": 50.0}, [Cost(90.0)], 6.0),
        ({"requests": 10.0, "tokens": 10.0, "token_burst": 50.0}, [Cost(50.0)], 2.0),
        ({"concurrent": 1}, [FREE], FULL_S),
    ],
)
def test_without_room_it_is_told_the_seconds_until_there_is_some_and_nothing_is_taken(settings, before, seconds):
    client = account(**settings)
    for cost in before:
        admitted(client, cost=cost)
    asked = Cost(20.0)
    assert [refused(client, cost=asked) for _ in range(3)] == [pytest.approx(seconds)] * 3
    assert client.quota.inflight == len(before)


def test_whoever_comes_back_then_is_let_in():
    client = account(tokens=10.0, token_burst=50.0)
    admitted(client, cost=Cost(50.0))
    seconds = refused(client, cost=Cost(20.0))
    assert not isinstance(client.admit(NOW + seconds - 0.01, Cost(20.0)), Reservation)
    assert admitted(client, NOW + seconds + 1e-6, Cost(20.0)).cost.tokens == 20.0


def test_one_that_is_larger_than_its_limit_is_let_in_when_that_is_whole():
    client = account(tokens=10.0, token_burst=50.0)
    admitted(client, cost=Cost(500.0))
    assert refused(client, cost=Cost(1.0)) == pytest.approx(45.1)


def test_an_end_makes_room():
    client = account(concurrent=1)
    reservation = admitted(client)
    assert refused(client) == FULL_S
    reservation.served(NOW + 1.0, Cost(5.0))
    admitted(client, NOW + 1.0)


def test_what_was_not_used_makes_room():
    client = account(tokens=10.0, token_burst=50.0)
    reservation = admitted(client, cost=Cost(50.0))
    assert not isinstance(client.admit(NOW, Cost(30.0)), Reservation)
    reservation.served(NOW, Cost(10.0, 10.0))
    admitted(client, cost=Cost(30.0))


def test_a_reload_changes_the_limits_and_keeps_what_was_taken():
    client = account(requests=10.0, burst=1.0)
    admitted(client)
    plan = ClientPlan("app", weight=2.0, quota=limits(2.0, concurrent=2))
    client.replan(NOW, plan)
    assert client.plan is plan
    assert refused(client) == pytest.approx(0.5)
    assert client.quota.inflight == 1
    client.replan(NOW, ClientPlan("app"))
    admitted(client)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"concurrent": 1}, "1 at the same time"),
        ({"tokens": 10.0, "token_burst": 100.0}, "10 tokens in 1 s, 100 at once"),
    ],
)
def test_the_limit_that_is_reached_is_told_in_words(settings, said):
    client = account(**settings)
    admitted(client, cost=Cost(100.0))
    full = client.admit(NOW, Cost(10.0))
    assert isinstance(full, Full)
    assert full.limit == said
