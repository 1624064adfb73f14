"""What a caller asks for: the conversation, its needs and size, the limits."""

import math

import pytest

from attune.errors import InvalidRequestError, UnknownNameError
from attune.models.request import (
    ExecutionContext,
    ImagePart,
    LLMRequest,
    Message,
    OutputFormat,
    TextPart,
    ThinkingPart,
    Tool,
    ToolCallPart,
    ToolResultPart,
)
from attune.models.route_request import RouteRequest

ASK = LLMRequest.from_prompt("hi")


def with_parts(*parts, **options) -> LLMRequest:
    return LLMRequest((Message("user", parts),), **options)


# -- the conversation ----------------------------------------------------------------------------------


def test_a_prompt_is_one_user_message():
    request = LLMRequest.from_prompt("hi", system="be brief", temperature=0.5, stream=True)
    assert request.messages == (Message("user", (TextPart("hi"),)),)
    assert (request.system, request.temperature, request.stream) == ("be brief", 0.5, True)
    assert Message.assistant("yes") == Message("assistant", (TextPart("yes"),))


@pytest.mark.parametrize("messages", [(), (Message.user(""),), (Message.user(" \n"), Message("user", ()))])
def test_an_empty_prompt_is_refused(messages):
    with pytest.raises(InvalidRequestError, match="the prompt is empty"):
        LLMRequest(messages)


def test_a_message_without_text_may_still_say_something():
    assert with_parts(ImagePart(url="http://127.0.0.1/x.png")).needs == {"vision"}
    assert with_parts(ToolResultPart("t1", "")).messages


@pytest.mark.parametrize("limit", [0, -1])
def test_an_answer_has_at_least_one_token(limit):
    with pytest.raises(InvalidRequestError, match="max_output_tokens must be at least 1"):
        LLMRequest.from_prompt("hi", max_output_tokens=limit)
    assert LLMRequest.from_prompt("hi", max_output_tokens=1).max_output_tokens == 1


def test_a_request_needs_what_its_parts_need():
    assert ASK.needs == frozenset()
    assert LLMRequest.from_prompt("hi", tools=(Tool("t"),)).needs == {"tools"}
    assert LLMRequest.from_prompt("hi", thinking_tokens=0).needs == {"thinking"}
    assert LLMRequest.from_prompt("hi", output_format=OutputFormat({"type": "object"})).needs == {
        "json_schema"
    }
    everything = with_parts(
        TextPart("look"),
        ImagePart(data="AA==", media_type="image/png"),
        tools=(Tool("t"),),
        thinking_tokens=100,
        output_format=OutputFormat({}),
    )
    assert everything.needs == {"tools", "vision", "thinking", "json_schema"}


def test_any_json_needs_no_schema():
    assert LLMRequest.from_prompt("hi", output_format=OutputFormat()).needs == frozenset()


def test_the_size_is_a_quarter_of_the_characters_rounded_up():
    assert LLMRequest.from_prompt("a" * 8).estimated_input_tokens() == 2
    assert LLMRequest.from_prompt("a" * 9).estimated_input_tokens() == 3
    assert LLMRequest.from_prompt("a" * 4, system="b" * 4).estimated_input_tokens() == 2


def test_every_kind_of_part_has_a_size():
    parts = (
        ThinkingPart("a" * 40),
        ToolCallPart("t1", "b" * 4, "c" * 16),
        ToolResultPart("t1", "d" * 20),
        TextPart("e" * 20),
    )
    assert with_parts(*parts).estimated_input_tokens() == 25
    assert with_parts(ImagePart(url="http://127.0.0.1/x.png")).estimated_input_tokens() == 1600
    tool = Tool("t", "f" * 40, {"type": "object"})
    assert LLMRequest.from_prompt("g" * 4, tools=(tool,)).estimated_input_tokens() == -(
        -(44 + len(str(tool.parameters))) // 4
    )


def test_a_request_can_be_made_to_stream():
    assert ASK.streaming() == LLMRequest.from_prompt("hi", stream=True)


# -- limits --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["max_latency_ms", "deadline_s"])
@pytest.mark.parametrize("value", [0, -1])
def test_a_time_limit_is_above_nothing(name, value):
    with pytest.raises(InvalidRequestError, match=f"{name} must be above 0, not {value}"):
        ExecutionContext(**{name: value})


@pytest.mark.parametrize("name", ["max_cost", "budget_usd"])
def test_a_cost_limit_is_not_negative(name):
    with pytest.raises(InvalidRequestError, match=f"{name} must not be negative, not -0.01"):
        ExecutionContext(**{name: -0.01})


@pytest.mark.parametrize("name", ["max_cost", "budget_usd", "max_latency_ms", "deadline_s"])
@pytest.mark.parametrize("value", [math.nan, math.inf, "0.1", True])
def test_a_limit_is_a_finite_number(name, value):
    with pytest.raises(InvalidRequestError, match=f"{name} must be a number"):
        ExecutionContext(**{name: value})


@pytest.mark.parametrize("field", ["workflow", "stage", "task_type", "session_id"])
@pytest.mark.parametrize("name", ["x" * 201, "\ud800", 5])
def test_a_name_that_could_not_be_kept_is_refused_before_anything_is_sent(field, name):
    with pytest.raises(InvalidRequestError, match=f"{field} must be a text of 1 to 200 characters"):
        ExecutionContext(**{field: name})


def test_a_workflow_has_a_name():
    with pytest.raises(InvalidRequestError, match="workflow must be a text"):
        ExecutionContext(workflow="")


def test_a_prompt_that_is_not_ascii_is_measured_by_its_bytes():
    assert LLMRequest.from_prompt("\u6f22" * 1000).estimated_input_tokens() == 750


def test_a_cost_limit_of_nothing_allows_what_is_free():
    assert ExecutionContext(max_cost=0, budget_usd=0).max_cost == 0
    assert RouteRequest(max_cost=0).max_cost == 0


@pytest.mark.parametrize("rate", [-0.1, 1.01, math.nan])
def test_a_success_rate_lies_between_0_and_1(rate):
    for kind in (ExecutionContext, RouteRequest):
        with pytest.raises(InvalidRequestError, match="min_success_rate must be between 0 and 1"):
            kind(min_success_rate=rate)


def test_a_route_request_refuses_the_same_limits():
    with pytest.raises(InvalidRequestError, match="max_cost must not be negative, not -1"):
        RouteRequest(max_cost=-1)
    with pytest.raises(InvalidRequestError, match="max_latency_ms must be above 0, not 0"):
        RouteRequest(max_latency_ms=0)


@pytest.mark.parametrize("kind", [ExecutionContext, RouteRequest])
def test_providers_are_not_named_by_a_text_so_that_no_part_of_a_name_is_taken_for_one(kind):
    with pytest.raises(InvalidRequestError, match="allow_providers must be a frozenset of names, not"):
        kind(allow_providers="openai")


@pytest.mark.parametrize("names", [{"openai"}, ["openai"], ("openai",)])
def test_any_collection_of_providers_will_do(names):
    assert ExecutionContext(allow_providers=names).allow_providers == frozenset({"openai"})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "either a url or data"),
        (
            {"url": "https://example.org/a.png", "data": "AAAA", "media_type": "image/png"},
            "either a url or data",
        ),
        ({"data": "AAAA"}, "needs its media_type"),
        ({"data": "AAAA", "media_type": "text/html"}, "needs its media_type"),
        ({"data": "@@notbase64", "media_type": "image/png"}, "base64"),
        ({"data": b"\x89PNG", "media_type": "image/png"}, "of_bytes encodes bytes"),
    ],
)
def test_an_image_that_makes_no_sense_is_refused(fields, message):
    with pytest.raises(InvalidRequestError, match=message):
        ImagePart(**fields)


def test_an_image_is_made_of_bytes():
    assert ImagePart.of_bytes(b"\x89PNG", "image/png").data == "iVBORw=="


def test_a_context_is_made_of_named_fields_and_an_unknown_one_is_refused():
    assert ExecutionContext.of({"workflow": "w", "max_cost": 1}) == ExecutionContext("w", max_cost=1)
    with pytest.raises(
        UnknownNameError, match="unknown field of the call 'max_cots'; did you mean 'max_cost'"
    ):
        ExecutionContext.of({"max_cots": 1})


# -- what a decision looks at --------------------------------------------------------------------------


def test_a_route_request_is_the_decisions_view_of_a_call():
    context = ExecutionContext(
        workflow="review",
        stage="check",
        task_type="fix_bug",
        tier="cheap",
        model="m",
        max_cost=0.5,
        max_latency_ms=100,
        min_success_rate=0.9,
        allow_providers=frozenset({"a"}),
        local_only=True,
        budget_usd=1,
        deadline_s=5,
        session_id="s",
    )
    request = LLMRequest.from_prompt("a" * 40, tools=(), thinking_tokens=5, max_output_tokens=7)
    assert RouteRequest.of(request, context) == RouteRequest(
        workflow="review",
        stage="check",
        task_type="fix_bug",
        tier="cheap",
        model="m",
        max_cost=0.5,
        max_latency_ms=100,
        min_success_rate=0.9,
        needs=frozenset({"thinking"}),
        input_tokens=10,
        max_output_tokens=7,
        allow_providers=frozenset({"a"}),
        local_only=True,
        session_id="s",
    )


def test_without_a_context_the_names_are_default_and_the_success_rate_80_percent():
    route = RouteRequest.of(ASK, ExecutionContext())
    assert (route.workflow, route.stage, route.task_type) == ("default", "default", None)
    assert route.min_success_rate == 0.8
    assert RouteRequest().min_success_rate == 0.8


def test_a_success_rate_of_0_is_a_choice_not_a_missing_one():
    assert RouteRequest.of(ASK, ExecutionContext(min_success_rate=0.0)).min_success_rate == 0.0


def test_the_success_floor_can_be_taken_away_alone():
    route = RouteRequest(workflow="w", max_cost=1.0, min_success_rate=0.9)
    assert route.without_success_floor() == RouteRequest(workflow="w", max_cost=1.0, min_success_rate=0.0)


def test_the_size_of_the_prompt_can_be_forgotten():
    assert RouteRequest(input_tokens=5, max_output_tokens=7).of_unknown_size() == RouteRequest(
        max_output_tokens=7
    )


def test_no_session_and_no_account_may_be_given_as_none():
    context = ExecutionContext(session_id=None, account=None)
    assert (context.session_id, context.account) == ("", "")
    with pytest.raises(InvalidRequestError, match="account must be a text"):
        ExecutionContext(account=5)
