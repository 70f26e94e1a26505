"""What clients are told about coming back: the table of the contract, for every refusal and every error that is relayed."""

from __future__ import annotations

from collections.abc import Iterator

from tests.sim.invariants.breach import invariant
from tests.sim.world import World

LONGEST_S = 60
COME_BACK = frozenset({"breakers_open", "throttled", "draining"})
ROOM = frozenset({"rate_limited", "queue_full", "shed", "client_limit"})
"""Refused for want of room: whoever comes back when told gets in. Not all of them can be promised that."""
SPENT = frozenset({"attempts_exhausted", "deadline", "no_target", "credentials_benched"})
"""The last: nobody knows when a key that was refused will be good again."""
UNTRIED = frozenset({"retry_budget", "not_retryable"})
FIELDS = ("x-should-retry", "retry-after", "retry-after-ms")


@invariant
def advice_follows_the_table(world: World) -> Iterator[tuple[str, str]]:
    """The caller's own error: the provider's advice, untouched. What time will change: come back, and when. Spent: stay away.

    For want of room: come back, and when, or stay away where no room can be promised. What was not tried on the client's behalf its
    SDK may try, so that nothing is forbidden there. Delays are at most a minute, and the one in whole seconds is never shorter than
    the exact one.
    """
    for name, client in world.clients.items():
        if client.status < 400:
            continue
        reason = client.record.reason.value
        advice = {field: client.fields[field] for field in FIELDS if field in client.fields}
        retry = advice.get("x-should-retry")
        if reason == "caller":
            said = [visit.advice for visit in world.by_client()[name] if bytes(visit.wrote) == bytes(client.body)]
            if said and advice not in said:
                yield name, f"{advice} beside a caller's own error, the provider said {said}"
            continue
        if ("retry-after" in advice) != ("retry-after-ms" in advice):
            yield name, f"one delay without the other: {advice}"
        elif "retry-after" in advice:
            whole_s, exact_ms = int(advice["retry-after"]), int(advice["retry-after-ms"])
            if whole_s != -(-exact_ms // 1000) or not 0 <= whole_s <= LONGEST_S:
                yield name, f"delays of {advice}"
        if reason in COME_BACK and (retry != "true" or "retry-after" not in advice):
            yield name, f"{reason}: {advice}, though time will change it"
        elif reason in ROOM:
            # Where nothing can be promised, nothing is said.
            promised = retry == "true" and "retry-after" in advice
            silent = retry is None and "retry-after" not in advice
            if not (promised or silent or client.errand.already_retried):
                yield name, f"{reason}: {advice}"
        elif reason in SPENT and retry != "false" and not client.errand.already_retried:
            yield name, f"{reason}: {advice}, though we have done what could be done"
        elif reason not in COME_BACK and retry == "true":
            yield name, f"{reason}: {advice}"
        elif reason in UNTRIED and retry == "false" and not any(visit.trouble == "500_final" for visit in world.by_client()[name]):
            yield name, f"{reason}: the client's own retries were forbidden"
