"""What is wrong between the limits of one quota: each is right by itself, and yet one of them could never be reached.

One law: a limit that cannot bind is a mistake, not a spare. It was written by somebody who believes that it holds. Only what the
numbers and the patterns themselves prove is reported, section by section as it stands in the file: over `provider_defaults` a
provider may well repeat what it could leave out.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Final

from gateway.config.document import Findings, Path
from gateway.config.quotas import ClientLimits, Group, Quota, RateLimit, limits
from gateway.config.schema import Configuration, Provider
from gateway.config.units import Rate, show_rate
from gateway.config.validate import Remainder

_LONGER_S: Final = (1.0, 60.0, 3600.0, 86400.0)
_WILD: Final = "*?["


def check_quotas(configuration: Configuration, rest: Remainder, findings: Findings) -> None:
    """Report every limit, group and queue that could never do anything."""
    _Check(rest, findings).run(configuration)


class _Check:
    def __init__(self, rest: Remainder, findings: Findings) -> None:
        self._rest = rest
        self._findings = findings

    def run(self, configuration: Configuration) -> None:
        self._provider(("provider_defaults",), configuration.provider_defaults)
        for name, provider in configuration.providers.items():
            self._provider(("providers", name), provider)
        for index, client in enumerate(configuration.clients or ()):
            if client.limits is not None:
                self._limits(("clients", index, "limits"), client.limits, "the client")

    def _provider(self, path: Path, provider: Provider) -> None:
        self._queue((*path, "queue"), provider)
        if provider.quota is None:
            return
        quota = provider.quota
        self._limits((*path, "quota"), quota, "the account")
        for index, group in enumerate(quota.groups):
            self._limits((*path, "quota", "groups", index), group, "the group")
        self._groups((*path, "quota"), quota)

    def _queue(self, path: Path, provider: Provider) -> None:
        findings = self._findings
        if not all(findings.has((*path, key)) for key in ("depth", "wait")) or not findings.sound(path):
            return
        if not provider.queue.wait and provider.queue.depth:
            findings.add((*path, "depth"), "means nothing with `wait: 0s`, where nobody waits")
        if provider.queue.wait and not provider.queue.depth:
            findings.add((*path, "wait"), "means nothing with `depth: 0`, where nobody waits")

    def _limits(self, path: Path, section: ClientLimits | Group | Quota, whom: str) -> None:
        at = self._rest.origin(path)
        if not section.model_fields_set - {"name", "models"} and self._findings.sound(at):
            self._findings.add(at, f"does not limit {whom}: say how much, e.g. requests: 600/min, or remove it")
        for resource, rates in limits(section).items():
            if self._findings.sound((*at, resource.value)):
                self._rates((*path, resource.value), rates)

    def _rates(self, path: Path, rates: tuple[RateLimit, ...]) -> None:
        """Report what cannot be among the limits of one resource."""
        for position, limit in enumerate(rates):
            at = self._rest.origin((*path, position))
            rate = show_rate(limit.rate)
            if limit.burst is not None and limit.burst > max(1.0, limit.rate.amount):
                self._findings.add((*at, "burst"), f"more than {rate} lets through in its whole period{_longer(limit)}")
            elif stricter := _stricter(rates, position):
                self._findings.add(at, f"can never be reached: {show_rate(stricter.rate)} beside it always comes first")

    def _groups(self, path: Path, quota: Quota) -> None:
        findings = self._findings
        names: dict[str, Path] = {}
        for index, group in enumerate(quota.groups):
            at = self._rest.origin((*path, "groups", index))
            if group.name in names:
                line = findings.line((*names[group.name], "name"))
                findings.add((*at, "name"), f"another group has this name, in line {line}")
            elif group.name:
                names[group.name] = at
            self._shadows((*path, "groups"), quota.groups, index)
        if findings.sound((*path, "groups")) and (
            everything := next((group for group in quota.groups if "*" in group.models), None)
        ):
            for key in sorted(quota.model_fields_set - {"groups"}):
                findings.add((*path, key), f'means nothing: the group "{everything.name}" takes every model', at_key=True)

    def _shadows(self, path: Path, groups: tuple[Group, ...], index: int) -> None:
        """Report the group's patterns that take nothing, since groups above it take all of that; or itself, if none is left."""
        at = self._rest.origin((*path, index))
        if not self._findings.sound((*at, "models")):
            return
        takers: dict[int, int] = {}
        for position, glob in enumerate(groups[index].models):
            for place in range(index):
                if any(_covers(wide, glob) for wide in groups[place].models):
                    takers.setdefault(position, place)
        above = set(takers.values())
        if len(takers) == len(groups[index].models) and len(above) == 1:
            self._findings.add(at, f"can never match: {self._named(path, groups, above.pop())} takes everything that it takes")
            return
        for position, taker in takers.items():
            pattern = self._rest.origin((*path, index, "models", position))
            self._findings.add(pattern, f"can never match: {self._named(path, groups, taker)} takes it already")

    def _named(self, path: Path, groups: tuple[Group, ...], index: int) -> str:
        return f'the group "{groups[index].name}" in line {self._findings.line(self._rest.origin((*path, index)))}'


def _stricter(rates: tuple[RateLimit, ...], position: int) -> RateLimit | None:
    """Return another limit of the list that always binds first: not faster in the long run, and no more at once."""
    limit = rates[position]
    for other, rival in enumerate(rates):
        slower = rival.rate.amount * limit.rate.period_s - limit.rate.amount * rival.rate.period_s
        smaller = rival.at_once - limit.at_once
        same = slower == smaller == 0
        if other != position and slower <= 0 and smaller <= 0 and (not same or other < position):
            return rival
    return None


def _longer(limit: RateLimit) -> str:
    """Say the same rate over a period that holds its burst, where there is one."""
    rate = limit.rate
    for period_s in _LONGER_S:
        amount = rate.amount * period_s / rate.period_s
        if amount >= limit.at_once and amount.is_integer():
            return f"; the same rate over a longer one: {show_rate(Rate(amount, period_s))}"
    return ""


def _covers(wide: str, glob: str) -> bool:
    """Whether whatever fits `glob` certainly fits `wide` too; False where it is not obvious."""
    if wide in {"*", glob}:
        return True
    if _fixed(glob) == glob:
        return fnmatchcase(glob, wide)
    return wide == _fixed(wide) + "*" and _fixed(glob).startswith(_fixed(wide))


def _fixed(glob: str) -> str:
    """Return what stands in front of a pattern's first wildcard."""
    return next((glob[:place] for place, char in enumerate(glob) if char in _WILD), glob)
