"""How long a provider asked to wait is how long is waited, to the moment, or the call goes elsewhere."""

from __future__ import annotations

import asyncio
import json
from email.utils import formatdate
from types import SimpleNamespace
from typing import TYPE_CHECKING, NamedTuple

import pytest

from attune.errors import AllProvidersFailedError
from attune.models.candidate import Candidate
from attune.models.request import ExecutionContext
from attune.testing import FakeClock
from support.installation import PROTOCOLS, installation
from support.upstream import Answer

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from attune.runtime import Runtime


class Asked(NamedTuple):
    """How a wait is asked for, and how long it is in seconds."""

    headers: Mapping[str, str]
    seconds: float
    status: int = 429
    body: bytes | None = None


NOW = 1_800_000_000.0
"""When every answer arrives: a date is exact only if no time passes on its way."""
PRECISION_S = 1e-6


def delay(text: str) -> bytes:
    """The body in which Google asks for a wait."""
    details = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": text}]
    return json.dumps({"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "details": details}}).encode()


WAITS = {
    "seconds": Asked({"retry-after": "107"}, 107.0),
    "an HTTP date": Asked({"retry-after": formatdate(NOW + 107, usegmt=True)}, 107.0),
    "milliseconds": Asked({"retry-after-ms": "1500"}, 1.5),
    "milliseconds before seconds": Asked({"retry-after-ms": "1500", "retry-after": "2"}, 1.5),
    "fractions": Asked({"retry-after": "0.25"}, 0.25),
    "RetryInfo": Asked({}, 37.0, body=delay("37s")),
    "an overload": Asked({"retry-after": "107"}, 107.0, status=503),
    "an overload of Anthropic": Asked({"retry-after": "31"}, 31.0, status=529),
}


def answer(asked: Asked) -> Answer:
    return Answer(status=asked.status, headers=asked.headers, body=asked.body)


@pytest.fixture(autouse=True)
def no_time_passes_on_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attune.providers._http.time", SimpleNamespace(time=lambda: NOW))


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(autojump=False)


async def sleeping(clock: FakeClock) -> float:
    """Wait until somebody sleeps on the clock; the seconds until they wake."""
    async with asyncio.timeout(60):
        while not (due := [at for at, _, woken in clock._sleepers if not woken.done()]):
            await asyncio.sleep(0.001)
    return min(due) - clock.monotonic()


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("asked", WAITS.values(), ids=WAITS.keys())
async def test_with_nowhere_else_to_go_it_waits_exactly_so_long(
    tmp_path: Path, clock: FakeClock, protocol: str, asked: Asked
) -> None:
    async with installation(tmp_path, protocol, "a/m") as home:
        home["a"].then(answer(asked))
        async with home.runtime(clock=clock) as ai:
            call = asyncio.create_task(ai.run("hello"))
            seconds = await sleeping(clock)
            assert seconds == pytest.approx(asked.seconds, abs=PRECISION_S)
            clock.advance(seconds - 0.001)
            await asyncio.sleep(0.01)
            assert len(home["a"].received) == 1
            clock.advance(0.002)
            assert (await call).text == "Hello there, friend"
        assert len(home["a"].received) == 2


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("asked", WAITS.values(), ids=WAITS.keys())
async def test_with_somewhere_to_go_it_goes_there_at_once(
    tmp_path: Path, clock: FakeClock, protocol: str, asked: Asked
) -> None:
    async with installation(tmp_path, protocol, "a/m", "b/m") as home:
        home["a"].then(answer(asked))
        async with home.runtime(clock=clock) as ai:
            call = asyncio.create_task(ai.run("hello"))
            if asked.status != 429 and asked.seconds < ai.executor.retry.cap_s:
                clock.advance(await sleeping(clock))
            assert (await call).provider == "b"
            assert home.asked == ["a#key/m", "b#key/m"]
            clock.advance(asked.seconds - PRECISION_S - 0.001)
            with pytest.raises(AllProvidersFailedError):
                await ai.run("hello", ExecutionContext(model="a/m", deadline_s=0.0005))
            assert len(home["a"].received) == 1, "no other call goes there before its time"
            clock.advance(2 * PRECISION_S + 0.002)
            assert (await ai.run("hello", ExecutionContext(model="a/m"))).provider == "a"


# -- cooldowns ---------------------------------------------------------------------------------------


def cooldown(ai: Runtime, clock: FakeClock, provider: str = "a") -> float:
    refusal = ai.domains.refusal(Candidate(provider, "m", "key"))
    return 0.0 if refusal is None else refusal.retry_at - clock.monotonic()


@pytest.mark.parametrize("order", [(107, 61), (61, 107)], ids=["longer first", "shorter first"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_of_two_answers_at_a_time_the_longer_wait_holds_whichever_comes_first(
    tmp_path: Path, clock: FakeClock, protocol: str, order: tuple[int, int]
) -> None:
    async with installation(tmp_path, protocol, "a/m") as home:
        turns = [asyncio.Event() for _ in order]
        for seconds, turn in zip(order, turns, strict=True):
            home["a"].then(Answer(status=429, headers={"retry-after": str(seconds)}, held=turn))
        async with home.runtime(clock=clock) as ai:
            soon = ExecutionContext(deadline_s=60)  # less than either wait
            calls = [asyncio.create_task(ai.run("hello", soon)) for _ in order]
            await home["a"].arrived(2)
            turns[0].set()
            await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
            turns[1].set()
            failures = await asyncio.gather(*calls, return_exceptions=True)
            assert [type(each) for each in failures] == [AllProvidersFailedError] * 2
            assert len(home["a"].received) == 2
            assert cooldown(ai, clock) == pytest.approx(107)
        async with home.runtime(clock=clock) as another:
            assert cooldown(another, clock) == pytest.approx(107)


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_when_everything_cools_down_the_error_has_the_soonest_time_and_nobody_is_asked(
    tmp_path: Path, clock: FakeClock, protocol: str
) -> None:
    async with installation(tmp_path, protocol, "a/m", "b/m", "c/m") as home:
        for name, seconds in (("a", "300"), ("b", "100"), ("c", "200")):
            home[name].default = Answer(status=429, headers={"retry-after": seconds})
        async with home.runtime(clock=clock) as ai:
            for passed in (0, 40):
                clock.advance(passed)
                with pytest.raises(AllProvidersFailedError) as caught:
                    await ai.run("hello", ExecutionContext(deadline_s=30))
                assert caught.value.retry_at == pytest.approx(clock.time() + 100 - passed)
        assert home.asked == ["a#key/m", "b#key/m", "c#key/m"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_the_soonest_time_counts_credentials_that_are_off_and_circuits_that_are_open(
    tmp_path: Path, clock: FakeClock, protocol: str
) -> None:
    async with installation(tmp_path, protocol, "a/m", "b/m", "c/m") as home:
        home["a"].default = Answer(status=429, headers={"retry-after": "900"})
        home["b"].default = Answer(status=401)
        home["c"].default = Answer(status=503)
        once = "\n[breaker]\nfailure_threshold = 1\nrecovery_timeout_seconds = 60\n"
        async with home.runtime(once, clock=clock) as ai:
            with pytest.raises(AllProvidersFailedError) as caught:
                await ai.run("hello", ExecutionContext(deadline_s=30))
        assert home.asked == ["a#key/m", "b#key/m", "c#key/m"]
        assert caught.value.retry_at == pytest.approx(clock.time() + 60, abs=10)


async def test_a_wait_that_passes_the_deadline_is_not_begun(tmp_path: Path, clock: FakeClock) -> None:
    async with installation(tmp_path, "chat", "a/m") as home:
        home["a"].default = Answer(status=429, headers={"retry-after": "107"})
        async with home.runtime(clock=clock) as ai:
            with pytest.raises(AllProvidersFailedError, match="beyond the call's deadline") as caught:
                await ai.run("hello", ExecutionContext(deadline_s=106))
        assert caught.value.retry_at == pytest.approx(clock.time() + 107)
        assert not clock._sleepers
