"""The official clients, whatever the provider behind the gateway speaks."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from support.gateway import gateway
from support.upstream import Answer

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("openai")
pytest.importorskip("anthropic")

HI = [{"role": "user", "content": "hi"}]
MODELS = ("alpha", "beta", "gamma")
CALL = ("call_0123456789ab", "weather", '{"city": "Bern"}')
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


async def test_chat_completions_are_answered_by_every_protocol(tmp_path: Path) -> None:
    async with gateway(tmp_path) as gate, gate.openai() as client:
        for model in MODELS:
            raw = await client.chat.completions.with_raw_response.create(model=model, messages=HI)
            answer = raw.parse()
            assert answer.choices[0].message.content == "Hello there, friend"
            assert answer.choices[0].finish_reason == "stop"
            assert answer.usage.total_tokens == 19
            assert raw.headers["x-attune-model"].endswith(f"/{model}")
            assert len(raw.headers["x-attune-call-id"]) > 20
            assert raw.headers["x-attune-decision"].startswith(raw.headers["x-attune-model"])
            assert raw.headers["x-attune-cost-usd"] == "0.000047000"


async def test_chat_completions_stream_from_every_protocol_without_usage_unless_asked_for(
    tmp_path: Path,
) -> None:
    async with gateway(tmp_path) as gate, gate.openai() as client:
        for model in MODELS:
            chunks = [
                each
                async for each in await client.chat.completions.create(model=model, messages=HI, stream=True)
            ]
            text = "".join(each.choices[0].delta.content or "" for each in chunks if each.choices)
            assert text == "Hello there, friend"
            assert all(each.usage is None for each in chunks)
            with_usage = [
                each
                async for each in await client.chat.completions.create(
                    model=model, messages=HI, stream=True, stream_options={"include_usage": True}
                )
            ]
            assert with_usage[-1].usage.total_tokens == 19


async def test_messages_are_answered_by_every_protocol(tmp_path: Path) -> None:
    async with gateway(tmp_path) as gate, gate.anthropic() as client:
        for model in MODELS:
            answer = await client.messages.create(model=model, max_tokens=50, messages=HI)
            assert [block.text for block in answer.content] == ["Hello there, friend"]
            assert answer.stop_reason == "end_turn"
            assert (answer.usage.input_tokens, answer.usage.output_tokens) == (12, 7)


async def test_messages_stream_from_every_protocol(tmp_path: Path) -> None:
    async with gateway(tmp_path) as gate, gate.anthropic() as client:
        for model in MODELS:
            async with client.messages.stream(model=model, max_tokens=50, messages=HI) as stream:
                assert "".join([text async for text in stream.text_stream]) == "Hello there, friend"
                assert (await stream.get_final_message()).usage.output_tokens == 7


async def test_responses_are_answered_and_stream_from_every_protocol(tmp_path: Path) -> None:
    async with gateway(tmp_path) as gate, gate.openai() as client:
        for model in MODELS:
            answer = await client.responses.create(model=model, input="hi")
            assert answer.output_text == "Hello there, friend"
            events = [
                each async for each in await client.responses.create(model=model, input="hi", stream=True)
            ]
            assert events[-1].type == "response.completed"
            assert events[-1].response.output_text == "Hello there, friend"


async def test_a_chat_client_calls_tools_of_every_provider(tmp_path: Path) -> None:
    tools = [{"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}}]
    async with gateway(tmp_path) as gate, gate.openai() as client:
        for upstream, model in zip(gate.upstreams, MODELS, strict=True):
            upstream.then(Answer(text="", tool_calls=(CALL,)), Answer(text="Sunny"))
            first = await client.chat.completions.create(model=model, messages=HI, tools=tools)
            message = first.choices[0].message
            assert first.choices[0].finish_reason == "tool_calls"
            assert json.loads(message.tool_calls[0].function.arguments) == {"city": "Bern"}
            result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "18 C"}
            history = [*HI, message.model_dump(exclude_none=True), result]
            second = await client.chat.completions.create(model=model, messages=history, tools=tools)
            assert second.choices[0].message.content == "Sunny"
            assert b"18 C" in upstream.received[-1].raw


async def test_a_messages_client_calls_tools_of_every_provider_in_a_stream(tmp_path: Path) -> None:
    tools = [{"name": "weather", "input_schema": PARAMETERS}]
    async with gateway(tmp_path) as gate, gate.anthropic() as client:
        for upstream, model in zip(gate.upstreams, MODELS, strict=True):
            upstream.then(Answer(text="", tool_calls=(CALL,)), Answer(text="Sunny"))
            async with client.messages.stream(model=model, max_tokens=50, messages=HI, tools=tools) as stream:
                message = await stream.get_final_message()
            assert message.stop_reason == "tool_use"
            assert message.content[0].input == {"city": "Bern"}
            result = {"type": "tool_result", "tool_use_id": message.content[0].id, "content": "18 C"}
            content = [block.model_dump(exclude_none=True) for block in message.content]
            history = [*HI, {"role": "assistant", "content": content}, {"role": "user", "content": [result]}]
            answer = await client.messages.create(model=model, max_tokens=50, messages=history, tools=tools)
            assert answer.content[0].text == "Sunny"
            assert b"18 C" in upstream.received[-1].raw


async def test_images_reach_every_protocol_from_either_client(tmp_path: Path) -> None:
    chat_image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}
    source = {"type": "base64", "media_type": "image/png", "data": PIXEL}
    text = {"type": "text", "text": "what is it?"}
    async with gateway(tmp_path) as gate, gate.openai() as openai, gate.anthropic() as anthropic:
        for model in MODELS:
            messages = [{"role": "user", "content": [text, chat_image]}]
            await openai.chat.completions.create(model=model, messages=messages)
            messages = [{"role": "user", "content": [text, {"type": "image", "source": source}]}]
            await anthropic.messages.create(model=model, max_tokens=50, messages=messages)
        for upstream in gate.upstreams:
            assert [PIXEL.encode() in each.raw for each in upstream.received] == [True, True]


async def test_a_json_schema_reaches_every_protocol(tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": False}
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
    async with gateway(tmp_path) as gate, gate.openai() as client:
        for upstream, model in zip(gate.upstreams, MODELS, strict=True):
            upstream.then(Answer(text='{"a": 1}'))
            answer = await client.chat.completions.create(model=model, messages=HI, response_format=wanted)
            assert json.loads(answer.choices[0].message.content) == {"a": 1}
            assert b'"additionalProperties"' in upstream.received[-1].raw


async def test_thinking_of_a_messages_provider_reaches_its_client_with_its_signature(tmp_path: Path) -> None:
    async with gateway(tmp_path) as gate, gate.anthropic() as client:
        gate.first.then(Answer(thinking="Hm, a greeting."))
        thinking = {"type": "enabled", "budget_tokens": 1024}
        answer = await client.messages.create(model="alpha", max_tokens=2000, messages=HI, thinking=thinking)
        assert answer.content[0].thinking == "Hm, a greeting."
        assert answer.content[0].signature == "sig-1"


async def test_tokens_are_counted_for_messages_without_asking_a_provider(tmp_path: Path) -> None:
    async with gateway(tmp_path) as gate, gate.anthropic() as client:
        short = await client.messages.count_tokens(model="alpha", messages=HI)
        long = await client.messages.count_tokens(
            model="alpha", messages=[{"role": "user", "content": "word " * 500}]
        )
        assert 1 <= short.input_tokens < 20
        assert 500 <= long.input_tokens < 520
        assert gate.asked == []


async def test_models_are_listed_in_the_shape_of_the_client(tmp_path: Path) -> None:
    extra = '[gateway.aliases]\n"claude-sonnet-5-5" = "attune/cheap"\n'
    async with (
        gateway(tmp_path, extra=extra) as gate,
        gate.openai() as openai,
        gate.anthropic() as anthropic,
    ):
        names = [each.id async for each in await openai.models.list()]
        assert names == [each.id async for each in await anthropic.models.list(limit=1000)]
        assert names[:5] == ["auto", "attune/cheap", "attune/capable", "attune/premium", "claude-sonnet-5-5"]
        assert set(names[5:]) == {"first/alpha", "second/beta", "third/gamma"}
        assert (await openai.models.retrieve("second/beta")).id == "second/beta"
        assert (await anthropic.models.retrieve("auto")).type == "model"


async def test_claude_codes_form_of_a_request_is_understood(tmp_path: Path) -> None:
    headers = {"anthropic-beta": "a-beta,b-beta", "x-claude-code-session-id": "session-1"}
    async with gateway(tmp_path) as gate, gate.anthropic() as client:
        await client.beta.messages.create(
            model="alpha", max_tokens=50, messages=HI, betas=["c-beta"], extra_headers=headers
        )
        seen = gate.first.received[0]
        assert seen.headers["anthropic-beta"] == "a-beta,b-beta"
        assert "anthropic-version" in seen.headers
        assert "x-claude-code-session-id" not in seen.headers


async def test_a_limit_above_what_a_model_can_give_is_lowered_to_it(tmp_path: Path) -> None:
    async with gateway(tmp_path) as gate, gate.anthropic() as client:
        for model in (*MODELS, "auto", "attune/cheap", "attune/summarize"):
            async with client.messages.stream(model=model, max_tokens=128_000, messages=HI) as stream:
                assert (await stream.get_final_message()).stop_reason == "end_turn"
        limits = {
            each.body.get("max_tokens") or each.body["max_output_tokens"]
            for upstream in gate.upstreams
            for each in upstream.received
        }
        assert limits == {4000}
