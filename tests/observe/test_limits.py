"""A provider's limits as they are shown: what the registry knows, without changing any of it."""

import pytest

from gateway.core.bucket import Cost, Source
from gateway.core.limits import Stated
from gateway.core.plan import GroupPlan, Priority, ProviderPlan, QuotaPlan, RatePlan, Resource
from gateway.core.queue import Waiter
from gateway.core.quota import Quota
from gateway.core.registry import Registry
from gateway.observe.limits import Limit, Total, limits_of, own_quotas, totals
from gateway.observe.live import RegistryView
from tests.observe.records import moved, samples, snapshot, value

NOW = 1000.0
MINUTE = RatePlan(Resource.REQUESTS, 480.0, 60.0, 64.0)
TOKENS = RatePlan(Resource.TOKENS, 3840.0, 60.0, 3840.0)
"""Of these rates, as of all below, one takes a binary fraction of a second: sums are exact."""


def plan(name="openai", keys=("key-1", "key-2"), groups=(), rates=(MINUTE,), concurrent=None, depth=1000):
    quota = QuotaPlan(rates, concurrent)
    return ProviderPlan(name, name, keys, quota=quota, groups=groups, queue_depth=depth)


def registry(*plans):
    found = Registry(lambda a, _: a)
    found.adopt(plans, NOW)
    return found


def waiter(priority=Priority.STANDARD):
    return Waiter(client="c", weight=1.0, priority=priority, tokens=1.0, deadline_at=NOW + 60, since=NOW)


def refuse(quota, at=NOW, under_way=0):
    """One request is refused because the provider has too much to do."""
    others = [quota.reserve(at, Cost()) for _ in range(under_way + 3)]
    refused = [quota.reserve(at, Cost()) for _ in range(2)]
    for served in range(3):
        # One refusal says nothing; it takes some that were served meanwhile to compare with.
        refused[0].overloaded(at) if not served else None
        others[served].served(at, None)
    for reservation in refused:
        reservation.refused(at)
    refused[1].overloaded(at)
    return others[3:]


def test_every_source_of_a_limit_is_told_with_what_is_left_and_for_how_long():
    quota = Quota(QuotaPlan((MINUTE,), concurrent=10), NOW)
    sent = quota.reserve(NOW, Cost(40, 60))
    sent.state(NOW, [Stated(Resource.TOKENS, 960, 900, period_s=60)])
    assert limits_of(quota, NOW) == [
        Limit(Resource.REQUESTS, Source.CONFIGURED, 480.0, 60.0, 64.0, 63.0, None),
        Limit(Resource.TOKENS, Source.HEADER, 960, 60, 960, 900.0, 300.0),
        Limit(Resource.CONCURRENT, Source.CONFIGURED, 10, None, 10, 9, None),
    ]


def test_what_holds_no_longer_is_left_out_and_not_removed():
    quota = Quota(QuotaPlan(), NOW)
    quota.reserve(NOW, Cost()).state(NOW, [Stated(Resource.REQUESTS, 100, 99, period_s=60)])
    (before,) = limits_of(quota, NOW + 299)
    assert before.forgotten_in_s == pytest.approx(1.0)
    assert limits_of(quota, NOW + 300) == []
    assert len(quota.stated) == 1


def test_a_learned_ceiling_is_shown_beside_the_configured_one():
    quota = Quota(QuotaPlan(concurrent=100), NOW)
    refuse(quota, under_way=20)
    configured, learned = limits_of(quota, NOW)
    assert (configured.source, configured.amount, configured.remaining) == (Source.CONFIGURED, 100, 80)
    assert (learned.source, learned.resource) == (Source.LEARNED, Resource.CONCURRENT)
    assert 0 < learned.amount < 24
    assert learned.remaining == learned.amount - 20
    assert len(limits_of(quota, NOW + 1000)) == 1


def test_keys_that_were_never_used_count_with_what_the_configuration_says():
    live = registry(plan())
    provider = live.providers["openai"]
    gate = provider.gate("gpt-4o")
    gate.quota(NOW, "key-1").reserve(NOW, Cost())
    shown = list(own_quotas(provider.plan, gate, NOW))
    assert [key for key, _ in shown] == ["key-1", "key-2"]
    assert totals((quota for _, quota in shown), NOW) == [Total(Resource.REQUESTS, Source.CONFIGURED, 16.0, 128.0, 127.0)]
    assert list(gate.quotas) == ["key-1"]


def test_keys_that_are_gone_from_the_configuration_count_no_longer():
    live = registry(plan())
    gate = live.providers["openai"].gate("gpt-4o")
    gate.quota(NOW, "key-1")
    live.adopt([plan(keys=("key-2",))], NOW)
    assert [key for key, _ in own_quotas(live.providers["openai"].plan, gate, NOW)] == ["key-2"]


def test_a_provider_without_keys_has_limits_all_the_same():
    live = registry(plan(keys=()))
    gate = live.providers["openai"].gate("llama")
    assert [key for key, _ in own_quotas(live.providers["openai"].plan, gate, NOW)] == [None]


def test_of_several_limits_of_one_kind_the_tightest_counts():
    second = RatePlan(Resource.REQUESTS, 16.0, 1.0, 16.0)
    quota = Quota(QuotaPlan((MINUTE, second)), NOW)
    for _ in range(14):
        quota.reserve(NOW, Cost())
    assert totals([quota], NOW) == [Total(Resource.REQUESTS, Source.CONFIGURED, 16.0, 16.0, 2.0)]
    # A second later the short one is whole again.
    assert totals([quota], NOW + 1) == [Total(Resource.REQUESTS, Source.CONFIGURED, 8.0, 64.0, 58.0)]


def test_an_overdrawn_limit_is_below_zero():
    quota = Quota(QuotaPlan((TOKENS,)), NOW)
    quota.reserve(NOW, Cost(6000, 0))
    assert [total.remaining for total in totals([quota], NOW)] == [-2160.0]


GROUP = GroupPlan("small ones", ("gpt-4o-mini", "gpt-4.1-*"), QuotaPlan((), concurrent=7))


@pytest.fixture
def live():
    return registry(plan(groups=(GROUP,)), plan("azure", keys=()))


@pytest.fixture
def watched(metrics, live):
    plans = [provider.plan for provider in live.providers.values()]
    routes = (("chat", ("gpt-4o", "*"), (("openai", None), ("azure", "gpt-4o-prod"))),)
    metrics.prepare(snapshot(routes, plans=plans))
    metrics.watch(RegistryView(live, lambda: NOW))
    return metrics


def limit(found, name, **labels):
    return value(found, f"gateway_quota_{name}", **labels)


def test_limits_are_gauges_by_model_and_group(watched, live):
    openai = live.providers["openai"]
    openai.gate("gpt-4o").quota(NOW, "key-1").reserve(NOW, Cost())
    openai.gate("gpt-4.1-nano").quota(NOW, "key-1").reserve(NOW, Cost())
    found = samples(watched)
    requests = {"provider": "openai", "model": "gpt-4o", "resource": "requests", "source": "configured"}
    assert [limit(found, name, **requests) for name in ("limit", "burst", "remaining")] == [16.0, 128.0, 127.0]
    group = {"provider": "openai", "model": "small ones", "resource": "concurrent", "source": "configured"}
    assert [limit(found, name, **group) for name in ("limit", "burst", "remaining")] == [14.0, 14.0, 13.0]


def test_models_that_no_route_lists_share_one_label_and_show_the_tightest_limit(watched, live):
    for name, count in (("o1", 3), ("o3-private", 30), ("o4", 1)):
        gate = live.providers["openai"].gate(name)
        for _ in range(count):
            gate.quota(NOW, "key-1").reserve(NOW, Cost())
    found = samples(watched)
    anything = {"provider": "openai", "model": "*", "resource": "requests", "source": "configured"}
    assert [limit(found, name, **anything) for name in ("limit", "burst", "remaining")] == [16.0, 128.0, 98.0]
    assert b"private" not in watched.expose()[0]


def test_a_model_without_limits_hides_nobody_elses(watched, live):
    openai = live.providers["openai"]
    openai.gate("").pending = 1000
    openai.gate("o1").quota(NOW, "key-1").reserve(NOW, Cost())
    found = samples(watched)
    assert limit(found, "remaining", provider="openai", model="*", resource="requests", source="configured") == 127.0


def test_what_names_no_model_has_no_limits_and_a_label_all_the_same(watched, live):
    live.providers["openai"].gate("").queue.join(NOW, waiter())
    found = samples(watched)
    assert value(found, "gateway_queue_depth", provider="openai", model="*", priority="standard") == 1
    assert not [key for key in found if key[0].startswith("gateway_quota_")]


def test_queues_are_counted_by_priority_and_added_up_under_one_label(watched, live):
    openai = live.providers["openai"]
    openai.gate("gpt-4o").queue.join(NOW, waiter(Priority.BATCH))
    for name in ("o1", "o3"):
        openai.gate(name).queue.join(NOW, waiter())
    found = samples(watched)
    place = {"provider": "openai", "model": "gpt-4o"}
    depths = [value(found, "gateway_queue_depth", **place, priority=priority.label) for priority in Priority]
    assert depths == [0, 0, 1]
    assert value(found, "gateway_queue_depth", provider="openai", model="*", priority="standard") == 2


def test_clients_own_keys_wait_in_the_same_depth_and_show_no_limits(watched, live):
    """Law 11: they are as many as clients like."""
    for number in range(50):
        gate = live.providers["azure"].gate("gpt-4o-prod", f"hash-{number}")
        gate.queue.join(NOW, waiter())
        gate.quota(NOW, None).reserve(NOW, Cost())
    found = samples(watched)
    assert value(found, "gateway_queue_depth", provider="azure", model="gpt-4o-prod", priority="standard") == 50
    assert not [key for key in found if key[0].startswith("gateway_quota_")]
    assert b"hash-" not in watched.expose()[0]


def test_a_throttle_shows_the_share_that_is_still_sent(watched, live):
    gate, other = live.providers["openai"].gate("gpt-4o"), live.providers["openai"].gate("o1")
    for _ in range(100):
        gate.throttle.sent(NOW)
        gate.throttle.refused(NOW, sent_at=NOW)
        other.throttle.sent(NOW)
    found = samples(watched)
    assert value(found, "gateway_throttle_share", provider="openai", model="gpt-4o") == pytest.approx(0.1)
    assert value(found, "gateway_throttle_share", provider="openai", model="*") == 1.0


def test_looking_at_limits_moves_nothing_else(watched, live):
    live.providers["openai"].gate("gpt-4o")
    before = moved(samples(watched))
    assert moved(samples(watched)) == before
    assert live.providers["openai"].gate("gpt-4o").quotas == {}
