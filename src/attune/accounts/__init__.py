"""Accounts of the gateway: keys, what they allow, and how much of it.

::

    async with Gatekeeper(store) as gatekeeper:  # follows the keys that are made and revoked
        account = gatekeeper.authenticate(headers)  # 401, 503
        account.check(route=path, tier="cheap")  # 403; allows_model(model) says it of a candidate
        admission = await gatekeeper.admit(account, estimated_tokens)  # 429
        if (budget := gatekeeper.budget(account)) is not None:
            held = await budget.reserve(predicted_nanos, ttl_s=600)  # 402
            ...
            held.settle(cost_nanos)
        admission.settle(tokens)

Each refusal is an ``AccountError``, with the ``status`` and the ``retry_after`` to answer. ``NewKey.make``
makes a key, of which a ``KeyStore`` keeps the record.
"""

from attune.accounts.account import DEFAULT_ROUTES, ROUTES, Account
from attune.accounts.budget import PERIODS, KeyBudget, Period, period_bounds, resource_of
from attune.accounts.errors import (
    AccountError,
    AuthenticationError,
    BudgetSpentError,
    ExpiredKeyError,
    KeysUnavailableError,
    MissingKeyError,
    RateLimitedError,
    RevokedKeyError,
    ScopeError,
    UnknownKeyError,
)
from attune.accounts.gatekeeper import AccountStore, Admission, Gatekeeper
from attune.accounts.keys import KEY_PREFIX, NewKey, looks_like_a_key
from attune.accounts.rates import RateEngine, TokenBuckets, Wait

__all__ = [
    "DEFAULT_ROUTES",
    "KEY_PREFIX",
    "PERIODS",
    "ROUTES",
    "Account",
    "AccountError",
    "AccountStore",
    "Admission",
    "AuthenticationError",
    "BudgetSpentError",
    "ExpiredKeyError",
    "Gatekeeper",
    "KeyBudget",
    "KeysUnavailableError",
    "MissingKeyError",
    "NewKey",
    "Period",
    "RateEngine",
    "RateLimitedError",
    "RevokedKeyError",
    "ScopeError",
    "TokenBuckets",
    "UnknownKeyError",
    "Wait",
    "looks_like_a_key",
    "period_bounds",
    "resource_of",
]
