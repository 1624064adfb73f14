"""When the same candidate is tried again, and after how long."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attune.errors import (
    CallerError,
    ConnectionFailedError,
    ContextTooLongError,
    CredentialError,
    ErrorClass,
    InvalidRequestError,
    ModelUnavailableError,
    MoneyGoneError,
    RefusalError,
    StreamBrokenError,
    ThrottledError,
    TransientError,
    WindowSpentError,
)
from attune.models.retry import RetryPolicy

REPEATED = [ConnectionFailedError("x"), TransientError("x"), StreamBrokenError("x")]
NOT_REPEATED = [
    each("x")
    for each in (
        CallerError,
        ContextTooLongError,
        CredentialError,
        ModelUnavailableError,
        MoneyGoneError,
        RefusalError,
        ThrottledError,
        WindowSpentError,
    )
]


def test_every_error_class_of_a_provider_is_decided_here():
    decided = {each.error_class for each in (*REPEATED, *NOT_REPEATED)}
    assert decided == set(ErrorClass) - {ErrorClass.CANCELLED, ErrorClass.INTERNAL}


@pytest.mark.parametrize("error", REPEATED, ids=lambda error: error.error_class)
def test_a_passing_failure_is_repeated_once_by_default(error):
    assert RetryPolicy().repeats(error, 0)
    assert not RetryPolicy().repeats(error, 1)


@pytest.mark.parametrize("error", NOT_REPEATED, ids=lambda error: error.error_class)
def test_any_other_failure_is_never_repeated(error):
    assert not RetryPolicy(max_repeats=100).repeats(error, 0)


def test_no_repeats_means_none():
    assert not RetryPolicy(max_repeats=0).repeats(TransientError("x"), 0)


@given(
    base=st.floats(0, 10),
    cap=st.floats(0, 100),
    done=st.integers(0, 20),
    asked=st.none() | st.floats(0, 1000),
    seed=st.integers(),
)
def test_a_pause_is_drawn_from_nothing_up_to_a_doubling_limit_but_never_before_what_was_asked(
    base, cap, done, asked, seed
):
    policy = RetryPolicy(max_repeats=50, base_s=base, cap_s=cap)
    pause = policy.pause(TransientError("x", retry_after=asked), done, Random(seed))
    assert (asked or 0) <= pause <= max(min(cap, base * 2**done), asked or 0)


@pytest.mark.parametrize(("done", "limit"), [(0, 0.5), (1, 1.0), (2, 2.0), (4, 8.0), (9, 8.0)])
def test_the_jitter_is_full(done, limit):
    rng = Random(1)
    pauses = [RetryPolicy().pause(TransientError("x"), done, rng) for _ in range(4000)]
    assert min(pauses) < 0.01 * limit
    assert 0.99 * limit < max(pauses) <= limit
    assert sum(pauses) / len(pauses) == pytest.approx(limit / 2, rel=0.05)


@pytest.mark.parametrize("wrong", [{"max_repeats": -1}, {"base_s": -0.1}, {"cap_s": -1.0}])
def test_negative_limits_are_refused(wrong):
    with pytest.raises(InvalidRequestError, match=r"^max_repeats, base_s and cap_s must not be negative$"):
        RetryPolicy(**wrong)
