"""Keys and accounts for the tests of accounts."""

from __future__ import annotations

from typing import Any

from attune.accounts import Account, NewKey
from attune.models.state import KeyLimits, KeyScopes

NOW = 1_800_000_000.0

USD = 1_000_000_000


def a_key(name: str = "ci", *, now: float = NOW, expires: float | None = None, **fields: Any) -> NewKey:
    """A key; ``fields`` are scopes (as lists) and limits."""
    scopes = {name: fields.pop(name) for name in KeyScopes._fields if name in fields}
    sets = {name: frozenset(value) if isinstance(value, list) else value for name, value in scopes.items()}
    return NewKey.make(name, now=now, expires=expires, scopes=KeyScopes(**sets), limits=KeyLimits(**fields))


def an_account(name: str = "ci", **fields: Any) -> Account:
    return Account(a_key(name, **fields).record)


def bearer(key: NewKey) -> list[tuple[bytes, bytes]]:
    """The headers of a client that sends this key."""
    return [(b"host", b"127.0.0.1"), (b"authorization", f"Bearer {key.reveal()}".encode())]
