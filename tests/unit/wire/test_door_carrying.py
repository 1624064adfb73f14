"""What goes across protocols: every known field is carried, dropped by name or refused by name."""

import json
from typing import Any

import pytest

from attune.errors import InvalidRequestError
from attune.models.registry import ModelInfo, ModelTier
from attune.models.request import Source
from attune.wire.carrying import FATES, carried, left_out
from attune.wire.chat_door import ChatDoor
from attune.wire.doors import Door
from attune.wire.messages_door import MessagesDoor
from attune.wire.responses_door import ResponsesDoor

MODEL = ModelInfo("m", "mine", ModelTier.CAPABLE, 100_000, 4096)
LEAST: dict[str, dict[str, Any]] = {
    "chat": {"model": "m", "messages": [{"role": "user", "content": "hi"}]},
    "messages": {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]},
    "responses": {"model": "m", "input": "hi"},
}
DOORS: dict[str, Door] = {"chat": ChatDoor(), "messages": MessagesDoor(), "responses": ResponsesDoor()}
KNOWN = {
    "chat": """audio frequency_penalty function_call functions logit_bias logprobs max_completion_tokens
        max_tokens messages metadata modalities model moderation n parallel_tool_calls prediction
        presence_penalty prompt_cache_key prompt_cache_options prompt_cache_retention reasoning_effort
        response_format safety_identifier seed service_tier stop store stream stream_options temperature
        tool_choice tools top_k top_logprobs top_p user verbosity web_search_options""",
    "messages": """betas billing_policy cache_control compaction container context_management diagnostics
        fallback_credit_token fallbacks inference_geo max_tokens mcp_servers messages metadata model
        output_config service_tier speed stop_sequences stream system temperature thinking thread tool_choice
        tools top_k top_p user_profile_id workspace_id""",
    "responses": """access_programs background background_options context_management conversation image
        include input instructions max_output_tokens max_tool_calls metadata model moderation
        parallel_tool_calls previous_response_id prompt prompt_cache_key prompt_cache_options
        prompt_cache_retention reasoning safety_identifier service_tier store stream stream_options
        temperature text tool_choice tools top_logprobs top_p truncation user""",
}


def source(protocol: str, **fields: Any) -> Source:
    read = DOORS[protocol].read(json.dumps(LEAST[protocol] | fields).encode()).request.source
    assert read is not None
    return read


def other(protocol: str) -> str:
    return "messages" if protocol == "chat" else "chat"


@pytest.mark.parametrize("protocol", FATES)
def test_every_known_field_is_in_exactly_one_set(protocol: str) -> None:
    sets = FATES[protocol]
    assert sorted(name for each in sets for name in each) == sorted(KNOWN[protocol].split())


@pytest.mark.parametrize("protocol", FATES)
def test_the_sets_know_every_field_of_the_official_client(protocol: str) -> None:
    known = {name for each in FATES[protocol] for name in each}
    if protocol == "messages":
        pytest.importorskip("anthropic")
        from anthropic.types import message_create_params as plain
        from anthropic.types.beta import message_create_params as beta

        fields = {
            *plain.MessageCreateParamsBase.__annotations__,
            *beta.MessageCreateParamsBase.__annotations__,
        }
    else:
        pytest.importorskip("openai")
        from openai.types.chat import completion_create_params as chat
        from openai.types.responses import response_create_params as responses

        base: Any = (
            chat.CompletionCreateParamsBase if protocol == "chat" else responses.ResponseCreateParamsBase
        )
        fields = set(base.__annotations__)
    assert fields <= known


@pytest.mark.parametrize("protocol", FATES)
def test_nothing_is_lost_on_the_way_to_the_same_protocol(protocol: str) -> None:
    strange = source(protocol, unheard_of=1, **{next(iter(FATES[protocol].refused)): {"a": "b"}})
    assert carried(strange, protocol).dropped == ()


@pytest.mark.parametrize("protocol", FATES)
def test_what_is_carried_needs_no_word(protocol: str) -> None:
    assert carried(source(protocol), other(protocol)).dropped == ()


@pytest.mark.parametrize(
    ("protocol", "name"), [(protocol, name) for protocol in FATES for name in sorted(FATES[protocol].refused)]
)
def test_what_changes_the_meaning_is_refused_by_name(protocol: str, name: str) -> None:
    with pytest.raises(InvalidRequestError, match=rf"cannot be asked for {name}; leave it out"):
        carried(source(protocol, **{name: {"some": "thing"}}), other(protocol))


@pytest.mark.parametrize(
    ("protocol", "name"), [(protocol, name) for protocol in FATES for name in sorted(FATES[protocol].dropped)]
)
def test_what_only_tunes_is_dropped_by_name(protocol: str, name: str) -> None:
    assert carried(source(protocol, **{name: {"some": "thing"}}), other(protocol)).dropped == (name,)


@pytest.mark.parametrize("protocol", FATES)
def test_a_field_that_is_not_known_is_dropped_by_name(protocol: str) -> None:
    assert carried(source(protocol, unheard_of=1), other(protocol)).dropped == ("unheard_of",)


@pytest.mark.parametrize(
    ("protocol", "fields"),
    [
        ("chat", {"n": 1, "logprobs": False, "modalities": ["text"], "logit_bias": {}, "store": False}),
        ("chat", {"n": None, "audio": None, "user": None, "parallel_tool_calls": True}),
        ("messages", {"mcp_servers": [], "container": None, "service_tier": "auto"}),
        (
            "responses",
            {"include": ["reasoning.encrypted_content"], "previous_response_id": None, "store": False},
        ),
    ],
)
def test_values_that_ask_for_what_everyone_does_are_fine(protocol: str, fields: dict[str, Any]) -> None:
    assert carried(source(protocol, **fields), other(protocol)).dropped == ()


def test_what_no_message_of_ours_says_is_refused() -> None:
    document = [{"role": "user", "content": [{"type": "document", "source": {"data": "x"}}]}]
    with pytest.raises(InvalidRequestError) as caught:
        carried(source("messages", messages=document, container="c"), "chat")
    assert str(caught.value) == (
        "a model that speaks Chat Completions cannot be asked for container, content of type 'document'; "
        "leave it out, or choose a model that speaks Messages"
    )


def test_hints_inside_the_conversation_are_dropped_by_name() -> None:
    system = [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}]
    assert carried(source("messages", system=system, top_k=3), "chat").dropped == ("top_k", "cache_control")


def test_stop_sequences_are_lost_at_responses() -> None:
    assert carried(source("chat", stop="x"), "responses").dropped == ("stop",)
    assert carried(source("messages", stop_sequences=["x"]), "responses").dropped == ("stop_sequences",)


def test_a_value_that_is_no_json_any_more_is_not_harmless() -> None:
    torn = Source("chat", {"n": b"{"})
    with pytest.raises(InvalidRequestError, match="cannot be asked for n;"):
        carried(torn, "messages")


def test_the_names_of_strangers_are_kept_short() -> None:
    fields = {f"{'x' * 100}{number}": 1 for number in range(50)}
    body = json.dumps(LEAST["chat"] | fields).encode()
    dropped = left_out(DOORS["chat"].read(body).request, MODEL, "messages")
    assert len(dropped) == 21
    assert all(len(name) == 60 for name in dropped[:20])
    assert dropped[20] == "30 more"


def test_the_names_of_strangers_break_no_header() -> None:
    dropped = carried(source("chat", **{"ä\r\nx-evil: 1": 1}), "messages").dropped
    assert dropped == ("\\xe4 x-evil: 1",)


def test_a_large_value_is_never_harmless() -> None:
    assert carried(source("chat", metadata={"k": "v" * 2000}), "messages").dropped == ("metadata",)
