"""Keys of the gateway: how one is made and recognised. Only its SHA-256 is ever kept."""

from __future__ import annotations

import hashlib
import re
import secrets
from math import isfinite
from typing import NoReturn

from attune.errors import InvalidRequestError
from attune.models.state import KeyLimits, KeyRecord, KeyScopes

__all__ = ["KEY_PREFIX", "NewKey", "digest_of", "key_id", "looks_like_a_key"]

KEY_PREFIX = "attune-"
_RANDOM_BYTES = 32
_KEY_CHARS = len(KEY_PREFIX) + 43  # 32 bytes are 43 characters of base64 without its padding
_PREFIX_BYTES = KEY_PREFIX.encode()
_ID_BYTES = 6
_ID = re.compile(rf"[0-9a-f]{{{2 * _ID_BYTES}}}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_LARGEST_RATE = 10**12
_LARGEST_USD = 10**9  # in nano-dollars it still fits a 64-bit integer


class NewKey:
    """A key just made: the only place where its text is. Every text made of it shows only its name.

    ``record`` is what a store keeps of it.
    """

    __slots__ = ("_text", "record")

    def __init__(self, text: str, record: KeyRecord) -> None:
        self._text = text
        self.record = record

    @classmethod
    def make(
        cls,
        name: str,
        *,
        now: float,
        expires: float | None = None,
        scopes: KeyScopes | None = None,
        limits: KeyLimits | None = None,
    ) -> NewKey:
        """A random key; times are UTC epoch seconds. Without scopes and limits it has none.

        Raises ``InvalidRequestError`` for a name or a limit that makes no sense.
        """
        limits = KeyLimits() if limits is None else limits
        _check_name(name)
        _check_limits(limits)
        if expires is not None and expires <= now:
            raise InvalidRequestError("a key that is already expired is of no use; give a later time")
        text = KEY_PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)
        digest = digest_of(text.encode())
        scopes = KeyScopes() if scopes is None else scopes
        return cls(text, KeyRecord(key_id(digest), name, digest, now, expires, None, scopes, limits))

    def reveal(self) -> str:
        """The key itself, to be shown once."""
        return self._text

    def __repr__(self) -> str:
        return f"NewKey({self.record.name!r})"

    def __format__(self, spec: str) -> str:
        return format(repr(self), spec)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key cannot be pickled")


def looks_like_a_key(text: bytes) -> bool:
    """Whether this has the form of a key of the gateway; says nothing of its validity."""
    return len(text) == _KEY_CHARS and text.startswith(_PREFIX_BYTES)


def digest_of(key: bytes) -> bytes:
    """What is kept of a key, and looked for: its SHA-256. A key is 256 random bits, so no salt is needed."""
    return hashlib.sha256(key).digest()


def key_id(digest: bytes) -> str:
    """The public id of a key, which its digest begins with: 12 hexadecimal digits."""
    return digest[:_ID_BYTES].hex()


def _check_name(name: str) -> None:
    if looks_like_a_key(name.encode("utf-8", "replace")):
        raise InvalidRequestError("that is a key, not a name for one; give a name such as 'ci'")
    if not _NAME.fullmatch(name) or _ID.fullmatch(name):
        raise InvalidRequestError(
            f"a key's name is 1 to 64 letters, digits, dots, dashes and underscores, and not like an id: "
            f"{name[:80]!r}"
        )


def _check_limits(limits: KeyLimits) -> None:
    for name in ("requests_per_minute", "tokens_per_minute"):
        rate = getattr(limits, name)
        if rate is not None and not 1 <= rate <= _LARGEST_RATE:
            raise InvalidRequestError(f"{name} must be at least 1 and at most 10^12, not {rate!r}")
    for name in ("usd_per_day", "usd_per_month"):
        usd = getattr(limits, name)
        if usd is not None and not (isfinite(usd) and 0 <= usd <= _LARGEST_USD):
            raise InvalidRequestError(f"{name} must be an amount from 0 to 10^9, not {usd!r}")
