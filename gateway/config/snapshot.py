"""The compiled configuration: immutable, complete, swapped as a whole on reload.

An exchange keeps the snapshot it began with. Live state (breakers, budgets, connections) is not here but in `core.registry` and
`egress.pool`, keyed so that it outlives any snapshot.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from gateway.core.matcher import Rule
from gateway.core.message import Header
from gateway.core.plan import ClientPlan, ProviderPlan, Route
from gateway.dialects.base import Dialect

_LONGEST_KEY: Final = 64 * 1024


class Secret:
    """A key that never prints itself, and that follows its file when it came from one.

    The id names the key in state and admin output without telling it. A key written in the configuration is named by its own hash,
    so that the same key at two places shares one bench. A key from a file is named by the hash of the file's path and keeps that
    name when the file changes: what was learned of the account behind it (its limits) survives a rotation, and exchanges already
    under way find the new key under the name they hold. A rotated key has done nothing wrong yet: whoever calls `refresh` and gets
    True lifts the bench of this id.
    """

    __slots__ = ("_path", "_stamp", "_value", "id")

    def __init__(self, value: str, *, secret_id: str, path: str | None = None) -> None:
        self._value = value
        self._path = path
        self._stamp = _stamp(path) if path is not None else None
        self.id = secret_id
        """`sha256:` (of the key) or `file:` (of the path) and twelve hex digits."""

    @classmethod
    def from_text(cls, text: str) -> Secret:
        """Take the key itself; raises ValueError where it cannot be one."""
        value = _clean(text)
        return cls(value, secret_id=f"sha256:{hashlib.sha256(value.encode()).hexdigest()[:12]}")

    @classmethod
    def from_file(cls, path: str) -> Secret:
        """Read the key from a file; raises OSError or ValueError."""
        found = cls("", secret_id=f"file:{hashlib.sha256(os.fsencode(path)).hexdigest()[:12]}", path=path)
        found._value = _clean(_read(path))
        return found

    def reveal(self) -> str:
        """Return the key itself, for the one place that writes it to its own provider."""
        return self._value

    def refresh(self) -> bool:
        """Read the file again if it was replaced or rewritten; returns whether the key is another one now.

        A file that vanished, is empty or holds no key leaves the old key in use: it may be in the middle of being written, and the
        next call looks again.
        """
        if self._path is None:
            return False
        try:
            stamp = _stamp(self._path)
            if stamp is None or stamp == self._stamp:
                return False
            value = _clean(_read(self._path))
        except (OSError, ValueError):
            return False
        self._stamp = stamp
        changed = value != self._value
        self._value = value
        return changed

    def __repr__(self) -> str:
        return f"<Secret {self.id}>"


def _stamp(path: str) -> tuple[int, int, int, int] | None:
    """Return what changes when a file is rewritten, or replaced through a symbolic link as Kubernetes does; None if it is gone."""
    try:
        found = os.stat(path)  # noqa: PTH116 - pathlib would be this call and an object
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _read(path: str) -> str:
    with open(path, "rb") as file:  # noqa: PTH123 - pathlib cannot read a bounded part
        raw = file.read(_LONGEST_KEY + 1)
    if len(raw) > _LONGEST_KEY:
        raise ValueError("the secret's file is too large to hold a key")
    try:
        return raw.decode("ascii")
    except UnicodeDecodeError:
        raise ValueError("the secret's file holds something other than a key") from None


def _clean(text: str) -> str:
    """Return the key without the newline that editors and `echo` leave behind it."""
    value = text.strip()
    if not value:
        raise ValueError("is empty")
    if not all("!" <= char <= "~" for char in value):
        raise ValueError("a key cannot contain spaces, line breaks, control or non-ASCII characters")
    return value


@dataclass(frozen=True, slots=True)
class Origin:
    """Where connections of a pool go, and how: everything two connections must agree on to be interchangeable."""

    scheme: str
    host: str
    port: int
    ca_file: str | None = None
    server_name: str | None = None
    """SNI and the name the certificate is checked against; None: `host`."""
    proxy: str | None = field(default=None, repr=False)
    """`http://[user:password@]host:port`; never logged with its userinfo."""

    @property
    def authority(self) -> bytes:
        """The `Host` header's value: brackets round IPv6, no default port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        default = 443 if self.scheme == "https" else 80
        return (host if self.port == default else f"{host}:{self.port}").encode("ascii")


@dataclass(frozen=True, slots=True)
class Provider:
    """An upstream account, ready to use."""

    plan: ProviderPlan
    dialect: Dialect
    origin: Origin
    base_path: bytes
    """Path part of the base URL without a trailing slash, e.g. `/v1`."""
    api_version: str | None = None
    credentials: tuple[Secret, ...] = ()
    headers: tuple[Header, ...] = field(default=(), repr=False)
    region: str = ""
    connect_s: float = 5.0
    pool: int = 1000
    """Connections at most."""
    errors: tuple[Rule, ...] = ()
    """The operator's own rules for what its error answers mean; looked at before the dialect's."""
    stream_usage: bool = False
    """Whether `stream_options.include_usage` may be asked of it where the client did not."""

    @property
    def name(self) -> str:
        """The provider's name in the file."""
        return self.plan.name


@dataclass(frozen=True, slots=True)
class ServerPlan:
    """The data port; sizes in bytes, times in seconds."""

    host: str = "127.0.0.1"
    port: int = 8080
    header_bytes: int = 64 * 1024
    headers: int = 100
    body_bytes: int = 512 * 1024 * 1024
    replay_bytes: int = 32 * 1024 * 1024
    replay_total: int = 256 * 1024 * 1024
    connections: int = 20_000
    header_s: float = 10.0
    body_idle_s: float = 30.0
    keepalive_s: float = 75.0
    drain_delay_s: float = 5.0
    drain_timeout_s: float = 300.0


@dataclass(frozen=True, slots=True)
class AdminPlan:
    """The admin port; `token` guards it off loopback."""

    host: str = "127.0.0.1"
    port: int = 9901
    token: Secret | None = None


@dataclass(frozen=True, slots=True)
class Client:
    """An app that may call: its name and the SHA-256 digest of its key."""

    name: str
    digest: bytes
    models: tuple[str, ...] | None = None
    """Globs of the models it may name; None: all."""
    plan: ClientPlan = field(default_factory=lambda: ClientPlan(""))
    """Its priority, weight and limits; named as the client is."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One configuration, whole."""

    server: ServerPlan
    admin: AdminPlan
    providers: Mapping[str, Provider]
    routes: tuple[Route, ...]
    clients: tuple[Client, ...] | None = None
    """None: whoever reaches the port may call."""
    source: str = "environment"
    """The file's path, or `environment`."""
    digest: str = ""
    """Hex SHA-256 of the configuration's text, shortened to twelve digits: `config_info{hash}`."""
    notes: tuple[str, ...] = field(default=())
    """Sentences for start-up: what was understood, what was left alone."""
