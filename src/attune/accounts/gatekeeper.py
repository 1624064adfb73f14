"""Lets callers in: keys, rates and budgets, from memory."""

from __future__ import annotations

import hmac
import logging
from contextlib import suppress
from math import ceil, isfinite
from typing import TYPE_CHECKING, Protocol

from attune.accounts.account import Account
from attune.accounts.budget import KeyBudget
from attune.accounts.errors import (
    ExpiredKeyError,
    KeysUnavailableError,
    MissingKeyError,
    RateLimitedError,
    RevokedKeyError,
    UnknownKeyError,
)
from attune.accounts.keys import KEY_PREFIX, digest_of, key_id, looks_like_a_key
from attune.accounts.rates import TokenBuckets
from attune.clock import SYSTEM_CLOCK
from attune.errors import StoreError
from attune.models.state import KeyStore, LeaseStore

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable
    from types import TracebackType

    from attune.accounts.rates import RateEngine, Wait
    from attune.clock import Clock
    from attune.models.state import KeyLimits

__all__ = ["AccountStore", "Admission", "Gatekeeper"]

FOLLOW_SECONDS = 0.5
"""How often the store is asked whether keys were made or revoked: below the second within which a revoked
key must stop working."""

_log = logging.getLogger("attune.accounts")


class AccountStore(KeyStore, LeaseStore, Protocol):
    """What the gatekeeper keeps its accounts in."""


class Admission:
    """One call that was let in, and the tokens that it was estimated to take."""

    __slots__ = ("_engine", "_key_id", "_limits", "_open", "_tokens")

    def __init__(self, engine: RateEngine, account: Account, tokens: int) -> None:
        self._engine = engine
        self._key_id = account.id
        self._limits: KeyLimits = account.limits
        self._tokens = tokens
        self._open = True

    def settle(self, tokens: int | None) -> None:
        """Replace the estimate by the tokens that were used; ``None`` if that is not known. Twice changes
        nothing.
        """
        if self._open and tokens is not None:
            self._engine.settle(self._key_id, self._limits, tokens - self._tokens)
        self._open = False


class Gatekeeper:
    """Knows every key of a store, and follows it while it is entered: ``async with Gatekeeper(store):``.

    What is known stays when the store fails; ``last_error`` is then what it fails with. ``rates``
    counts requests and tokens, by default in this process.
    """

    def __init__(
        self, store: AccountStore, *, clock: Clock = SYSTEM_CLOCK, rates: RateEngine | None = None
    ) -> None:
        self.last_error: StoreError | None = None
        self._store = store
        self._clock = clock
        self._rates: RateEngine = TokenBuckets(clock) if rates is None else rates
        self._accounts: dict[str, Account] | None = None
        self._version: int | None = None
        self._following: asyncio.Task[None]

    # -- the keys --------------------------------------------------------------------------------

    async def __aenter__(self) -> Gatekeeper:
        import asyncio

        await self.refresh()
        self._following = asyncio.create_task(self._follow())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import asyncio

        self._following.cancel()
        with suppress(asyncio.CancelledError):
            await self._following

    async def refresh(self) -> None:
        """Read the keys if they changed. A store that fails leaves what is known; it is logged once."""
        import asyncio

        try:
            changed = await asyncio.to_thread(self._read)
        except StoreError as error:
            if self.last_error is None:
                _log.error("the keys cannot be read: %s", error)
            self.last_error = error
            return
        if changed is not None:
            self._version, self._accounts = changed
        self.last_error = None

    def _read(self) -> tuple[int, dict[str, Account]] | None:
        """The version and all accounts by id, or ``None`` when nothing has changed; in a thread, since
        thousands take a while.
        """
        version = self._store.keys_version()
        if version == self._version:
            return None
        # The version is of before the keys: one made in between is read again the next time.
        return version, {record.id: Account(record) for record in self._store.all_keys()}

    async def _follow(self) -> None:
        while True:
            await self._clock.sleep(FOLLOW_SECONDS)
            await self.refresh()

    @property
    def requires_keys(self) -> bool:
        """Whether callers need a key: once one was made. Revoking the last one does not open the door, nor
        does a store that cannot be read.
        """
        return self._accounts is None or bool(self._accounts)

    # -- callers ---------------------------------------------------------------------------------

    def authenticate(self, headers: Iterable[tuple[bytes, bytes]]) -> Account:
        """Whose key came with a request: ``Authorization: Bearer KEY`` or ``x-api-key: KEY``.

        ``headers`` are (name, value) pairs as ASGI has them, the names in lower case. Raises an
        ``AuthenticationError`` (401), or ``KeysUnavailableError`` (503) where the key is not known and
        the store cannot be read: it may be valid.
        """
        if self._accounts is None:
            raise KeysUnavailableError("the keys cannot be read yet; try again in a second")
        digest = digest_of(_presented(headers))
        account = self._accounts.get(key_id(digest))
        if account is None or not hmac.compare_digest(account.digest, digest):
            if self.last_error is not None:
                raise KeysUnavailableError("the keys cannot be read now; try again in a second")
            raise UnknownKeyError("this key is unknown; `attune keys create NAME` makes one")
        if account.revoked is not None:
            raise RevokedKeyError(f"the key {account.name!r} was revoked; ask for a new one")
        if account.expires is not None and self._clock.time() >= account.expires:
            raise ExpiredKeyError(f"the key {account.name!r} has expired; ask for a new one")
        return account

    async def admit(self, account: Account, tokens: int) -> Admission:
        """Count a request, and the ``tokens`` that it is estimated to take, prompt and answer; to be
        settled with what it took. Raises ``RateLimitedError``, and then nothing is counted.
        """
        wait = await self._rates.take(account.id, account.limits, tokens)
        if wait is not None:
            raise _too_fast(account, wait, tokens)
        return Admission(self._rates, account, tokens)

    def budget(self, account: Account) -> KeyBudget | None:
        """The dollars of a key; ``None`` if it has no limit of them."""
        limits = account.limits
        if limits.usd_per_day is None and limits.usd_per_month is None:
            return None
        return KeyBudget(account, self._store, self._clock)


def _presented(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The key of this gateway among the credentials of a request.

    Clients may send a provider's key in one header and ours in the other.
    """
    keys: set[bytes] = set()
    others = False
    for name, value in headers:
        if name == b"authorization":
            scheme, _, credential = value.partition(b" ")
            credential = credential.strip() if scheme.lower() == b"bearer" else b""
        elif name == b"x-api-key":
            credential = value.strip()
        else:
            continue
        if looks_like_a_key(credential):
            keys.add(credential)
        else:
            others = True
    if len(keys) == 1:
        return keys.pop()
    if keys:
        raise UnknownKeyError("two different keys came with this request; send one")
    if others:
        raise UnknownKeyError(
            f"what was sent is no key of this gateway; its keys begin with {KEY_PREFIX!r} "
            "(`attune keys create NAME` makes one)"
        )
    raise MissingKeyError(
        "this gateway needs a key: send it as `Authorization: Bearer KEY` or `x-api-key: KEY` "
        "(`attune keys create NAME` makes one)"
    )


def _too_fast(account: Account, wait: Wait, tokens: int) -> RateLimitedError:
    what, are = (wait.what, "are") if wait.limit > 1 else (wait.what.removesuffix("s"), "is")
    allowance = f"{wait.limit:,} {what} a minute of the key {account.name!r}"
    if not isfinite(wait.seconds):
        message = f"this call may take {tokens:,} tokens, more than the {allowance}; make it smaller"
        return RateLimitedError(message, retry_after=None)
    return RateLimitedError(
        f"the {allowance} {are} used; try again in {max(1, ceil(wait.seconds))} s", retry_after=wait.seconds
    )
