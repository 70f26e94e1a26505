"""Addresses in a configuration: where we listen, where providers are, through which proxy.

Separate because each must be taken apart the same way for everybody: a base URL that one reader accepts and another misreads sends
a key to the wrong host. What is ambiguous (a host with no scheme, userinfo, a query, a path that already names an endpoint) is
refused with the form that is meant.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Final, NamedTuple
from urllib.parse import SplitResult, urlsplit

from gateway.config.proxies import environment_proxy
from gateway.config.secrets import secret_text
from gateway.config.units import Mistake, text

_HOST: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?\.?", re.ASCII)
_PATH: Final = re.compile(r"[A-Za-z0-9/_.~!$&'()*+,;=:@%-]*", re.ASCII)
_LISTEN: Final = re.compile(r"(?P<host>\[[^\]]*\]|[^:\[\]]*):(?P<port>\d{1,5})", re.ASCII)
_ENDPOINT: Final = re.compile(r"/(?:chat/completions|completions|responses|embeddings|messages|models)$")


class Listen(NamedTuple):
    """A host (a name or an address, IPv6 without brackets) and a port; port 0 lets the system choose."""

    host: str
    port: int

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class BaseUrl(NamedTuple):
    """A provider's address; `path` without a trailing slash."""

    scheme: str
    host: str
    port: int
    path: str


def listen(value: object) -> Listen:
    """Read `127.0.0.1:8080`, `[::1]:8080`, `localhost:8080`."""
    if isinstance(value, int) and not isinstance(value, bool):
        raise Mistake('an address is expected, e.g. "127.0.0.1:8080" (in quotes: YAML reads 10:30 as the number 630)')
    match = _LISTEN.fullmatch(text(value))
    if match is None:
        raise Mistake('not an address; write host and port, e.g. "127.0.0.1:8080" or "[::1]:8080"')
    host, port = match["host"], int(match["port"])
    if not host:
        raise Mistake('say on which address: "127.0.0.1:…" for this machine only, "0.0.0.0:…" for everybody')
    if port > 65535:
        raise Mistake("ports go up to 65535")
    if host.startswith("["):
        try:
            return Listen(str(ipaddress.IPv6Address(host[1:-1])), port)
        except ValueError:
            raise Mistake("not an IPv6 address") from None
    return Listen(_host(host), port)


def base_url(value: object) -> BaseUrl:
    """Read a provider's address: scheme, host, optional port and path."""
    parts, port = _split(text(value), ("https", "http"), "https://api.openai.com/v1")
    if "@" in parts.netloc:
        raise Mistake("keys do not belong in the address: use `api_key`", quote=False)
    if parts.query or parts.fragment:
        raise Mistake("an address cannot have a query or a fragment", quote=False)
    path = parts.path.rstrip("/")
    if not _PATH.fullmatch(path) or "//" in path:
        raise Mistake("the address's path contains characters that must be percent-encoded", quote=False)
    if ending := _ENDPOINT.search(path):
        raise Mistake(f"stop before {ending[0]}: the gateway adds the endpoint's path itself", quote=False)
    return BaseUrl(parts.scheme, _host(parts.hostname or ""), port or (443 if parts.scheme == "https" else 80), path)


def proxy(value: object) -> str | None:
    """Read `http://[user:password@]host:port`; `off` (None) means a direct connection whatever the environment says."""
    if value is False or value == "off":
        return None
    written = secret_text(value)
    parts, port = _split(written, ("http",), "http://proxy.internal:3128")
    host = _host(parts.hostname or "")
    if port is None:
        raise Mistake("say the proxy's port, e.g. http://proxy.internal:3128", quote=False)
    if parts.path not in {"", "/"} or parts.query or parts.fragment:
        raise Mistake("a proxy's address has no path", quote=False)
    userinfo = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
    return f"http://{userinfo}{f'[{host}]' if ':' in host else host}:{port}"


def proxy_from(environ: Mapping[str, str], url: BaseUrl) -> str | None:
    """Return the proxy that the environment names for this address, checked as one in the file would be."""
    found = environment_proxy(url.scheme, url.host, url.port, environ)
    return proxy(found) if found is not None else None


def azure_root(url: BaseUrl) -> BaseUrl:
    """Return an Azure address without the `/openai` or `/openai/v1` that the dialect adds, however much of it was written."""
    if "/openai/deployments" in url.path:
        raise Mistake("stop before /openai/deployments: the deployment's name is the target's `model`", quote=False)
    for ending in ("/openai/v1", "/openai"):
        if url.path.endswith(ending):
            return url._replace(path=url.path.removesuffix(ending))
    return url


def _split(written: str, schemes: tuple[str, ...], example: str) -> tuple[SplitResult, int | None]:
    if any(not "!" <= char <= "~" for char in written):
        raise Mistake("an address has no spaces, control or non-ASCII characters", quote=False)
    try:
        parts = urlsplit(written)
        port = parts.port
    except ValueError:
        raise Mistake(f"not an address; write it like {example}", quote=False) from None
    if parts.scheme not in schemes or not parts.hostname:
        raise Mistake(
            f"must begin with {' or '.join(f'{scheme}://' for scheme in schemes)} and a host, like {example}", quote=False
        )
    if port == 0:
        raise Mistake("port 0 cannot be reached", quote=False)
    return parts, port


def _host(host: str) -> str:
    """Return the host in lower case, checked."""
    if ":" in host:
        try:
            return str(ipaddress.IPv6Address(host))
        except ValueError:
            raise Mistake("not an IPv6 address", quote=False) from None
    host = host.lower()
    if not _HOST.fullmatch(host) or len(host) > 253:
        raise Mistake("not a host's name or address", quote=False)
    return host
