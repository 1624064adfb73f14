"""Every row of the table of error classes, as the providers really put it."""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any, NamedTuple

import pytest

from attune import errors as tree
from attune.errors import (
    CallerError,
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
from attune.wire.errors import MAX_ERROR_BODY_BYTES, MAX_RETRY_AFTER_S, ErrorMapper, retry_after

NOW = 1_800_000_000.0
KEY = "correct-horse-battery-staple"
MODEL = "gpt-6-luna"


class Case(NamedTuple):
    name: str
    status: int
    body: Any
    expected: type[ProviderError]
    headers: dict[str, str] | None = None
    code: str | None = None


def openai(message: str, type_: str = "invalid_request_error", code: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": type_, "code": code, "param": None}}


def anthropic(type_: str, message: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": type_, "message": message}, "request_id": "req_1"}


def gemini(number: int, status: str, message: str, *details: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"error": {"code": number, "message": message, "status": status, "details": list(details)}}]


CASES = [
    # transient
    Case("408", 408, openai("timeout", "server_error"), TransientError),
    Case("500 of OpenAI", 500, openai("oops", "server_error"), TransientError, code="server_error"),
    Case("502 of a proxy", 502, "<html><head><title>502 Bad Gateway</title></head></html>", TransientError),
    Case(
        "503 overloaded",
        503,
        openai("busy", "server_error", "server_is_overloaded"),
        TransientError,
        code="server_is_overloaded",
    ),
    Case("504 without a body", 504, "", TransientError),
    Case(
        "529 of Anthropic",
        529,
        anthropic("overloaded_error", "Overloaded"),
        TransientError,
        code="overloaded_error",
    ),
    Case(
        "503 of Gemini",
        503,
        gemini(503, "UNAVAILABLE", "The model is overloaded."),
        TransientError,
        code="UNAVAILABLE",
    ),
    Case("another 5xx", 599, "", TransientError),
    Case("a redirect", 302, "", TransientError, {"Location": "https://elsewhere.example/?key=abc"}),
    # throttled
    Case(
        "429 of OpenAI",
        429,
        openai("Rate limit reached", "requests", "rate_limit_exceeded"),
        ThrottledError,
        code="rate_limit_exceeded",
    ),
    Case("slow down", 503, openai("Slow down", "server_error", "slow_down"), ThrottledError),
    Case("429 of Anthropic", 429, anthropic("rate_limit_error", "Number of requests"), ThrottledError),
    Case(
        "429 of Gemini",
        429,
        gemini(429, "RESOURCE_EXHAUSTED", "Quota exceeded per minute"),
        ThrottledError,
        code="RESOURCE_EXHAUSTED",
    ),
    Case("429 without a body", 429, "", ThrottledError),
    Case(
        "429 without unified headers is not the plan",
        429,
        anthropic("rate_limit_error", "busy"),
        ThrottledError,
        {"anthropic-ratelimit-unified-status": "allowed"},
    ),
    # window spent
    Case(
        "the unified status",
        429,
        anthropic("rate_limit_error", "limit"),
        WindowSpentError,
        {"Anthropic-Ratelimit-Unified-Status": "rejected"},
    ),
    Case(
        "the 5-hour limit in words",
        429,
        anthropic("rate_limit_error", "You\u2019ve hit your 5-hour limit."),
        WindowSpentError,
    ),
    # money
    Case("402 of Anthropic", 402, anthropic("billing_error", "Payment required"), MoneyGoneError),
    Case("402 of Gemini", 402, gemini(402, "PAYMENT_REQUIRED", "no credits"), MoneyGoneError),
    Case(
        "a 400 about the usage limit",
        400,
        anthropic(
            "invalid_request_error",
            "You have reached your specified API usage limits. You will regain access on 2027-01-01.",
        ),
        MoneyGoneError,
    ),
    Case(
        "a spend limit of Anthropic", 429, anthropic("enforced_spend_limit_reached", "limit"), MoneyGoneError
    ),
    Case(
        "credit balance",
        400,
        anthropic("invalid_request_error", "Your credit balance is too low to access the API."),
        MoneyGoneError,
    ),
    Case(
        "insufficient quota",
        429,
        openai("You exceeded your quota", "insufficient_quota", "insufficient_quota"),
        MoneyGoneError,
    ),
    Case("credit exhausted", 429, openai("x", "billing", "credit_balance_exhausted"), MoneyGoneError),
    Case(
        "a spend limit of OpenAI", 429, openai("x", "billing", "project_spend_limit_exceeded"), MoneyGoneError
    ),
    # credential
    Case(
        "401", 401, openai("Incorrect API key", "invalid_request_error", "invalid_api_key"), CredentialError
    ),
    Case("401 of Anthropic", 401, anthropic("authentication_error", "invalid x-api-key"), CredentialError),
    Case("403", 403, anthropic("permission_error", "not allowed"), CredentialError),
    Case(
        "a bad key at Gemini is a 400",
        400,
        gemini(
            400,
            "INVALID_ARGUMENT",
            "API key not valid. Please pass a valid API key.",
            {"reason": "API_KEY_INVALID"},
        ),
        CredentialError,
    ),
    Case("an HTML 403", 403, "<html><title>Forbidden</title></html>", CredentialError),
    # model
    Case(
        "model_not_found",
        404,
        openai("The model does not exist", code="model_not_found"),
        ModelUnavailableError,
    ),
    Case("404 naming the model", 404, anthropic("not_found_error", f"model: {MODEL}"), ModelUnavailableError),
    Case(
        "403 naming the model",
        403,
        openai(f"Project `p` does not have access to model `{MODEL}`."),
        ModelUnavailableError,
    ),
    Case(
        "404 of Gemini",
        404,
        gemini(404, "NOT_FOUND", f"models/{MODEL} is not found for API version v1"),
        ModelUnavailableError,
    ),
    # caller
    Case("400", 400, openai("bad field"), CallerError, code="invalid_request_error"),
    Case("404 of a wrong path", 404, {"detail": "Not Found"}, CallerError),
    Case("404 naming another model", 404, openai(f"there is no {MODEL}-mini nor {MODEL}.5"), CallerError),
    Case("413", 413, anthropic("request_too_large", "Request exceeds the maximum size"), CallerError),
    Case("422", 422, {"detail": [{"msg": "field required"}]}, CallerError),
    Case("another 4xx", 418, "", CallerError),
    # context
    Case("context_length_exceeded", 400, openai("x", code="context_length_exceeded"), ContextTooLongError),
    Case(
        "prompt is too long",
        400,
        anthropic("invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum"),
        ContextTooLongError,
    ),
    Case(
        "the window of llama.cpp",
        400,
        {
            "error": {
                "code": 400,
                "type": "exceed_context_size_error",
                "message": "request (5031 tokens) exceeds the available context size",
            }
        },
        ContextTooLongError,
    ),
    Case(
        "the window of Gemini",
        400,
        gemini(
            400,
            "INVALID_ARGUMENT",
            "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
        ),
        ContextTooLongError,
    ),
    # refusal
    Case("content filter", 400, openai("filtered", code="content_filter"), RefusalError),
    Case("a policy of the service", 400, openai("no", code="misalignment_policy_violation"), RefusalError),
    # words that must not decide
    Case("'rate' inside 'generate'", 400, openai("cannot generate at this rate of limit"), CallerError),
    Case("an error quoted in a 500", 500, openai("prompt is too long", "server_error"), TransientError),
]


def mapped(case: Case) -> ProviderError:
    body = case.body if isinstance(case.body, str) else json.dumps(case.body)
    mapper = ErrorMapper("mine", MODEL, key=KEY)
    return mapper.from_response(case.status, case.headers or {}, body.encode(), now=NOW)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_an_http_error_has_the_class_of_its_row(case: Case) -> None:
    error = mapped(case)
    assert type(error) is case.expected
    assert error.status == case.status
    assert (error.provider, error.model) == ("mine", MODEL)
    assert str(error).startswith(f"mine/{MODEL} answered {case.status}")
    assert "\n" not in str(error)
    if case.code is not None:
        assert error.code == case.code


def test_every_class_of_a_failed_attempt_is_reached_by_some_answer() -> None:
    subclasses = {
        cls for cls in vars(tree).values() if isinstance(cls, type) and issubclass(cls, ProviderError)
    }
    without_an_answer = {ProviderError, tree.ConnectionFailedError, StreamBrokenError}
    assert {type(mapped(case)) for case in CASES} == subclasses - without_an_answer


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (MoneyGoneError, openai(f"no access to {MODEL}", "insufficient_quota", "context_length_exceeded")),
        (ContextTooLongError, openai(f"no access to {MODEL}", code="context_length_exceeded")),
        (ModelUnavailableError, openai(f"no access to {MODEL}", code="invalid_api_key")),
        (CredentialError, openai("no access", code="invalid_api_key")),
    ],
)
def test_money_comes_before_context_before_model_before_credential(first: type, second: Any) -> None:
    assert type(mapped(Case("", 403, second, first))) is first


def test_the_body_is_kept_unmodified_up_to_its_cap() -> None:
    body = b"x" * (MAX_ERROR_BODY_BYTES + 1)
    error = ErrorMapper("p", "m").from_response(400, {}, body, now=NOW)
    assert error.body == body[:MAX_ERROR_BODY_BYTES]


def test_the_message_quotes_the_provider_in_one_short_line_without_keys() -> None:
    text = f"Incorrect API key provided: sk-proj-1234567890 or {KEY}.\nSee the docs. " + "More. " * 200
    message = str(mapped(Case("", 401, openai(text), CredentialError)))
    assert message.startswith(
        "mine/gpt-6-luna answered 401 (invalid_request_error): Incorrect API key provided: "
    )
    assert KEY not in message
    assert "sk-proj" not in message
    assert len(message) < 400


def test_a_key_in_the_typed_code_is_not_repeated() -> None:
    error = mapped(Case("", 400, openai("x", code=KEY), CallerError))
    assert KEY not in str(error)
    assert error.code == "[redacted]"


def test_an_html_page_is_shown_by_its_title() -> None:
    page = "<!DOCTYPE html><HTML><head><TITLE>502 Bad\nGateway</TITLE></head><body>...</body></HTML>"
    assert str(mapped(Case("", 502, page, TransientError))).endswith(
        ": an HTML page titled '502 Bad\\nGateway'"
    )
    untitled = mapped(Case("", 502, "<html><body>no</body></html>", TransientError))
    assert str(untitled).endswith(": an HTML page")


def test_a_redirect_says_what_to_do_and_not_where_it_leads() -> None:
    error = mapped(CASES[[case.name for case in CASES].index("a redirect")])
    assert "base_url" in str(error)
    assert "elsewhere" not in str(error)


@pytest.mark.parametrize(
    "body", [b"[" * 100_000, b"\xff\xfe", b'"\xff"', b"[]", b"null", b"17", b'{"error": null}']
)
def test_a_strange_body_is_classified_by_its_status(body: bytes) -> None:
    assert type(ErrorMapper("p", "m").from_response(503, {}, body, now=NOW)) is TransientError


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "1500", "retry-after": "99"}, 1.5),
        ({"retry-after": format_datetime(datetime.fromtimestamp(NOW + 90, UTC), usegmt=True)}, 90.0),
        ({"retry-after": format_datetime(datetime.fromtimestamp(NOW - 90, UTC), usegmt=True)}, 0.0),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "1e12"}, MAX_RETRY_AFTER_S),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "soon"}, None),
        ({}, None),
    ],
)
def test_retry_after_is_read_as_seconds_milliseconds_or_a_date(
    headers: dict[str, str], seconds: float | None
) -> None:
    assert retry_after(headers, NOW) == seconds


@pytest.fixture
def in_new_york(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "America/New_York")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("in_new_york")
@pytest.mark.parametrize(
    "form",
    [
        "%a, %d %b %Y %H:%M:%S GMT",
        "%A, %d-%b-%y %H:%M:%S GMT",
        "%a %b %e %H:%M:%S %Y",
        "%a, %d %b %Y %H:%M:%S -0000",
        "%a, %d %b %Y %H:%M:%S +0000",
    ],
)
def test_a_date_to_wait_for_is_utc_in_every_form_that_http_allows(form: str) -> None:
    assert retry_after({"retry-after": time.strftime(form, time.gmtime(NOW + 90))}, NOW) == 90.0


def test_an_error_carries_how_long_to_wait() -> None:
    throttled = mapped(Case("", 429, openai("x"), ThrottledError, {"Retry-After": "12"}))
    assert throttled.retry_after == 12.0
    at_once = mapped(Case("", 429, openai("x"), ThrottledError, {"Retry-After": "0"}))
    assert at_once.retry_after == 0.0
    delayed = mapped(
        Case("", 429, gemini(429, "RESOURCE_EXHAUSTED", "x", {"retryDelay": "37s"}), ThrottledError)
    )
    assert delayed.retry_after == 37.0
    told = mapped(Case("", 429, openai("Limit reached. Please try again in 6m0.5s."), ThrottledError))
    assert told.retry_after == 360.5
    spent = mapped(
        Case(
            "",
            429,
            openai("x"),
            WindowSpentError,
            {
                "anthropic-ratelimit-unified-status": "rejected",
                "anthropic-ratelimit-unified-reset": str(int(NOW) + 3600),
                "retry-after": "1",
            },
        )
    )
    assert spent.retry_after == 3600.0


@pytest.mark.parametrize(
    ("words", "seconds"),
    [
        ("Please try again in 1.898s. Visit https://x.example", 1.898),
        ("please try again in 120ms", 0.12),
        ("Please try again in 1h2m3s.", 3723.0),
        (f"Please try again in {'9' * 40}h", MAX_RETRY_AFTER_S),
        ("Please try again in 2 days.", None),
        ("Please try again in 3sec.", None),
        ("Please try again in a moment.", None),
    ],
)
def test_a_wait_that_is_told_in_words_alone_is_read(words: str, seconds: float | None) -> None:
    data = json.dumps(openai(words, code="rate_limit_exceeded")).encode()
    assert ErrorMapper("mine", MODEL).from_event(data).retry_after == seconds


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (anthropic("overloaded_error", "Overloaded"), StreamBrokenError),
        (anthropic("api_error", "Internal"), StreamBrokenError),
        (anthropic("rate_limit_error", "slow"), ThrottledError),
        (anthropic("invalid_request_error", "prompt is too long: 9 > 8"), ContextTooLongError),
        (anthropic("invalid_request_error", "bad"), CallerError),
        (anthropic("not_found_error", f"model: {MODEL}"), ModelUnavailableError),
        (anthropic("billing_error", "pay"), MoneyGoneError),
        (anthropic("authentication_error", "expired"), CredentialError),
        (openai("The server had an error", "server_error"), StreamBrokenError),
        ({"error": {"code": 502, "message": "bad gateway"}}, StreamBrokenError),
        ({"error": {"code": 429, "message": "slow"}}, ThrottledError),
        ({"error": "something"}, StreamBrokenError),
    ],
)
def test_an_error_in_a_stream_has_its_class_and_is_mid_stream_where_it_is_transient(
    data: Any, expected: type[ProviderError]
) -> None:
    error = ErrorMapper("mine", MODEL).from_event(json.dumps(data).encode())
    assert type(error) is expected
    assert error.status == 200
