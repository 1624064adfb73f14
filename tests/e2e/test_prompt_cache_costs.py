"""Predicted costs of conversations against what the ledger records, with upstreams that cache prompts."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from attune.config import load
from attune.models.request import LLMRequest, Message
from attune.models.telemetry import NANOS_PER_USD
from attune.runtime import Runtime, build
from support.upstream import Answer, FakeUpstream, Received

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

CONFIGURATION = """
[providers.{name}]
kind = "{name}"
base_url = "{url}"
api_key = "env:KEY"

[routing]
allow_providers = ["{name}"]

[tiers]
capable = ["{name}/{model}"]
"""

MODELS = {"anthropic": "claude-sonnet-5-5", "openai": "gpt-6.1-sol"}
ANSWER = "An answer of some length. " * 16
MARKED = {"cache_control": {"type": "ephemeral"}}
"""Anthropic's mark for the whole prompt."""


class CachingUpstream:
    """Answers with a usage: texts are counted as attune estimates them, and what is cached is known by its
    beginning. Messages are cached where they are marked, Chat Completions always, in steps of 128 tokens.
    """

    def __init__(self) -> None:
        self.cached: list[str] = []

    def __call__(self, received: Received) -> Answer:
        text = _text_of(received.body)
        kept = max((len(each) for each in self.cached if text.startswith(each)), default=0) // 4
        size = -(-len(text) // 4)
        if received.protocol == "chat":
            self.cached.append(text)
            read = kept - kept % 128 if kept >= 1024 else 0
            details = {"prompt_tokens_details": {"cached_tokens": read}}
            return Answer(ANSWER, usage={"prompt_tokens": size, "completion_tokens": 104, **details})
        if "cache_control" not in received.body:
            return Answer(ANSWER, usage={"input_tokens": size, "output_tokens": 104})
        self.cached.append(text)
        cached = {"cache_read_input_tokens": kept, "cache_creation_input_tokens": size - kept}
        return Answer(ANSWER, usage={"input_tokens": 0, "output_tokens": 104, **cached})


def _text_of(value: Any) -> str:
    """The text of a request's messages, one after the other."""
    if isinstance(value, dict):
        return _text_of(value.get("messages") or value.get("content") or value.get("text") or "")
    return "".join(map(_text_of, value)) if isinstance(value, list) else str(value)


class World:
    """An upstream of one kind, a configuration that knows it alone, and conversations through it."""

    def __init__(self, home: Path, kind: str, upstream: FakeUpstream) -> None:
        url = upstream.messages_url if kind == "anthropic" else upstream.chat_url
        text = CONFIGURATION.format(name=kind, url=url, model=MODELS[kind])
        (home / "config.toml").write_text(text)
        self.kind = kind
        self.environ = {"ATTUNE_HOME": str(home), "KEY": "k"}
        self.messages: dict[str, tuple[Message, ...]] = {}

    def runtime(self) -> Runtime:
        """A runtime, as a new process would open it."""
        return build(load(environ=self.environ), environ=self.environ)

    async def turn(self, opened: Runtime, session: str, words: int) -> tuple[float, float, int, int]:
        """One turn: the predicted and the recorded USD, the predicted and the billed tokens of the cache."""
        said = Message.user(f"{session}: " + "so be it " * words)
        messages = (*self.messages.get(session, ()), said)
        request = LLMRequest(messages, extra=MARKED if self.kind == "anthropic" else {})
        response = await opened.run(request, session_id=session, policy="best")
        self.messages[session] = (*messages, Message.assistant(response.text))
        await opened.store.flush()
        decision = opened.store.decision(response.call_id)
        [attempt] = opened.store.attempts(response.call_id)
        assert decision is not None
        assert attempt.usage is not None
        assert attempt.cost_nanos is not None
        chosen = decision.ranked[0]
        assert chosen.predicted_cost_usd is not None
        cost = attempt.cost_nanos / NANOS_PER_USD
        return chosen.predicted_cost_usd, cost, chosen.cached_tokens, attempt.usage.cache_read_tokens


@asynccontextmanager
async def a_world(home: Path, kind: str) -> AsyncIterator[World]:
    async with FakeUpstream(default=CachingUpstream()) as upstream:
        yield World(home, kind, upstream)


@pytest.mark.parametrize("kind", ["anthropic", "openai"])
async def test_a_conversation_costs_what_was_predicted(tmp_path: Path, kind: str):
    async with a_world(tmp_path, kind) as world, world.runtime() as opened:
        turns = [await world.turn(opened, "s", 4000 if n == 0 else 150 * (1 + n % 3)) for n in range(9)]
    for predicted, cost, cached, billed in turns[2:]:
        assert predicted == pytest.approx(cost, rel=0.05)
        assert cached == pytest.approx(billed, rel=0.02)
        assert billed > 9_000
    without_cache = 9_000 * 2e-6
    assert all(cost < without_cache for _, cost, _, _ in turns[2:])


async def test_the_first_turn_of_a_further_conversation_is_predicted_with_what_it_writes(tmp_path: Path):
    async with a_world(tmp_path, "anthropic") as world, world.runtime() as opened:
        for _ in range(3):
            await world.turn(opened, "s", 2000)
        predicted, cost, cached, billed = await world.turn(opened, "another", 4000)
    assert predicted == pytest.approx(cost, rel=0.05)
    assert cost > 1.2 * 9_000 * 2e-6, "at the price of writing"
    assert (cached, billed) == (0, 0)


async def test_a_conversation_goes_on_as_predicted_after_a_restart(tmp_path: Path):
    async with a_world(tmp_path, "openai") as world:
        async with world.runtime() as opened:
            for _ in range(4):
                await world.turn(opened, "s", 2000)
        async with world.runtime() as opened:
            predicted, cost, cached, billed = await world.turn(opened, "s", 100)
    assert predicted == pytest.approx(cost, rel=0.05)
    assert cached == pytest.approx(billed, rel=0.02)
