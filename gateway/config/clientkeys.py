"""Keys of our own, for clients: what `gateway key new` prints, and the one way in which a key becomes its hash.

One law: the key itself is shown once and kept nowhere. The configuration holds its SHA-256, which needs no salt and no slow hash,
since a key of 256 random bits cannot be guessed from it.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from typing import Final

PREFIX: Final = "gw-"
"""Tells people, and scanners for leaked secrets, whose key it is."""
_ENTROPY_BYTES: Final = 32


def fresh_key() -> str:
    """Return a new key of 256 random bits; letters, digits, `-` and `_` only, so that it can stand in any header or variable."""
    return PREFIX + secrets.token_urlsafe(_ENTROPY_BYTES)


def digest(key: str) -> bytes:
    """Return the SHA-256 of the key's UTF-8 bytes."""
    return hashlib.sha256(key.encode()).digest()


def handout(name: str) -> str:
    """Return a fresh key with what to do with it, and the line of `clients` that lets it in."""
    key = fresh_key()
    written = f"sha256:{digest(key).hex()}"
    # Always in quotes: to YAML a name such as `on` or `2024` is none.
    line = f"- {{name: {json.dumps(name)}, key: {json.dumps(written)}}}"
    return (
        f"key:   {key}   give this to the client; it is not stored anywhere\n"
        f"hash:  {written}   put this into the configuration:\n"
        f"  {line}\n"
    )
