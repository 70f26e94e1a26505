"""What no single key can know: names that must exist elsewhere, routes that never match, ports open to the world.

Runs on whatever could be read of a file, so each check draws conclusions only from what is sound: a provider whose own settings are
wrong is still a provider that targets may name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gateway.config.addresses import BaseUrl, azure_root, proxy_from
from gateway.config.contradictions import check_policies
from gateway.config.document import Findings, Path
from gateway.config.layers import providers
from gateway.config.quota_checks import check_quotas
from gateway.config.schema import Configuration, Provider, Route, Target
from gateway.config.section import Section
from gateway.config.units import Mistake, did_you_mean
from gateway.config.validate import Remainder
from gateway.config.values import name
from gateway.core.plan import Balance
from gateway.core.verdicts import Fault, Scope

SCOPES: Final[dict[Fault, tuple[Scope, ...]]] = {
    **dict.fromkeys((Fault.CALLER, Fault.CONTEXT_LENGTH, Fault.CONTENT_POLICY), (Scope.NOBODY,)),
    **dict.fromkeys((Fault.CREDENTIAL, Fault.BILLING, Fault.RATE_LIMITED), (Scope.CREDENTIAL, Scope.KEY_ON_MODEL)),
}
"""Whose failure an operator may declare a fault to be; the others are the target's or the provider's."""

WEIGHED: Final = (Balance.WEIGHTED, Balance.LEAST_BUSY)
"""The ways to balance that look at the targets' weights."""


def check(
    configuration: Configuration, data: Mapping[str, object], rest: Remainder, environ: Mapping[str, str], findings: Findings
) -> None:
    """Report everything wrong between keys. `data` is the whole file's, before anything was cut out of it."""
    _Check(configuration, data, rest, environ, findings).run()


class _Check:
    def __init__(
        self,
        configuration: Configuration,
        data: Mapping[str, object],
        rest: Remainder,
        environ: Mapping[str, str],
        findings: Findings,
    ) -> None:
        self._configuration = configuration
        self._environ = environ
        self._rest = rest
        self._findings = findings
        self._providers = _names(data.get("providers"))
        self._policies = ["default", *_names(data.get("policies"))]
        clients = data.get("clients")
        self._clients = (
            [str(item.get("name", "")) for item in clients if isinstance(item, dict)] if isinstance(clients, list) else None
        )

    def run(self) -> None:
        self._listeners()
        for section in ("providers", "policies"):
            for key in getattr(self._configuration, section):
                try:
                    name(key)
                except Mistake as mistake:
                    self._findings.add((section, key), mistake.message, at_key=True)
        for key, provider in providers(self._configuration).items():
            self._provider(key, provider)
        self._error_rules(("provider_defaults",), self._configuration.provider_defaults)
        for key, provider in self._configuration.providers.items():
            self._error_rules(("providers", key), provider)
        check_quotas(self._configuration, self._rest, self._findings)
        check_policies(self._configuration, self._findings)
        self._client_list()
        self._routes()

    def _listeners(self) -> None:
        server, admin, findings = self._configuration.server, self._configuration.admin, self._findings
        exposed = not server.listen.loopback and not server.open and not findings.has(("clients",))
        if exposed and findings.sound(("server", "listen"), ("server", "open")):
            message = "whoever reaches this address could call with your keys: name `clients`, or say `open: true`"
            findings.add(("server", "listen"), message)
        if (
            findings.sound(("admin", "listen"))
            and not admin.listen.loopback
            and admin.token is None
            and findings.sound(("admin", "token"))
        ):
            findings.add(("admin", "listen"), "beyond loopback the admin port needs a `token`, e.g. ${GATEWAY_ADMIN_TOKEN}")
        if findings.sound(("server", "listen"), ("admin", "listen")) and server.listen == admin.listen and server.listen.port:
            findings.add(
                ("admin", "listen") if findings.has(("admin", "listen")) else ("server", "listen"),
                f"the data port and the admin port cannot both be {server.listen}",
            )

    def _provider(self, key: str, provider: Provider) -> None:
        findings = self._findings
        path: Path = ("providers", key)
        for required in ("dialect", "base_url"):
            if not any(findings.has((*at, required)) for at in (path, ("provider_defaults",))):
                findings.add(path, f"{required} is missing" + ("; openai or azure" if required == "dialect" else ""))
        self._ascending((*path, "breaker"), provider.breaker, "open", "max_open")
        if not findings.sound((*path, "dialect"), (*path, "base_url"), ("provider_defaults",)):
            return
        if provider.api_version is not None and provider.dialect != "azure":
            self._add_to(path, "api_version", "only the azure dialect has versions")
        if provider.base_url is None:
            return
        if provider.dialect == "azure":
            self._azure(path, provider, provider.base_url)
        if "proxy" not in provider.model_fields_set and findings.sound((*path, "proxy")):
            try:
                proxy_from(self._environ, provider.base_url)
            except Mistake as mistake:
                findings.add(path, f"the environment's proxy for it: {mistake.message}; or say `proxy: off`", at_key=True)
        if provider.base_url.scheme == "http":
            for tls_key in provider.tls.model_fields_set:
                self._add_to(path, "tls", f"{tls_key} is for https, but the address is http", below=tls_key)

    def _error_rules(self, path: Path, provider: Provider) -> None:
        findings = self._findings
        for index, rule in enumerate(provider.errors):
            at = self._rest.origin((*path, "errors", index))
            if not findings.has((*at, "status")) and not findings.has((*at, "body")):
                findings.add(at, "needs a `status`, a `body`, or both: as it is, it would take every error")
            if rule.scope is None or not findings.has((*at, "fault")) or not findings.sound((*at, "fault")):
                continue
            allowed = SCOPES.get(rule.fault, (Scope.TARGET, Scope.PROVIDER))
            if rule.scope not in allowed:
                findings.add((*at, "scope"), f"for {rule.fault} only {' or '.join(allowed)} makes sense")

    def _azure(self, path: Path, provider: Provider, url: BaseUrl) -> None:
        try:
            azure_root(url)
        except Mistake as mistake:
            self._add_to(path, "base_url", mistake.message)
            return
        if url.path.endswith("/openai/v1") and provider.api_version is not None:
            self._add_to(
                path, "base_url", "ends in /openai/v1, which has no dated versions: remove `api_version`, or stop before /openai"
            )

    def _add_to(self, path: Path, key: str, message: str, *, below: str = "") -> None:
        """Report at the provider's own key, or at the one in `provider_defaults` that it has taken over."""
        at: Path = (*path, key) if self._findings.has((*path, key)) else ("provider_defaults", key)
        self._findings.add((*at, below) if below else at, message)

    def _ascending(self, path: Path, section: Section, low: str, high: str) -> None:
        if not self._findings.sound(path) or getattr(section, low) <= getattr(section, high):
            return
        at = (*path, high) if self._findings.has((*path, high)) else (*path, low)
        self._findings.add(at, f"{high} must not be shorter than {low}")

    def _client_list(self) -> None:
        seen: dict[tuple[str, object], Path] = {}
        for index, client in enumerate(self._configuration.clients or ()):
            path = self._rest.origin(("clients", index))
            for kind, value in (("name", client.name), ("key", client.key)):
                if value:
                    first = seen.setdefault((kind, value), (*path, kind))
                    if first != (*path, kind):
                        self._findings.add((*path, kind), f"another client has this {kind}, in line {self._findings.line(first)}")

    def _routes(self) -> None:
        findings = self._findings
        if not findings.has(("routes",)) and len(self._providers) > 1:
            findings.add((), "routes is missing: with several providers, say which models go where")
        names: dict[str, Path] = {}
        catch_all: tuple[str, Path] | None = None
        for index, route in enumerate(self._configuration.routes or ()):
            path = self._rest.origin(("routes", index))
            if route.name in names:
                findings.add((*path, "name"), f"another route has this name, in line {findings.line((*names[route.name], 'name'))}")
            elif route.name:
                names[route.name] = path
            if catch_all is not None:
                above, at = catch_all
                findings.add(path, f'can never match: the route "{above}" in line {findings.line(at)} takes everything')
            elif findings.has((*path, "match")) and findings.sound((*path, "match")) and _takes_everything(route):
                catch_all = (route.name, path)
            self._route(path, index, route)

    def _route(self, path: Path, index: int, route: Route) -> None:
        findings = self._findings
        if route.policy not in self._policies:
            findings.add((*path, "policy"), _unknown("policy", route.policy, self._policies))
        for position, client in enumerate(route.match.clients or ()):
            at = self._rest.origin(("routes", index, "match", "clients", position))
            if self._clients is None:
                findings.add(at, "there are no `clients` to match")
            elif client not in self._clients:
                findings.add(at, _unknown("client", client, self._clients))
        if findings.has((*path, "targets")) and findings.sound((*path, "targets")):
            if not route.targets:
                findings.add((*path, "targets"), "needs at least one target")
            elif all(target.only_for for target in route.targets):
                findings.add((*path, "targets"), "every target is `only_for` some fault: one must be tried first")
        for position, target in enumerate(route.targets):
            at = self._rest.origin(("routes", index, "targets", position))
            if target.provider and target.provider not in self._providers:
                findings.add((*at, "provider"), _unknown("provider", target.provider, self._providers))
            if target.hedge and target.only_for:
                findings.add((*at, "hedge"), "a target that is `only_for` some fault is tried after it, never beside another")
            if target.weight != 1.0:
                self._weight((*at, "weight"), path, route, target)

    def _weight(self, at: Path, path: Path, route: Route, target: Target) -> None:
        """Report a weight that nothing is weighed by; 1 is what every target has."""
        if target.only_for:
            self._findings.add(at, "a target that is `only_for` some fault is tried after it, whatever its weight")
        elif route.balance not in WEIGHED and self._findings.sound((*path, "balance")):
            self._findings.add(at, f"means nothing with `balance: {route.balance}`: say weighted or least_busy, or remove it")


def _takes_everything(route: Route) -> bool:
    return route.match.models is None and route.match.paths is None and route.match.clients is None


def _names(value: object) -> list[str]:
    return list(value) if isinstance(value, dict) else []


def _unknown(kind: str, wanted: str, known: list[str]) -> str:
    shown = f'"{wanted}"' if len(wanted) <= 32 else "this"
    return f"no {kind} is called {shown}" + (did_you_mean(wanted, known) or f"; there is {', '.join(known[:8])}" * bool(known))
