"""Which outbound proxy the environment asks for: `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`.

No standard exists, only habits that differ between programs. What holds here: the lower-case name wins over the upper-case one
(curl, Python); `NO_PROXY` entries are host names that cover their subdomains, with or without a leading dot or `*.`, addresses,
CIDR ranges, each with an optional port, or `*` for everything; loopback is never proxied (Go: the proxy's loopback is another
machine's). It is a pure function, apart from the compiler, so that the whole table of habits can be read and tested as a table.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

_ENTRY_PORT = re.compile(r"(?P<host>\[[^\]]*\]|[^:]*):(?P<port>\d+)")


def environment_proxy(scheme: str, host: str, port: int, environ: Mapping[str, str]) -> str | None:
    """Return the proxy URL for connections to this origin, or None for a direct connection.

    `host` is bare, without brackets round IPv6. A value without a scheme is an `http://` proxy. The upper-case `HTTP_PROXY` is
    ignored where `REQUEST_METHOD` is set: under CGI a client's `Proxy:` header would set it (CVE-2016-5385).
    """
    value = _variable(environ, f"{scheme}_proxy") or _variable(environ, "all_proxy")
    if not value or _is_direct(host.lower().rstrip("."), port, _variable(environ, "no_proxy")):
        return None
    return value if "://" in value else f"http://{value}"


def _variable(environ: Mapping[str, str], name: str) -> str:
    value = environ.get(name)
    if value is None and not (name == "http_proxy" and "REQUEST_METHOD" in environ):
        value = environ.get(name.upper())
    return (value or "").strip()


def _is_direct(host: str, port: int, no_proxy: str) -> bool:
    address = _address(host)
    if host == "localhost" or (address is not None and address.is_loopback):
        return True
    return any(_covers(entry.lower(), host, address, port) for entry in re.split(r"[,\s]+", no_proxy) if entry)


def _covers(entry: str, host: str, address: IPv4Address | IPv6Address | None, port: int) -> bool:
    if entry == "*":
        return True
    if _address(entry) is None and (parts := _ENTRY_PORT.fullmatch(entry)):
        if int(parts["port"]) != port:
            return False
        entry = parts["host"]
    entry = entry.removeprefix("[").removesuffix("]")
    if address is not None:
        try:
            return address in ip_network(entry, strict=False)
        except ValueError:
            return False
    domain = entry.removeprefix("*").strip(".")
    return bool(domain) and (host == domain or host.endswith("." + domain))


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None
