"""Every signal by which a provider says what is wrong leads to the right next step, over real sockets.

Chosen first is a/m, with the credential ``one``, which is answered with the signal; ``two`` of the same
provider, b/m and b/big (a larger window) work.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from attune.errors import (
    CallerError,
    ConnectionFailedError,
    ContextTooLongError,
    CredentialError,
    ErrorClass,
    ModelUnavailableError,
    MoneyGoneError,
    ProviderError,
    RefusalError,
    StreamBrokenError,
    ThrottledError,
    TransientError,
    WindowSpentError,
)
from attune.models.candidate import Candidate
from attune.models.executor import TextDelta
from attune.models.state import FactKind
from support.installation import PROTOCOLS, Installation, Spec, installation
from support.stalls import anew_after_a_stall
from support.upstream import Answer, Received

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from attune.models.executor import LLMResponse
    from attune.runtime import Runtime

MODELS = (Spec("a/m"), Spec("b/m"), Spec("b/big", 1_000_000, "premium"))
ONE, TWO, OTHER, LARGER = "a#one/m", "a#two/m", "b#key/m", "b#key/big"

NEXT_STEP: Mapping[type[ProviderError], list[str]] = {
    TransientError: [ONE, ONE, OTHER],
    ConnectionFailedError: [ONE, ONE, OTHER],
    StreamBrokenError: [ONE, ONE, OTHER],
    ThrottledError: [ONE, TWO],
    ModelUnavailableError: [ONE, TWO],
    WindowSpentError: [ONE, TWO],
    MoneyGoneError: [ONE, TWO],
    CredentialError: [ONE, TWO],
    ContextTooLongError: [ONE, LARGER],
    CallerError: [ONE],
    RefusalError: [ONE],
}
"""Who is asked, in order, after a failure of each class."""

OFF = (WindowSpentError, MoneyGoneError, CredentialError)
RESTS = (*OFF, ThrottledError, ModelUnavailableError)
COUNTED = (TransientError, StreamBrokenError)


class Signal(NamedTuple):
    """An answer of a provider, the class of failure that it means, and the protocols that have it."""

    name: str
    answer: Answer
    means: type[ProviderError]
    protocols: tuple[str, ...] = PROTOCOLS


OPENAI = ("chat", "responses")
ANTHROPIC = ("messages",)


def status(number: int, name: str = "", **fields: Any) -> Answer:
    """An error answer in the shape of the protocol."""
    return Answer(status=number, error_type=name or "some_error", **fields)


def gemini(number: int, code: str, message: str = "something went wrong", *details: object) -> Answer:
    """An error of Gemini's OpenAI-compatible address."""
    error = {"code": number, "message": message, "status": code, "details": list(details)}
    return Answer(status=number, body=json.dumps([{"error": error}]).encode())


def in_stream(protocol: str, kind: str, message: str) -> bytes:
    """An error event inside a stream that was answered with 200."""
    error = {"type": kind, "code": kind, "message": message}
    match protocol:
        case "messages":
            return b"event: error\ndata: " + json.dumps({"type": "error", "error": error}).encode() + b"\n\n"
        case "responses":
            return b"event: error\ndata: " + json.dumps(error | {"type": "error"}).encode() + b"\n\n"
        case _:
            return b"data: " + json.dumps({"error": error}).encode() + b"\n\n"


def event(protocol: str, kind: str) -> Answer:
    """A stream that begins with an error."""
    return Answer(body=in_stream(protocol, kind, "Overloaded"), content_type="text/event-stream")


CONTEXT = "prompt is too long: 210000 tokens > 200000 maximum"
SIGNALS = [
    # transient
    Signal("408", status(408), TransientError),
    Signal("500", status(500, "server_error"), TransientError),
    Signal("502 of a proxy", Answer(status=502, body=b"<html><title>502</title></html>"), TransientError),
    Signal("503", status(503), TransientError),
    Signal("504 without a body", Answer(status=504, body=b""), TransientError),
    Signal("529 overloaded_error", status(529, "overloaded_error"), TransientError, ANTHROPIC),
    Signal(
        "503 server_is_overloaded", status(503, error_code="server_is_overloaded"), TransientError, OPENAI
    ),
    Signal("503 UNAVAILABLE", gemini(503, "UNAVAILABLE"), TransientError, ("chat",)),
    Signal("reset before the head", Answer(reset_head=True), ConnectionFailedError),
    Signal("no content in time", Answer(stall_head=True), TransientError),
    # throttled
    Signal("429 with retry-after", status(429, headers={"retry-after": "900"}), ThrottledError),
    Signal("429 rate_limit_error", status(429, "rate_limit_error"), ThrottledError, ANTHROPIC),
    Signal("429 rate_limit_exceeded", status(429, error_code="rate_limit_exceeded"), ThrottledError, OPENAI),
    Signal("503 slow_down", status(503, error_code="slow_down"), ThrottledError, OPENAI),
    Signal(
        "429 RESOURCE_EXHAUSTED of a minute",
        gemini(429, "RESOURCE_EXHAUSTED", "Quota per minute", {"retryDelay": "900s"}),
        ThrottledError,
        ("chat",),
    ),
    # the window of a subscription
    Signal(
        "unified status rejected",
        status(429, "rate_limit_error", headers={"anthropic-ratelimit-unified-status": "rejected"}),
        WindowSpentError,
        ANTHROPIC,
    ),
    Signal(
        "the 5-hour limit in words",
        status(429, error_message="You've hit your 5-hour limit"),
        WindowSpentError,
        ANTHROPIC,
    ),
    # money
    Signal("402 billing_error", status(402, "billing_error"), MoneyGoneError),
    Signal(
        "400 about the usage limits",
        status(400, error_message="You have reached your specified API usage limits."),
        MoneyGoneError,
        ANTHROPIC,
    ),
    Signal(
        "429 enforced_spend_limit_reached",
        status(429, "enforced_spend_limit_reached"),
        MoneyGoneError,
        ANTHROPIC,
    ),
    Signal(
        "400 about the credit balance",
        status(400, error_message="Your credit balance is too low to access the API."),
        MoneyGoneError,
        ANTHROPIC,
    ),
    Signal("429 insufficient_quota", status(429, error_code="insufficient_quota"), MoneyGoneError, OPENAI),
    Signal(
        "429 credit_balance_exhausted",
        status(429, error_code="credit_balance_exhausted"),
        MoneyGoneError,
        OPENAI,
    ),
    Signal(
        "429 of a project's spend limit",
        status(429, error_code="project_spend_limit_exceeded"),
        MoneyGoneError,
        OPENAI,
    ),
    Signal("402 of Gemini", gemini(402, "PAYMENT_REQUIRED"), MoneyGoneError, ("chat",)),
    # credential
    Signal("401", status(401, "authentication_error"), CredentialError),
    Signal("403", status(403, "permission_error"), CredentialError),
    # model
    Signal("404 naming the model", status(404, error_message="no such model: m"), ModelUnavailableError),
    Signal("404 model_not_found", status(404, error_code="model_not_found"), ModelUnavailableError, OPENAI),
    # the caller
    Signal("400", status(400, "invalid_request_error"), CallerError),
    Signal("404", status(404, "not_found_error"), CallerError),
    Signal("413", status(413, "request_too_large"), CallerError),
    Signal("422", Answer(status=422, body=b'{"detail": [{"msg":  "field required"}]}'), CallerError),
    # context
    Signal(
        "context_length_exceeded",
        status(400, error_code="context_length_exceeded"),
        ContextTooLongError,
        OPENAI,
    ),
    Signal("prompt is too long", status(400, error_message=CONTEXT), ContextTooLongError),
    # refusal
    Signal("400 content_filter", status(400, error_code="content_filter"), RefusalError, OPENAI),
    # in a stream, after a status of 200
    *(
        Signal(f"200, then {kind}", event(protocol, kind), StreamBrokenError, (protocol,))
        for protocol, kind in (
            ("messages", "overloaded_error"),
            ("chat", "server_error"),
            ("responses", "server_error"),
        )
    ),
    *(
        Signal(f"200, then {kind}", event(protocol, kind), means, (protocol,))
        for protocol, kind, means in (
            ("messages", "rate_limit_error", ThrottledError),
            ("responses", "rate_limit_exceeded", ThrottledError),
            ("chat", "insufficient_quota", MoneyGoneError),
            ("responses", "insufficient_quota", MoneyGoneError),
            ("responses", "context_length_exceeded", ContextTooLongError),
        )
    ),
    Signal("200, then a reset", Answer(cut_after=40, cut_by="reset"), StreamBrokenError),
    Signal("200, then an end", Answer(cut_after=40, cut_by="clean"), StreamBrokenError),
]
ROWS = [
    pytest.param(protocol, signal, id=f"{protocol}: {signal.name}")
    for signal in SIGNALS
    for protocol in signal.protocols
]
LIMITS = "\n[call]\nfirst_content_seconds = 0.15\n"


def answered_by_key_one(home: Installation, answer: Answer) -> None:
    """Let provider ``a`` answer its credential ``one`` so, and any other one well."""

    def by_key(seen: Received) -> Answer:
        return answer if home.credential("a", seen) == "one" else Answer()

    home["a"].default = by_key


async def ask(ai: Runtime, *, streams: bool) -> LLMResponse:
    """An answer, read as a stream or not, of which nothing came twice."""
    if not streams:
        return await ai.run("hello")
    async with ai.stream("hello") as events:
        text = "".join([each.parsed.text async for each in events if isinstance(each.parsed, TextDelta)])
    assert events.response is not None
    assert text == events.response.text
    return events.response


def body_of(answer: Answer, protocol: str) -> bytes:
    from support.upstream import error_body

    return error_body(protocol, answer) if answer.body is None else answer.body


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(("protocol", "signal"), ROWS)
@anew_after_a_stall
async def test_a_signal_leads_to_its_next_step(
    tmp_path: Path, protocol: str, signal: Signal, streams: bool
) -> None:
    async with installation(tmp_path, protocol, *MODELS, keys={"a": ("one", "two")}) as home:
        answered_by_key_one(home, signal.answer)
        async with home.runtime(LIMITS if signal.answer.stall_head else "") as ai:
            if signal.means in {CallerError, RefusalError}:
                with pytest.raises(signal.means) as caught:
                    await ask(ai, streams=streams)
                assert caught.value.status == signal.answer.status
                assert caught.value.body == body_of(signal.answer, protocol)
            else:
                response = await ask(ai, streams=streams)
                assert response.text == "Hello there, friend"
                assert [each.error_class for each in response.attempts][-1] == ""
            assert home.asked == NEXT_STEP[signal.means]
            check_whom_it_is_blamed_on(ai, signal.means)
        check_what_is_written(home, signal)


def check_whom_it_is_blamed_on(ai: Runtime, means: type[ProviderError]) -> None:
    """The credential, the candidate or the breaker that the failure is of, and nothing else."""
    one, two, other = (
        Candidate(p, m, c) for p, m, c in (("a", "m", "one"), ("a", "m", "two"), ("b", "m", "key"))
    )
    refusal = ai.domains.refusal(one)
    assert (refusal is not None and refusal.error_class) == (means in RESTS and means.error_class)
    assert ai.domains.refusal(two) is None
    assert ai.domains.refusal(other) is None
    failures = {each.name: each.consecutive_failures for each in ai.domains.snapshot()}
    assert failures["a/m"] == (2 if means in COUNTED else 0)
    assert failures["a"] == (2 if means is ConnectionFailedError else 0)


def check_what_is_written(home: Installation, signal: Signal) -> None:
    """Every attempt and its class, what was answered as an error at no cost, and what others must know."""
    records, steps = home.records(), NEXT_STEP[signal.means]
    failed = [each for each in records if not each.success]
    assert len(records) == len(steps)
    assert {each.error_class for each in failed} == {signal.means.error_class}
    assert len(failed) == len(steps) - (signal.means not in {CallerError, RefusalError})
    for each in failed:
        if signal.answer.status != 200:
            assert (each.cost_nanos, str(each.cost_status)) == (0, "exact")
        elif signal.answer.reset_head or signal.answer.stall_head:
            assert (each.cost_nanos, str(each.cost_status)) == (None, "unknown")
    kinds = {(each.kind, each.key) for each in home.facts()}
    expected = {
        ThrottledError: {(FactKind.COOLDOWN, "a/m#one")},
        ModelUnavailableError: {(FactKind.MODEL_OFF, "a/m#one")},
    } | {each: {(FactKind.CREDENTIAL_OFF, "a#one")} for each in OFF}
    assert kinds == expected.get(signal.means, set())


@pytest.mark.parametrize(("protocol", "signal"), [row for row in ROWS if row.values[1].means in RESTS])
async def test_what_rests_is_not_asked_by_the_next_call_nor_by_the_next_process(
    tmp_path: Path, protocol: str, signal: Signal
) -> None:
    async with installation(tmp_path, protocol, *MODELS, keys={"a": ("one", "two")}) as home:
        answered_by_key_one(home, signal.answer)
        for _ in range(2):
            async with home.runtime() as ai:
                await ai.run("hello")
                await ai.run("hello")
        assert home.asked == [ONE, TWO, TWO, TWO, TWO]


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_refused_connection_is_repeated_then_left_with_all_its_credentials(
    tmp_path: Path, protocol: str
) -> None:
    async with installation(tmp_path, protocol, *MODELS, keys={"a": ("one", "two")}) as home:
        await home["a"].down()
        async with home.runtime() as ai:
            response = await ai.run("hello")
            check_whom_it_is_blamed_on(ai, ConnectionFailedError)
        made = [(each.provider, each.credential, each.error_class) for each in response.attempts]
        assert made == [("a", "one", "connection"), ("a", "one", "connection"), ("b", "key", "")]
        assert [(each.cost_nanos, each.usage) for each in home.records()[:2]] == [(0, None)] * 2


STOPS = [("messages", "refusal"), ("chat", "content_filter"), ("responses", "content_filter")]


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(("protocol", "reason"), STOPS)
async def test_a_refusal_with_status_200_is_the_answer_and_no_success(
    tmp_path: Path, protocol: str, reason: str, streams: bool
) -> None:
    async with installation(tmp_path, protocol, *MODELS) as home:
        home["a"].default = Answer(stop_reason=reason)
        async with home.runtime() as ai:
            response = await ask(ai, streams=streams)
        assert response.stop_reason == "refusal"
        assert home.asked == ["a#key/m"]
        (record,) = home.records()
        assert (record.success, record.error_class, str(record.cost_status)) == (False, "refusal", "exact")


async def test_an_answer_of_status_200_that_ran_into_its_window_goes_to_a_larger_one(tmp_path: Path) -> None:
    async with installation(tmp_path, "messages", *MODELS) as home:
        home["a"].default = Answer(stop_reason="model_context_window_exceeded")
        async with home.runtime() as ai:
            response = await ai.run("hello")
        assert (response.stop_reason, home.asked) == ("stop", ["a#key/m", LARGER])
        full, answer = home.records()
        assert (full.error_class, full.stop_reason, answer.error_class) == ("context", "context_window", "")
        assert response.cost_nanos == full.cost_nanos + answer.cost_nanos


def test_every_class_that_an_answer_can_have_has_its_next_step_here() -> None:
    assert {each.means for each in SIGNALS} == set(NEXT_STEP)
    classes = {each.error_class for each in NEXT_STEP}
    assert classes == set(ErrorClass) - {ErrorClass.CANCELLED, ErrorClass.INTERNAL}
