"""Which proxy the environment asks for, as a table: variables, origin, expected."""

from __future__ import annotations

import pytest

from gateway.config.proxies import environment_proxy

P = "http://proxy.test:3128"
API = ("https", "api.example.com", 443)

CASES: list[tuple[dict[str, str], tuple[str, str, int], str | None]] = [
    ({}, API, None),
    ({"HTTPS_PROXY": P}, API, P),
    ({"https_proxy": P}, API, P),
    ({"https_proxy": P, "HTTPS_PROXY": "http://other:1"}, API, P),
    ({"https_proxy": "", "HTTPS_PROXY": P}, API, None),
    ({"HTTPS_PROXY": " proxy.test:3128 "}, API, P),
    ({"HTTPS_PROXY": "http://user:pw@proxy.test:3128"}, API, "http://user:pw@proxy.test:3128"),
    ({"HTTPS_PROXY": "socks5://proxy.test:1080"}, API, "socks5://proxy.test:1080"),
    ({"HTTP_PROXY": P}, API, None),
    ({"HTTP_PROXY": P}, ("http", "vllm.corp", 8000), P),
    ({"HTTP_PROXY": P, "REQUEST_METHOD": "GET"}, ("http", "vllm.corp", 8000), None),
    ({"http_proxy": P, "REQUEST_METHOD": "GET"}, ("http", "vllm.corp", 8000), P),
    ({"HTTPS_PROXY": P, "REQUEST_METHOD": "GET"}, API, P),
    ({"ALL_PROXY": P}, API, P),
    ({"all_proxy": P}, ("http", "vllm.corp", 8000), P),
    ({"ALL_PROXY": "http://other:1", "HTTPS_PROXY": P}, API, P),
    # Loopback is this machine's, not the proxy's.
    ({"ALL_PROXY": P}, ("http", "localhost", 8000), None),
    ({"ALL_PROXY": P}, ("http", "127.0.0.9", 8000), None),
    ({"ALL_PROXY": P}, ("http", "::1", 8000), None),
    # NO_PROXY.
    ({"ALL_PROXY": P, "NO_PROXY": "*"}, API, None),
    ({"ALL_PROXY": P, "NO_PROXY": ""}, API, P),
    ({"ALL_PROXY": P, "NO_PROXY": "other.com, *"}, API, None),
    ({"ALL_PROXY": P, "NO_PROXY": "api.example.com"}, API, None),
    ({"ALL_PROXY": P, "NO_PROXY": "API.Example.COM."}, API, None),
    ({"ALL_PROXY": P, "NO_PROXY": "api.example.com"}, ("https", "API.EXAMPLE.COM.", 443), None),
    ({"ALL_PROXY": P, "no_proxy": "example.com"}, API, None),
    ({"ALL_PROXY": P, "no_proxy": ".example.com"}, API, None),
    ({"ALL_PROXY": P, "no_proxy": "*.example.com"}, API, None),
    ({"ALL_PROXY": P, "no_proxy": "example.com"}, ("https", "notexample.com", 443), P),
    ({"ALL_PROXY": P, "no_proxy": "example"}, API, P),
    ({"ALL_PROXY": P, "no_proxy": "a.test b.test,,example.com"}, API, None),
    ({"ALL_PROXY": P, "no_proxy": ".,,*."}, API, P),
    ({"ALL_PROXY": P, "no_proxy": "example.com:443"}, API, None),
    ({"ALL_PROXY": P, "no_proxy": "example.com:8443"}, API, P),
    ({"ALL_PROXY": P, "no_proxy": "10.0.0.7"}, ("http", "10.0.0.7", 80), None),
    ({"ALL_PROXY": P, "no_proxy": "10.0.0.7:81"}, ("http", "10.0.0.7", 80), P),
    ({"ALL_PROXY": P, "no_proxy": "10.0.0.7:80"}, ("http", "10.0.0.7", 80), None),
    ({"ALL_PROXY": P, "no_proxy": "10.0.0.0/8"}, ("http", "10.1.2.3", 80), None),
    ({"ALL_PROXY": P, "no_proxy": "10.0.0.0/8"}, ("http", "11.1.2.3", 80), P),
    ({"ALL_PROXY": P, "no_proxy": "10.0.0.0/8"}, ("http", "10.example.com", 80), P),
    ({"ALL_PROXY": P, "no_proxy": "0.7"}, ("http", "10.0.0.7", 80), P),
    ({"ALL_PROXY": P, "no_proxy": "2001:db8::/32"}, ("http", "2001:db8::1", 80), None),
    ({"ALL_PROXY": P, "no_proxy": "2001:db8::1"}, ("http", "2001:db8::1", 80), None),
    ({"ALL_PROXY": P, "no_proxy": "[2001:db8::1]"}, ("http", "2001:db8::1", 80), None),
    ({"ALL_PROXY": P, "no_proxy": "[2001:db8::1]:80"}, ("http", "2001:db8::1", 80), None),
    ({"ALL_PROXY": P, "no_proxy": "[2001:db8::1]:81"}, ("http", "2001:db8::1", 80), P),
    ({"ALL_PROXY": P, "no_proxy": "10.0.0.0/8"}, ("http", "2001:db8::1", 80), P),
]


@pytest.mark.parametrize(("environ", "origin", "expected"), CASES, ids=[f"{case[0]} {case[1][1]}" for case in CASES])
def test_environment_proxy(environ: dict[str, str], origin: tuple[str, str, int], expected: str | None) -> None:
    assert environment_proxy(*origin, environ) == expected
