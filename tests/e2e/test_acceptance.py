"""The whole library over real sockets: two providers, three credentials, one real ledger."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

import attune
from attune.config import load
from attune.errors import AllProvidersFailedError
from attune.models import FallbackPolicy, FallbackStrategy, LLMRequest
from attune.models.executor import EventKind, TextDelta
from attune.models.registry import ModelTier
from attune.runtime import Runtime, build
from attune.stores.sqlite import SqliteStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from support.upstream import Received
from support.stalls import anew_after_a_stall
from support.upstream import Answer, FakeUpstream

CONFIGURATION = """
[providers.first]
kind = "anthropic"
base_url = "{first}"
api_keys = {{ personal = "env:FIRST_A", team = "env:FIRST_B" }}

[providers.second]
kind = "openai"
base_url = "{second}"
api_key = "env:SECOND"

[[models]]
id = "alpha"
provider = "first"
tier = "capable"
context_window = 100000
max_output_tokens = 4000
abilities = ["tools", "json_schema", "vision"]
input_price = 1.0
output_price = 5.0
cache_read_price = 0.1

[[models]]
id = "beta"
provider = "second"
tier = "capable"
context_window = 100000
max_output_tokens = 4000
abilities = ["tools", "json_schema", "vision"]
input_price = 2.0
output_price = 10.0

[tiers]
capable = ["first/alpha", "second/beta"]

[breaker]
failure_threshold = 2
{extra}
"""

KEYS = {"FIRST_A": "canary-first-a", "FIRST_B": "canary-first-b", "SECOND": "canary-second"}


class World:
    """Two upstreams and the files of a user; ``runtime`` opens them as a new process would."""

    def __init__(self, home: Path, first: FakeUpstream, second: FakeUpstream) -> None:
        self.home, self.first, self.second = home, first, second
        self.steps: list[str] = []

    def runtime(self, extra: str = "") -> Runtime:
        text = CONFIGURATION.format(first=self.first.messages_url, second=self.second.chat_url, extra=extra)
        (self.home / "config.toml").write_text(text)
        environ = {"ATTUNE_HOME": str(self.home), **KEYS}
        return build(load(environ=environ), environ=environ, on_step=self.steps.append)

    def keys_seen(self) -> Counter[str]:
        """How many requests each credential's key arrived with."""
        first = (seen.headers["x-api-key"] for seen in self.first.received)
        second = (seen.headers["authorization"].removeprefix("Bearer ") for seen in self.second.received)
        return Counter([*first, *second])


@asynccontextmanager
async def a_world(home: Path) -> AsyncIterator[World]:
    async with FakeUpstream() as first, FakeUpstream() as second:
        yield World(home, first, second)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with a_world(tmp_path) as world:
        yield world


def ledger(world: World) -> SqliteStore:
    return SqliteStore.open_readonly(load(environ={"ATTUNE_HOME": str(world.home)}).paths.ledger_file)


async def test_what_the_upstreams_logged_equals_what_the_ledger_says(world: World) -> None:
    world.first.then(
        Answer(text="one"),
        Answer(status=429, headers={"retry-after": "600"}),  # personal is throttled: team answers
        Answer(text="two"),
        Answer(status=401),  # team is refused: the other provider answers
    )
    async with world.runtime() as ai:
        answers = [(await ai.run("hello", workflow="w", stage="s")).text for _ in range(3)]
    assert answers == ["one", "two", "Hello there, friend"]
    # personal: "one" and the 429; team: "two" and the 401; second: the last answer.
    assert world.keys_seen() == {"canary-first-a": 2, "canary-first-b": 2, "canary-second": 1}
    attempts = ledger(world).recent_attempts(100)
    by_credential = Counter((a.provider, a.credential) for a in attempts)
    assert by_credential == {("first", "personal"): 2, ("first", "team"): 2, ("second", "api_key"): 1}
    assert Counter(a.error_class for a in attempts) == {"": 3, "throttled": 1, "credential": 1}
    totals = ledger(world).totals()
    assert (totals.calls, totals.attempts, totals.failed_attempts) == (3, 5, 2)


async def test_the_ledger_charges_what_the_upstream_reported_with_cached_tokens_once(world: World) -> None:
    world.first.then(
        Answer(usage={"input_tokens": 100, "output_tokens": 20, "cache_read_input_tokens": 1000})
    )
    async with world.runtime() as ai:
        response = await ai.run("hello")
    # 100 at $1, 1,000 cached at $0.10 and 20 at $5 a million are 300,000 nano-dollars.
    assert response.cost_nanos == 100 * 1000 + 1000 * 100 + 20 * 5000
    assert ledger(world).totals().cost_nanos == response.cost_nanos
    assert response.usage is not None
    assert response.usage.input_tokens == 1100


async def test_a_stream_fails_over_before_its_first_content_and_nothing_is_delivered_twice(
    world: World,
) -> None:
    world.first.default = Answer(text="never seen", cut_after=120, cut_by="reset")
    world.second.then(Answer(text="from the second"))
    async with world.runtime("[call]\nretries = 0") as ai, ai.stream("hello") as events:
        received = [event async for event in events]
    text = "".join(e.parsed.text for e in received if isinstance(e.parsed, TextDelta))
    assert text == "from the second"
    assert [e.kind for e in received].count(EventKind.TERMINAL) == 1
    assert events.response is not None
    assert events.response.provider == "second"
    assert events.response.fallback_used
    failed, answered = sorted(ledger(world).attempts(events.response.call_id), key=lambda a: a.position)
    assert (failed.provider, failed.success, failed.error_class) == ("first", False, "mid_stream")
    assert (answered.provider, answered.success, answered.chosen_by_policy) == ("second", True, False)


async def test_cancelling_mid_stream_closes_the_upstream_at_once_and_is_recorded(world: World) -> None:
    world.first.default = Answer(text="some words that come slowly", between_s=0.2)
    async with world.runtime() as ai:

        async def consume() -> None:
            async with ai.stream("hello") as events:
                async for event in events:
                    if event.kind is EventKind.CONTENT:
                        begun.set()

        begun = asyncio.Event()
        task = asyncio.create_task(consume())
        await asyncio.wait_for(begun.wait(), 60)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(world.first.received[0].disconnected.wait(), 60)
        assert ai.domains.quiet
        await ai.store.flush()
        (attempt,) = ai.store.recent_attempts(10)
    assert (attempt.success, attempt.error_class, attempt.stop_reason) == (False, "cancelled", "truncated")
    assert attempt.cost_nanos is not None
    assert attempt.cost_status == "estimated"


async def test_a_restart_knows_the_open_circuits_and_the_telemetry_of_before(world: World) -> None:
    world.first.default = Answer(status=503)
    async with world.runtime() as ai:
        for _ in range(3):
            assert (await ai.run("hello", workflow="w", stage="s")).provider == "second"
        seen_by_first = len(world.first.received)
        assert ai.domains.refusal(ai.decide("x", model="second/beta").candidate) is None
    async with world.runtime() as again:
        decision = again.decide("hello", workflow="w", stage="s")
        assert decision.candidate.provider == "second"
        reasons = {(d.provider, d.credential): d.reason for d in decision.dropped}
        assert "circuit of first/alpha is open" in reasons["first", "personal"]
        assert (await again.run("hello", workflow="w", stage="s")).provider == "second"
        assert len(world.first.received) == seen_by_first  # it was not even tried
        stats = {m.model_id: m for m in again.router.get_routing_stats("w", "s").models}
        assert stats["beta"].calls == 4
        assert stats["alpha"].success_rate == 0.0


async def test_a_key_that_was_refused_is_tried_again_at_once_when_it_has_been_replaced(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def judge(seen):
        return Answer(text="welcome") if seen.headers["x-api-key"] == "mended" else Answer(status=401)

    world.first.default = judge
    async with world.runtime() as ai:
        assert (await ai.run("hello")).provider == "second"
    monkeypatch.setitem(KEYS, "FIRST_A", "mended")
    async with world.runtime() as ai:
        assert (await ai.run("hello", model="first/alpha")).credential == "personal"


async def test_another_running_process_learns_of_an_open_circuit(world: World) -> None:
    async with world.runtime() as one, world.runtime() as two:
        world.first.default = Answer(status=503)
        await one.run("hello")
        await one.store.flush()
        async with asyncio.timeout(60):
            while two.domains.quiet:
                await asyncio.sleep(0.05)
        assert two.decide("hello").candidate.provider == "second"


async def test_an_outcome_told_later_counts_as_a_failure_now_and_after_a_restart(world: World) -> None:
    async with world.runtime() as ai:
        response = await ai.run("hello", workflow="w", stage="s")
        ai.record_outcome(response.call_id, success=False, score=0.1)
        (model,) = ai.router.get_routing_stats("w", "s").models
        assert model.success_rate == 0.0
    async with world.runtime() as again:
        (model,) = again.router.get_routing_stats("w", "s").models
        assert (model.calls, model.success_rate) == (1, 0.0)


async def test_when_all_fail_every_attempt_is_in_the_error_and_in_the_ledger(world: World) -> None:
    await world.second.down()
    world.first.default = Answer(status=529, error_type="overloaded_error")
    async with world.runtime() as ai:
        with pytest.raises(AllProvidersFailedError) as failed:
            await ai.run("hello")
    classes = Counter(getattr(error, "error_class", "refused") for error in failed.value.attempts)
    assert classes == {"transient": 2, "connection": 2}
    assert ledger(world).totals().attempts == 4
    assert len(world.first.received) == 2


async def test_with_call_durability_the_answer_comes_after_its_record_is_committed(world: World) -> None:
    async with world.runtime('[ledger]\ndurability = "call"') as ai:
        response = await ai.run("hello")
        (attempt,) = ledger(world).attempts(response.call_id)
        assert attempt.success
        async with ai.stream("hello") as events:
            async for event in events:
                if event.kind is EventKind.TERMINAL:
                    assert events.response is not None
                    assert ledger(world).attempts(events.response.call_id)


async def test_a_spend_cap_refuses_what_would_pass_it_and_says_so(world: World) -> None:
    world.first.default = Answer(usage={"input_tokens": 1000, "output_tokens": 1000})
    request = LLMRequest.from_prompt("hello", max_output_tokens=1000)
    capped = '[routing]\nallow_providers = ["first", "second"]\nmax_usd_per_day = 0.0101'
    async with world.runtime(capped) as ai:
        assert (await ai.run(request)).cost_usd == pytest.approx(0.006)
        with pytest.raises(attune.errors.BudgetExhaustedError, match=r"spend cap of \$0\.0101 a day"):
            await ai.run(request)
    assert len(world.first.received) == 1


@anew_after_a_stall
async def test_a_long_answer_is_not_taken_for_a_hanging_provider(tmp_path: Path) -> None:
    async with a_world(tmp_path) as world:
        world.first.default = Answer(text="a long answer", between_s=0.35)
        async with world.runtime("[call]\nfirst_content_seconds = 2.2\nidle_seconds = 2.2") as ai:
            response = await ai.run("write a book")
    assert response.text == "a long answer"
    assert response.latency_ms > 2200
    assert len(response.attempts) == 1


async def test_a_fallback_policy_of_ones_own_decides_what_comes_next(world: World) -> None:
    world.first.default = Answer(status=503)
    await world.runtime().aclose()
    environ = {"ATTUNE_HOME": str(world.home), **KEYS}
    only_credentials = FallbackPolicy(strategies=(FallbackStrategy.OTHER_CREDENTIAL,))
    async with build(load(environ=environ), environ=environ, fallback=only_credentials) as ai:
        with pytest.raises(AllProvidersFailedError):
            await ai.run("hello")
    assert world.second.received == []


async def test_no_key_is_in_the_ledger_or_in_any_step(world: World) -> None:
    world.first.default = lambda seen: Answer(
        status=401, error_message=f"invalid x-api-key: {seen.headers['x-api-key']}"
    )
    async with world.runtime() as ai:
        await ai.run("hello")
    stored = b"".join(path.read_bytes() for path in world.home.rglob("*") if path.is_file())
    for key in KEYS.values():
        assert key.encode() not in stored
        assert key not in "".join(world.steps)


def test_three_lines_of_python_answer_a_prompt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port_file = tmp_path / "port"

    async def serve(stop: asyncio.Event) -> None:
        async with FakeUpstream() as upstream:
            port_file.write_text(upstream.chat_url)
            await stop.wait()

    import threading

    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(serve(stop),))
    thread.start()
    try:
        while not port_file.exists() or not port_file.read_text():
            pass
        (tmp_path / "config.toml").write_text(
            f'[providers.mine]\nkind = "openai"\nbase_url = "{port_file.read_text()}"\n'
            '[[models]]\nid = "m"\nprovider = "mine"\ntier = "capable"\ncontext_window = 1000\n'
            "max_output_tokens = 100\n"
        )
        monkeypatch.setenv("ATTUNE_HOME", str(tmp_path))
        with attune.open() as ai:
            response = ai.ask("Why is the sky blue?", model="mine/m")
        assert response.text == "Hello there, friend"
        assert response.tier == ModelTier.CAPABLE
        assert response.cost_nanos is None  # no price: unknown, not 0
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


async def test_a_stream_that_is_dropped_without_a_word_is_ended_and_recorded(world: World) -> None:
    world.first.default = Answer(text="some words that come slowly", between_s=0.2)
    async with world.runtime() as ai:
        events = ai.stream("hello")
        while (await anext(events)).kind is not EventKind.CONTENT:
            pass
        call_id = events.call_id
        del events
        await asyncio.wait_for(world.first.received[0].disconnected.wait(), 60)
        await ai.store.flush()
        (attempt,) = ai.store.attempts(call_id)
    assert (attempt.success, attempt.error_class, attempt.stop_reason) == (False, "cancelled", "truncated")


async def test_a_slow_upstream_is_overtaken_by_another_after_a_restart_too(world: World) -> None:
    async with world.runtime() as ai:
        for _ in range(25):
            await ai.run("hello", model="first/alpha")
    asked = asyncio.Event()

    def stalls(_: Received) -> Answer:
        asked.set()
        return Answer(stall_head=True)

    world.first.default = stalls
    world.second.default = Answer(held=asked)  # the usual time is so short that it may be the first to hear
    async with world.runtime('[call]\nhedge = "p95"') as ai:  # what it knows is in the ledger
        response = await ai.run("hello")
        await asyncio.wait_for(world.first.received[25].disconnected.wait(), 60)
        await ai.store.flush()
        slow, quick = ai.store.attempts(response.call_id)
    assert (response.provider, len(world.second.received)) == ("second", 1)
    assert (slow.provider, slow.error_class, slow.cost_nanos, slow.cost_status) == (
        *("first", "cancelled"),
        *(None, "unknown"),
    )
    assert (quick.success, quick.position, quick.chosen_by_policy) == (True, 1, False)


@anew_after_a_stall
async def test_each_tier_has_its_own_time_limits(tmp_path: Path) -> None:
    async with a_world(tmp_path) as world:
        await keeps_the_limits_of_each_tier(world)


async def keeps_the_limits_of_each_tier(world: World) -> None:
    limits = "[call]\nmax_attempts = 1\n[call.tiers.capable]\nfirst_content_seconds = 0.2\nidle_seconds = 0.3"
    world.first.default = world.second.default = Answer(stall_head=True)
    async with world.runtime(limits) as ai:
        with pytest.raises(
            AllProvidersFailedError, match=r"timed out after 0\.2 s waiting for its first content"
        ):
            await ai.run("hello")
        world.first.default = Answer(text="a few words that stall", stall_after=520)
        with pytest.raises(
            AllProvidersFailedError, match=r"timed out after 0\.3 s waiting for the next event"
        ):
            await ai.run("hello", model="first/alpha")
    limits = "[call]\nmax_attempts = 1\n[call.tiers.capable]\nattempt_seconds = 0.4"
    world.first.default = Answer(text="many words that come slowly", between_s=0.15)
    async with world.runtime(limits) as ai:
        with pytest.raises(AllProvidersFailedError, match="waiting for its end"):
            await ai.run("hello", model="first/alpha")
