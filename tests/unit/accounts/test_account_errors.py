"""The tree of refusals, and the public names."""

from __future__ import annotations

import attune.accounts as accounts
from attune.accounts import AccountError, AuthenticationError
from attune.accounts import errors as errors_module
from attune.errors import AttuneError

STATUSES = {
    "AccountError": 403,
    "AuthenticationError": 401,
    "BudgetSpentError": 402,
    "ExpiredKeyError": 401,
    "KeysUnavailableError": 503,
    "MissingKeyError": 401,
    "RateLimitedError": 429,
    "RevokedKeyError": 401,
    "ScopeError": 403,
    "UnknownKeyError": 401,
}


def test_every_refusal_has_its_status():
    classes = {name: getattr(errors_module, name) for name in errors_module.__all__}
    assert {name: each.status for name, each in classes.items()} == STATUSES
    assert all(issubclass(each, AccountError) and issubclass(each, AttuneError) for each in classes.values())
    assert {name for name, each in classes.items() if issubclass(each, AuthenticationError)} == {
        name for name, status in STATUSES.items() if status == 401
    }


def test_every_refusal_can_be_imported_from_the_package():
    assert set(errors_module.__all__) <= set(accounts.__all__)
    assert all(hasattr(accounts, name) for name in accounts.__all__)
