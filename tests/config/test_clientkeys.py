"""Keys made for clients: unguessable, safe wherever a key is carried, and let in by the very line that comes with them."""

from __future__ import annotations

import re

import pytest

from gateway.config.clientkeys import digest, fresh_key, handout


def test_a_fresh_key_has_256_random_bits_and_fits_any_header():
    keys = {fresh_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(re.fullmatch(r"gw-[A-Za-z0-9_-]{43}", key) for key in keys)


@pytest.mark.parametrize("name", ["search-team", "on", "null", "2024", "2024-99-99", "1e5", "a@b.c_d"])
def test_the_line_handed_out_lets_the_key_in(read, name):
    named, _, line = handout(name).splitlines()
    key = named.split()[1]
    snapshot = read(f"providers: {{p: {{dialect: openai, base_url: https://h}}}}\nclients:\n{line}\n")
    assert snapshot.clients is not None
    assert [(client.name, client.digest) for client in snapshot.clients] == [(name, digest(key))]
    assert key not in repr(snapshot) + line
