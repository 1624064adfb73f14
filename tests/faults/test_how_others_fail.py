"""What routers and gateways are known to get wrong: one test for each, which would have caught it.

Shown elsewhere, by the same name or nearly so:

- a cooldown shortened by a second 429, or 9 s slept of a ``Retry-After`` of 107:
  faults/test_classes_retry_after
- more load in an outage than without one: faults/test_budget_in_an_outage
- a truncated stream taken for an answer: faults/test_streams_cut
- a probe without an end, results of before a trip, in every order: properties/test_breaker_exhaustively
- spend limits that each process has for itself: unit/models/test_spending
- names that become SQL: contract/test_store_contract
- keys that follow a redirect, a proxy or a cookie: contract/test_provider_contract
- a usual key sent to an unusual address: unit/config/test_config_load
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from attune.errors import (
    AllProvidersFailedError,
    AttuneError,
    CredentialError,
    ThrottledError,
    TransientError,
)
from attune.models.budget import CallLimits
from attune.models.circuit_breaker import CircuitState
from attune.models.failure_domains import BreakerLimits
from attune.models.request import ExecutionContext, LLMRequest
from attune.models.retry import RetryPolicy
from attune.testing import Reply
from attune.tokens import count_tokens
from support.installation import PROTOCOLS, Installation, Spec, installation
from support.pipeline import ASK, Fleet, the_candidate
from support.scale import scaled
from support.stalls import anew_after_a_stall
from support.upstream import Answer, Received

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

DOWN = TransientError("overloaded", status=503)
NO_REPEAT = RetryPolicy(max_repeats=0)
ONCE = "\n[call]\nretries = 0\n"
DAY = 86_400.0


@pytest.fixture(params=PROTOCOLS)
async def home(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Installation]:
    async with installation(tmp_path, request.param) as home:
        yield home


# -- money -------------------------------------------------------------------------------------------

CACHED = {
    "chat": {
        "prompt_tokens": 1000,
        "completion_tokens": 10,
        "total_tokens": 1010,
        "prompt_tokens_details": {"cached_tokens": 900},
    },
    "responses": {
        "input_tokens": 1000,
        "output_tokens": 10,
        "total_tokens": 1010,
        "input_tokens_details": {"cached_tokens": 900},
        "output_tokens_details": {"reasoning_tokens": 0},
    },
    "messages": {"input_tokens": 100, "cache_read_input_tokens": 900, "output_tokens": 10},
}
"""The same call as each protocol reports it: 1,000 tokens in, of which 900 were read from the cache."""


async def test_cached_tokens_are_billed_once(home: Installation) -> None:
    home["a"].default = Answer(usage=CACHED[home.protocol])
    async with home.runtime() as ai:
        whole = await ai.run("hello")
        async with ai.stream("hello") as events:
            async for _ in events:
                pass
    nanos = 100 * 1000 + 900 * 100 + 10 * 5000
    for response in (whole, events.response):
        assert (response.cost_nanos, str(response.cost_status)) == (nanos, "exact")
        assert (response.usage.input_tokens, response.usage.cache_read_tokens) == (1000, 900)


async def test_a_stream_without_usage_does_not_cost_nothing(home: Installation) -> None:
    home["a"].default = Answer(usage={})
    async with home.runtime() as ai:
        async with ai.stream("hello") as events:
            async for _ in events:
                pass
        assert events.response.cost_nanos > 0
        assert str(events.response.cost_status) == "estimated"
        await ai.store.flush()
        assert ai.store.totals().cost_nanos == events.response.cost_nanos
    (record,) = home.records()
    assert record.usage.output_tokens >= len("Hello there, friend") // 4


async def test_what_was_spent_just_before_the_end_is_in_the_books(home: Installation) -> None:
    calls = 30
    async with home.runtime() as ai:
        responses = await asyncio.gather(*(ai.run("hello") for _ in range(calls)))
    records = home.records()
    assert len(records) == calls
    assert sum(each.cost_nanos for each in records) == sum(each.cost_nanos for each in responses) > 0


async def test_a_ledger_that_is_locked_is_no_bad_key_and_holds_up_no_answer(
    home: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attune.stores._schema.BUSY_SECONDS", 1000.0)  # so long a wait for it would be seen
    async with home.runtime() as ai:
        await ai.run("hello")
        await ai.store.flush()
        other = sqlite3.connect(ai.config.paths.ledger_file, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        try:
            async with asyncio.timeout(60):
                assert (await ai.run("hello")).text == "Hello there, friend"
            assert ai.domains.quiet
        finally:
            other.execute("ROLLBACK")
            other.close()
    assert [each.success for each in home.records()] == [True, True]


# -- attempts ----------------------------------------------------------------------------------------


async def test_retries_and_fallbacks_do_not_multiply(home: Installation) -> None:
    """Three repeats on each of two providers make no eight requests, but the four of the call's budget."""
    for upstream in home.upstreams.values():
        upstream.default = Answer(status=500)
    async with home.runtime("\n[call]\nretries = 3\nmax_attempts = 4\n") as ai:
        with pytest.raises(AllProvidersFailedError) as caught:
            await ai.run("hello")
        assert len(home.asked) == len(caught.value.attempts) == 4
        with pytest.raises(AllProvidersFailedError):
            async with ai.stream("hello") as events:
                await anext(events)
    assert len(home.asked) == len(home.records()) <= 8


async def test_twenty_five_errors_in_a_row_do_not_stay_in_rotation(home: Installation) -> None:
    home["a"].default = Answer(status=500)
    async with home.runtime(ONCE) as ai:
        for number in range(25):
            await ai.run("hello", workflow=str(number))
        assert len(home["a"].received) <= 5
        assert len(home["b"].received) == 25
        for _ in range(25):
            with pytest.raises(AllProvidersFailedError):
                await ai.run("hello", model="a/m")
        states = {each.name: each.state for each in ai.domains.snapshot()}
    assert states["a/m"] is CircuitState.OPEN
    assert len(home["a"].received) <= 5 + 1, "and one as a last resort"


async def test_one_failure_of_one_call_opens_nothing(home: Installation) -> None:
    home["a"].then(Answer(status=500))
    async with home.runtime(ONCE) as ai:
        await ai.run("hello")
        assert {each.state for each in ai.domains.snapshot()} == {CircuitState.CLOSED}
        assert (await ai.run("hello", model="a/m")).provider == "a"


async def test_overloads_in_the_middle_of_streams_are_no_successes(tmp_path: Path) -> None:
    calls = scaled(test=51, faults=510, soak=510)
    overload = (
        b'event: error\ndata: {"type": "error", "error": {"type": "overloaded_error", "message": ""}}\n\n'
    )
    async with installation(tmp_path, "messages", "a/m") as home:
        home["a"].default = Answer(body=overload, content_type="text/event-stream")
        async with home.runtime(f"{ONCE}[breaker]\nfailure_threshold = 1000\n") as ai:
            for number in range(calls):
                with pytest.raises(AllProvidersFailedError):
                    await ai.run("hello", workflow=str(number % 10))
            stats = ai.router.get_routing_stats("0")
        assert {(each.success, each.error_class) for each in home.records()} == {(False, "mid_stream")}
        assert len(home.records()) == calls
        assert all(each.success_rate == 0.0 for each in stats.models)


# -- breakers ----------------------------------------------------------------------------------------


async def test_hundreds_of_calls_at_once_open_no_circuit_of_a_slow_but_healthy_service(
    tmp_path: Path,
) -> None:
    """Waiting for a place in a pool would be taken for the service's failure: there is no such place."""
    async with installation(tmp_path, "chat", "a/m") as home:
        all_asked = asyncio.Event()

        def answer_the_last(seen: Received) -> Answer:
            if len(home["a"].received) == 500:
                all_asked.set()
            return Answer(held=all_asked)  # the first is answered when the last has asked

        home["a"].default = answer_the_last
        async with home.runtime("\n[call]\nretries = 0\nconnect_seconds = 60\n") as ai:
            responses = await asyncio.gather(*(ai.run("hello") for _ in range(500)))
            assert {each.state for each in ai.domains.snapshot()} == {CircuitState.CLOSED}
        assert len({each.call_id for each in responses}) == len(home["a"].received) == 500
        assert {each.error_class for each in home.records()} == {""}


def broken(*scripts: object, **options) -> Fleet:
    """One provider whose circuit is open and whose recovery timeout has passed, with answers to come."""
    fleet = Fleet("a/m", scripts={"a": scripts}, retry=NO_REPEAT, **options)
    for domain in ("a", "a/m"):
        fleet.trip(domain)
    fleet.clock.advance(70)
    assert fleet.state("a/m") is CircuitState.HALF_OPEN
    return fleet


async def test_a_cancelled_probe_neither_closes_the_circuit_nor_holds_it_half_open() -> None:
    fleet = broken(Reply(head_s=float("inf")), "it works")
    probe = asyncio.create_task(fleet.executor.run(ASK))
    while not fleet["a"].in_flight:
        await asyncio.sleep(0)
    probe.cancel()
    with pytest.raises(asyncio.CancelledError):
        await probe
    assert fleet.state("a/m") is CircuitState.HALF_OPEN
    assert (await fleet.executor.run(ASK)).text == "it works"
    assert fleet.state("a/m") is CircuitState.CLOSED


async def test_an_answer_to_a_call_of_before_the_trip_does_not_close_the_circuit() -> None:
    fleet = Fleet("a/m", scripts={"a": [Reply(head_s=30)]}, retry=NO_REPEAT)
    early = asyncio.create_task(fleet.executor.run(ASK))
    while not fleet["a"].in_flight:
        await asyncio.sleep(0)
    fleet["a"].default = DOWN
    for _ in range(5):
        with pytest.raises(AllProvidersFailedError):
            await fleet.executor.run(ASK)
    assert fleet.state("a/m") is CircuitState.OPEN
    assert (await early).text == "ok"
    assert fleet.state("a/m") is CircuitState.OPEN


@pytest.mark.parametrize("between_s", [0.0, 900.0, 2 * DAY], ids=["at once", "slow calls", "rare calls"])
async def test_failures_in_a_row_open_the_circuit_however_long_they_take(between_s: float) -> None:
    """A window of a minute would have forgotten each of them before the next."""
    fleet = Fleet("a/m", retry=NO_REPEAT, limits=CallLimits(deadline_s=1e9))
    fleet["a"].default = Reply(error=DOWN, head_s=between_s)
    for number in range(5):
        assert fleet.state("a/m") is CircuitState.CLOSED, number
        with pytest.raises(AllProvidersFailedError):
            await fleet.executor.run(ASK)
    assert fleet.state("a/m") is CircuitState.OPEN


async def test_a_probe_may_take_longer_than_the_circuit_was_open() -> None:
    long = CallLimits(first_content_s=600.0, total_s=600.0)
    fleet = broken(Reply(head_s=500), limits=long)
    probe = asyncio.create_task(fleet.executor.run(ASK))
    while not fleet["a"].in_flight:
        await asyncio.sleep(0)
    with pytest.raises(AttuneError):
        await fleet.executor.run(ASK, ExecutionContext(deadline_s=1))
    assert fleet["a"].max_in_flight == 1, "one probe at a time, as long as it takes"
    assert (await probe).text == "ok"
    assert fleet.state("a/m") is CircuitState.CLOSED


@pytest.mark.parametrize("jump", [-DAY, DAY], ids=["back", "forward"])
@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (DOWN, 60.0),
        (ThrottledError("slow down", status=429, retry_after=100.0), 100.0),
        (CredentialError("refused", status=401), 300.0),
    ],
    ids=["circuit", "cooldown", "credential"],
)
async def test_a_wall_clock_that_is_set_changes_no_waiting(
    error: Exception, seconds: float, jump: float
) -> None:
    fleet = Fleet("a/m", scripts={"a": [error]}, retry=NO_REPEAT, breaker=BreakerLimits(failure_threshold=1))
    with pytest.raises(AllProvidersFailedError):
        await fleet.executor.run(ASK, ExecutionContext(deadline_s=1))
    fleet.clock._offset += jump
    fleet.clock.advance(seconds - 0.1)
    refusal = fleet.domains.refusal(the_candidate("a/m"))
    assert refusal is not None
    assert refusal.retry_at >= fleet.clock.monotonic()
    fleet.clock.advance(seconds * 0.2)  # an opening may last a tenth longer
    assert fleet.domains.refusal(the_candidate("a/m")) is None


# -- the event loop ----------------------------------------------------------------------------------


async def longest_stall(work: asyncio.Task[object]) -> float:
    """The longest time in seconds that the event loop did nothing else while a task was under way."""
    loop, longest = asyncio.get_running_loop(), 0.0
    while not work.done():
        before = loop.time()
        await asyncio.sleep(0.001)
        longest = max(longest, loop.time() - before)
    await work
    return longest


MEGABYTE = {
    "one word": "a" * 1_000_000,
    "many words": "word " * 200_000,
    "not ASCII": "\N{GREEK SMALL LETTER PI}\N{PARTY POPPER}" * 170_000,
}


@pytest.mark.parametrize("text", MEGABYTE.values(), ids=MEGABYTE.keys())
@anew_after_a_stall
async def test_a_prompt_of_a_megabyte_does_not_hold_up_the_others(tmp_path: Path, text: str) -> None:
    async with installation(tmp_path, "chat", Spec("a/m", 10_000_000)) as home:
        async with home.runtime() as ai:
            await ai.run("hello")
            stall = await longest_stall(asyncio.create_task(ai.run(LLMRequest.from_prompt(text))))
        assert len(home["a"].received) == 2
    assert stall < 0.5


@pytest.mark.parametrize("text", MEGABYTE.values(), ids=MEGABYTE.keys())
@anew_after_a_stall
async def test_counting_tokens_in_a_thread_does_not_hold_up_the_loop(text: str) -> None:
    count_tokens("", "gpt-6-luna")
    counting = asyncio.create_task(asyncio.to_thread(count_tokens, text, "gpt-6-luna"))
    assert await longest_stall(counting) < 0.5


# -- conversations -----------------------------------------------------------------------------------


async def test_the_turns_of_a_session_stay_where_its_prompt_is_cached() -> None:
    """Three alike candidates share the sessions; the turns of one go to one of them."""
    fleet = Fleet("a/m", "b/m", "c/m")
    sessions, turns = 40, 20
    for turn in range(turns):
        for session in range(sessions):
            context = ExecutionContext(session_id=f"session {session}", workflow=f"turn {turn % 2}")
            await fleet.executor.run(ASK, context)
    served: dict[str, list[str]] = {}
    for record in fleet.records:
        served.setdefault(record.session_id, []).append(record.provider)
    stayed = sum(max(each.count(provider) for provider in "abc") for each in served.values())
    assert stayed >= 0.99 * sessions * turns
    assert len({each[0] for each in served.values()}) > 1, "and no candidate has them all"


# -- secrets -----------------------------------------------------------------------------------------

LEAKY = "the key {key} is wrong, as in Bearer {key} and https://example.org/?key={key}"


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_no_key_is_in_a_log_an_error_a_step_a_url_or_a_file(
    tmp_path: Path, protocol: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    seen: list[str] = []
    async with installation(tmp_path, protocol, "a/m") as home:
        key = home.secret("a", "key")
        message = LEAKY.format(key=key)
        async with home.runtime("\n[breaker]\nfailure_threshold = 1000\n") as ai:
            ai.executor.on_step = seen.append
            for answer in leaky(message):
                home["a"].then(answer, answer, answer, answer)
                ai.domains._credentials.clear()
                ai.domains._rests.clear()
                with pytest.raises(AttuneError) as caught:
                    await ai.run("hello")
                seen.append("".join(traceback.format_exception(caught.value)))
                seen.append(repr(caught.value) + repr(vars(caught.value)))
                home["a"]._script.clear()
            await home["a"].down()
            with pytest.raises(AttuneError) as caught:
                await ai.run("hello")
            seen.append("".join(traceback.format_exception(caught.value)))
            seen.append(repr(ai.config) + repr(vars(ai.executor.runner)))
        assert len(home["a"].received) >= len(list(leaky(message)))
        assert all(key in " ".join(each.headers.values()) for each in home["a"].received), (
            "it was really used"
        )
        assert all(key not in each.path for each in home["a"].received)
        files = [each for each in Path(tmp_path).rglob("*") if each.is_file()]
        assert not [each.name for each in files if key.encode() in each.read_bytes()]
    assert key not in caplog.text
    assert not [each for each in seen if key in each]


def leaky(message: str) -> Iterator[Answer]:
    """Failures of every kind that repeat the key."""
    for status in (400, 401, 402, 403, 404, 413, 422, 429, 500, 529):
        yield Answer(status=status, error_message=message, headers={"retry-after-ms": "1"})
    yield Answer(reset_head=True)
    yield Answer(cut_after=30, cut_by="reset")
    yield Answer(body=message.encode(), content_type="text/event-stream")
    yield Answer(body=f"data: {message}\n\n".encode(), content_type="text/event-stream")
