"""What a failed turn of the ``claude`` program means: results as it gives them, and the plan's report."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from attune.errors import (
    CallerError,
    ConnectionFailedError,
    ContextTooLongError,
    CredentialError,
    ModelUnavailableError,
    MoneyGoneError,
    ProviderError,
    RefusalError,
    StreamBrokenError,
    ThrottledError,
    TransientError,
    WindowSpentError,
)
from attune.providers._claude_lines import Result, failure_of
from attune.providers._claude_windows import RateLimitInfo
from attune.wire.errors import ErrorMapper

NOW = 1_795_400_000.0
MODEL = "claude-sonnet-5-5"
SPENT = {"status": "rejected", "rateLimitType": "five_hour", "resetsAt": NOW + 100}


def failure(
    result: str, status: int | None, kind: str = "", limits: Any = None, **more: Any
) -> ProviderError:
    told = {"is_error": True, "result": result, "api_error_status": status, "api_error_type": kind} | more
    info = msgspec.convert(limits or {}, RateLimitInfo)
    return failure_of(msgspec.convert(told, Result), info, ErrorMapper("claude", MODEL), NOW)


@pytest.mark.parametrize(
    ("result", "status", "kind", "expected"),
    [
        ("API Error: 529 Overloaded. This is a server-side issue", 529, "overloaded_error", TransientError),
        ("API Error: 500 oops. This is a server-side issue", 500, "api_error", TransientError),
        (
            "API Error: Server is temporarily limiting requests (not your usage limit)",
            429,
            "rate_limit_error",
            ThrottledError,
        ),
        (
            "Prompt is too long \u00b7 the request is ~9 tokens",
            400,
            "invalid_request_error",
            ContextTooLongError,
        ),
        ("API Error: 400 temperature: bad", 400, "invalid_request_error", CallerError),
        (
            f"There's an issue with the selected model ({MODEL}).",
            404,
            "not_found_error",
            ModelUnavailableError,
        ),
        ("Credit balance is too low", 402, "billing_error", MoneyGoneError),
        ("Failed to authenticate. API Error: 401 expired", 401, "authentication_error", CredentialError),
        ("Claude Code can't use your Claude subscription", 403, "permission_error", CredentialError),
        ("Not logged in \u00b7 Please run /login", None, "", CredentialError),
        ("API Error: Unable to connect to API", None, "", ConnectionFailedError),
    ],
)
def test_a_failed_turn_is_classified(
    result: str, status: int | None, kind: str, expected: type[ProviderError]
) -> None:
    error = failure(result, status, kind)
    assert type(error) is expected
    assert error.status == status
    assert (error.provider, error.model) == ("claude", MODEL)


def test_a_spent_window_says_when_it_is_reset() -> None:
    typed = failure("You've hit your 5-hour limit", 429, "rate_limit_error", SPENT)
    assert type(typed) is WindowSpentError
    assert typed.retry_after == 100
    assert failure("You've hit your usage limit", 429).retry_after is None
    assert type(failure("You've hit your usage limit", None)) is WindowSpentError


def test_a_plan_that_is_spent_makes_no_other_failure_one() -> None:
    assert type(failure("API Error: 529 Overloaded", 529, "overloaded_error", SPENT)) is TransientError


def test_an_answer_that_had_begun_is_broken() -> None:
    error = failure("API Error: Connection to the API was lost", None, begun_message_ids=["msg_1"])
    assert type(error) is StreamBrokenError


def test_a_refusal_is_one_without_an_answer_too() -> None:
    assert type(failure("safeguards flagged this message", None, stop_reason="refusal")) is RefusalError
