"""Errors in the shape of each door's clients."""

import json
from typing import Any

import pytest

from attune.errors import (
    AllProvidersFailedError,
    AttuneError,
    BudgetExhaustedError,
    CallerError,
    CircuitOpenError,
    ConfigError,
    ContextTooLongError,
    CredentialError,
    InvalidRequestError,
    ModelUnavailableError,
    MoneyGoneError,
    NoCandidateError,
    RefusalError,
    StoreError,
    StreamBrokenError,
    ThrottledError,
    TransientError,
    UnknownNameError,
    WindowSpentError,
)
from attune.wire.chat_door import ChatDoor
from attune.wire.doors import Door
from attune.wire.messages_door import MessagesDoor
from attune.wire.responses_door import ResponsesDoor

NOW = 1_800_000_000.0
DOORS: list[Door] = [ChatDoor(), MessagesDoor(), ResponsesDoor()]
each_door = pytest.mark.parametrize("door", DOORS, ids=lambda door: door.protocol)


@each_door
@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidRequestError("messages is missing"), 400),
        (UnknownNameError("model", "gpt-x", ["gpt-6"]), 404),
        (UnknownNameError("tier", "x", ["cheap"]), 400),
        (NoCandidateError("no candidate fits", nearest="a/b"), 400),
        (NoCandidateError("no provider is enrolled"), 503),
        (CircuitOpenError("a/b", retry_after=3.0, retry_at=NOW + 3), 503),
        (BudgetExhaustedError("deadline", "late"), 504),
        (BudgetExhaustedError("attempts", "many"), 503),
        (BudgetExhaustedError("usd_per_day", "dear"), 402),
        (AllProvidersFailedError("all failed"), 503),
        (StoreError("locked"), 503),
        (ConfigError("wrong"), 500),
        (AttuneError("odd"), 500),
        (CallerError("bad", status=422), 422),
        (CallerError("bad"), 400),
        (ContextTooLongError("long", status=400), 400),
        (RefusalError("no", status=400), 400),
        (ModelUnavailableError("none", status=404), 404),
        (ThrottledError("slow", status=429), 429),
        (WindowSpentError("spent", status=429), 429),
        (CredentialError("key", status=401), 502),
        (MoneyGoneError("money", status=402), 502),
        (TransientError("overloaded", status=529), 502),
    ],
)
def test_every_error_has_its_status_and_says_its_message(door: Door, error: AttuneError, status: int) -> None:
    answer = door.error(error, now=NOW, call_id="c1")
    assert answer.status == status
    body = json.loads(answer.body)
    assert body["error"]["message"] == str(error)
    assert isinstance(body["error"]["type"], str)


@each_door
def test_a_status_from_outside_replaces_the_usual_one(door: Door) -> None:
    assert door.error(InvalidRequestError("too large"), now=NOW, status=413).status == 413


def test_openai_s_shape() -> None:
    error = json.loads(ChatDoor().error(UnknownNameError("model", "x", ["y"]), now=NOW).body)["error"]
    assert error["type"] == "invalid_request_error"
    assert error["code"] == "model_not_found"
    assert error["param"] is None


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (402, "billing_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (413, "request_too_large"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (503, "overloaded_error"),
        (504, "timeout_error"),
    ],
)
def test_anthropic_s_shape(status: int, kind: str) -> None:
    body = json.loads(MessagesDoor().error(AttuneError("x"), now=NOW, status=status, call_id="c1").body)
    assert body == {"type": "error", "error": {"type": kind, "message": "x"}, "request_id": "c1"}


@pytest.mark.parametrize(
    ("error", "headers"),
    [
        (AllProvidersFailedError("x", retry_at=NOW + 7.2), {"retry-after": "8"}),
        (AllProvidersFailedError("x", retry_at=NOW - 5), {"retry-after": "1"}),
        (AllProvidersFailedError("x"), {"x-should-retry": "false"}),
        (CircuitOpenError("a", retry_after=2.0, retry_at=NOW + 2), {"retry-after": "2"}),
        (ThrottledError("x", retry_after=30.0), {"retry-after": "30"}),
        (InvalidRequestError("x"), {"x-should-retry": "false"}),
    ],
)
def test_a_client_is_told_when_to_try_again_or_not_to(error: AttuneError, headers: dict[str, str]) -> None:
    assert ChatDoor().error(error, now=NOW).headers == headers


class TestWhoseWords:
    BODY = b'{"type":"error","error":{"type":"invalid_request_error","message":"prompt is too long"}}'

    def told(self, error: AttuneError, **options: Any) -> tuple[int, bytes]:
        answer = MessagesDoor().error(
            error, now=NOW, speaks={"a": ("messages",), "b": ("responses", "chat")}, **options
        )
        return answer.status, answer.body

    @pytest.mark.parametrize("cls", [CallerError, ContextTooLongError, RefusalError, ModelUnavailableError])
    def test_where_the_caller_is_at_fault_the_provider_s_own(self, cls: type[CallerError]) -> None:
        assert self.told(cls("x", status=413, body=self.BODY, provider="a")) == (413, self.BODY)

    def test_also_when_every_candidate_said_the_same(self) -> None:
        errors = [ContextTooLongError("x", status=400, body=self.BODY, provider="a")] * 2
        assert self.told(AllProvidersFailedError("all", attempts=errors)) == (400, self.BODY)

    def test_not_when_they_said_different_things(self) -> None:
        errors = [TransientError("y"), ContextTooLongError("x", status=400, body=self.BODY, provider="a")]
        status, body = self.told(AllProvidersFailedError("all", attempts=errors))
        assert status == 503
        assert json.loads(body)["error"]["message"] == "all"

    @pytest.mark.parametrize(
        "error",
        [
            CallerError("mine", status=400, body=BODY, provider="b"),
            CallerError("mine", status=400, body=BODY, provider="unknown"),
            CallerError("mine", status=400, body=b"<html>", provider="a"),
            CallerError("mine", status=200, body=BODY, provider="a"),
            CallerError("mine", body=BODY, provider="a"),
            CredentialError("mine", status=401, body=BODY, provider="a"),
        ],
    )
    def test_everywhere_else_the_door_s(self, error: AttuneError) -> None:
        assert json.loads(self.told(error)[1])["error"]["message"] == "mine"

    def test_of_many_that_were_throttled_the_client_hears_so(self) -> None:
        errors = [ThrottledError("x", status=429)] * 2
        assert self.told(AllProvidersFailedError("all", attempts=errors))[0] == 429


class TestInAStream:
    ERROR = StreamBrokenError("the connection broke")

    def test_chat_has_a_chunk(self) -> None:
        got = ChatDoor().error_event(self.ERROR, now=NOW)
        assert got.startswith(b"data: {")
        assert json.loads(got[6:])["error"]["message"] == "the connection broke"

    def test_messages_has_an_error_event(self) -> None:
        got = MessagesDoor().error_event(self.ERROR, now=NOW, call_id="c1")
        assert got.startswith(b'event: error\ndata: {"type":"error"')
        assert got.endswith(b'"request_id":"c1"}\n\n')

    def test_responses_has_an_error_event_with_its_fields_in_it(self) -> None:
        got = ResponsesDoor().error_event(self.ERROR, now=NOW)
        data = json.loads(got.split(b"data: ")[1])
        assert (data["type"], data["message"]) == ("error", "the connection broke")
        assert data["error"]["type"] == "server_error"
