"""How a runtime ends: by closing, in threads, by signals; nothing under way is lost to the ledger."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from attune import shutdown
from attune.config import load
from attune.errors import InvalidRequestError
from attune.models.executor import EventKind
from attune.runtime import Runtime, build
from attune.stores.sqlite import SqliteReader, SqliteStore
from support.program import MINE
from support.upstream import Answer, FakeUpstream, Received

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path


class World:
    """One upstream that is asked in a loop of its own, so that blocking programs can be tested too."""

    def __init__(self, home: Path, upstream: FakeUpstream) -> None:
        self.home, self.upstream = home, upstream
        self.environ = {"ATTUNE_HOME": str(home), "MINE_KEY": "canary-of-a-key"}
        self.configure()

    def configure(self, extra: str = "") -> None:
        (self.home / "config.toml").write_text(MINE.format(url=self.upstream.chat_url) + extra)

    def runtime(self) -> Runtime:
        return build(load(environ=self.environ), environ=self.environ)

    def ledger(self) -> SqliteReader:
        return SqliteStore.open_readonly(load(environ=self.environ).paths.ledger_file)

    def ended(self) -> list[str]:
        """How each attempt in the ledger ended."""
        return [attempt.error_class for attempt in self.ledger().recent_attempts(10)]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with FakeUpstream() as upstream:
        yield World(tmp_path, upstream)


@pytest.fixture
def apart(tmp_path: Path) -> Iterator[World]:
    """The world with its upstream in a thread, for tests without an event loop."""
    upstream, loop = FakeUpstream(), asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    asyncio.run_coroutine_threadsafe(upstream.up(), loop).result()
    yield World(tmp_path, upstream)
    asyncio.run_coroutine_threadsafe(upstream.__aexit__(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


# -- closing -----------------------------------------------------------------------------------------


async def test_closing_cancels_a_call_under_way_which_is_asked_once_and_recorded(world: World) -> None:
    world.upstream.default = Answer(stall_head=True)
    async with world.runtime() as ai:
        call = asyncio.create_task(ai.run("hello"))
        seen = await world.upstream.arrived()
    with pytest.raises(InvalidRequestError, match="closed while this call was under way"):
        await call
    assert call.cancelling() == 0
    await asyncio.wait_for(seen.disconnected.wait(), 60)
    assert len(world.upstream.received) == 1
    assert world.ended() == ["cancelled"]


async def test_a_task_that_is_also_cancelled_by_its_owner_stays_cancelled(world: World) -> None:
    world.upstream.default = Answer(stall_head=True)
    async with world.runtime() as ai:
        call = asyncio.create_task(ai.run("hello"))
        await world.upstream.arrived()
        call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert world.ended() == ["cancelled"]


async def test_closing_ends_a_stream_that_is_read_and_one_that_nobody_reads(world: World) -> None:
    world.upstream.default = Answer(stall_after=400)

    async def read() -> None:
        async with ai.stream("hello") as events:
            async for _ in events:
                pass

    async with world.runtime() as ai:
        idle = ai.stream("hello")
        async for event in idle:
            if event.kind is EventKind.CONTENT:
                break
        reading = asyncio.create_task(read())
        await world.upstream.arrived(2)
    with pytest.raises(InvalidRequestError, match="was closed"):
        await reading
    with pytest.raises(InvalidRequestError, match="was closed"):
        await anext(idle)
    assert world.ended() == ["cancelled", "cancelled"]
    assert len(world.upstream.received) == 2


async def test_a_complete_stream_can_be_read_to_its_end_after_closing(world: World) -> None:
    async with world.runtime() as ai:
        events = ai.stream("hello")
        async for event in events:
            if event.kind is EventKind.TERMINAL:
                break
    assert [event async for event in events] == []
    assert events.response is not None


async def test_a_closed_runtime_asks_nobody(world: World) -> None:
    async with world.runtime() as ai:
        await ai.run("hello")
    with pytest.raises(InvalidRequestError, match="was closed; open it again"):
        await ai.run("hello")
    with pytest.raises(InvalidRequestError, match="was closed; open it again"):
        await asyncio.to_thread(ai.ask, "hello")
    assert len(world.upstream.received) == 1


async def test_closing_twice_at_a_time_returns_when_all_is_done(world: World) -> None:
    ai = world.runtime()
    await ai.run("hello")
    await asyncio.gather(ai.aclose(), ai.aclose())
    await ai.aclose()
    assert world.ended() == [""]


async def test_what_breaks_after_the_request_was_sent_has_an_unknown_cost(world: World) -> None:
    world.upstream.default = Answer(reset_head=True)
    async with world.runtime() as ai:
        with pytest.raises(Exception, match="no candidate could answer"):
            await ai.run("hello")
    attempts = world.ledger().recent_attempts(10)
    assert len(attempts) == len(world.upstream.received)
    assert {(attempt.cost_nanos, str(attempt.cost_status)) for attempt in attempts} == {(None, "unknown")}


async def test_what_cannot_be_reached_costs_nothing(world: World) -> None:
    await world.upstream.down()
    async with world.runtime() as ai:
        with pytest.raises(Exception, match="no candidate could answer"):
            await ai.run("hello")
    attempts = world.ledger().recent_attempts(10)
    assert {(attempt.cost_nanos, str(attempt.cost_status)) for attempt in attempts} == {(0, "exact")}


async def test_the_configured_retention_reaches_the_ledger(world: World) -> None:
    world.configure("\n[ledger]\nretention_days = 3\n")
    async with world.runtime() as ai:
        old = (await ai.run("hello")).call_id
        (attempt,) = (await ai.store.flush(), ai.store.attempts(old))[1]
        for days in (2, 4):
            at = attempt.at - days * 86_400
            ai.store.append_attempt(attempt._replace(call_id=f"{days} days ago", attempt_id=str(days), at=at))
    async with world.runtime() as ai:
        await ai.store.flush()
        async with asyncio.timeout(60):
            while ai.store.attempts("4 days ago"):
                await asyncio.sleep(0)
        assert ai.store.attempts("2 days ago")


# -- threads -----------------------------------------------------------------------------------------


def test_threads_ask_at_the_same_time(apart: World) -> None:
    all_asked = asyncio.Event()
    answers: list[str] = []

    def answer_the_last(seen: Received) -> Answer:
        if len(apart.upstream.received) == 3:
            all_asked.set()
        return Answer(held=all_asked)  # the first is answered when the last has asked

    def ask() -> None:
        answers.append(ai.ask("hello").text)

    apart.upstream.default = answer_the_last

    with apart.runtime() as ai:
        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers == ["Hello there, friend"] * 3
        ai.store.flush_sync()
        (call,) = ai.store.recent_attempts(1)
        assert ai.record_outcome(call.call_id, success=False).call_id == call.call_id
        assert ai.decide("hello").candidate.provider == "mine"
    with pytest.raises(InvalidRequestError, match="open it again"):
        ai.ask("hello")
    assert apart.ended() == [""] * 3


def test_closing_in_one_thread_ends_what_another_asks(apart: World) -> None:
    apart.upstream.default = Answer(stall_head=True)
    failed: list[BaseException] = []

    def ask() -> None:
        with pytest.raises(InvalidRequestError) as caught:
            ai.ask("hello")
        failed.append(caught.value)

    ai = apart.runtime()
    thread = threading.Thread(target=ask)
    thread.start()
    while not apart.upstream.received:
        thread.join(0.01)
    ai.close()
    thread.join()
    assert "closed while" in str(failed[0])
    assert apart.ended() == ["cancelled"]
    mine = [each.name for each in threading.enumerate() if each.name.startswith("attune")]
    assert set(mine) <= {"attune-aside_0"}  # the one that all of a process share


async def test_a_thread_beside_an_event_loop_asks_in_that_loop(world: World) -> None:
    async with world.runtime() as ai:
        response = await asyncio.to_thread(ai.ask, "hello")
        assert response.text == "Hello there, friend"
        assert "attune-calls" not in {each.name for each in threading.enumerate()}
    assert world.ended() == [""]


async def test_inside_an_event_loop_asking_says_what_to_do(world: World) -> None:
    ai = world.runtime()
    for wrong in (lambda: ai.ask("hello"), ai.close, ai.__enter__):
        with pytest.raises(InvalidRequestError, match="inside an event loop use"):
            wrong()
    await ai.aclose()


def test_an_interrupted_wait_ends_its_call_before_it_is_left(
    apart: World,
) -> None:
    apart.upstream.default = Answer(stall_head=True)
    interrupter = threading.Thread(target=_interrupt_when_asked, args=(apart.upstream,))
    interrupter.start()
    with apart.runtime() as ai:
        with pytest.raises(KeyboardInterrupt):
            ai.ask("hello")
        ai.store.flush_sync()
        assert apart.ended() == ["cancelled"]
    interrupter.join()


def _interrupt_when_asked(upstream: FakeUpstream) -> None:
    while not upstream.received:
        threading.Event().wait(0.01)
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


# -- signals -----------------------------------------------------------------------------------------

IN_A_LOOP = """
import asyncio, attune
async def main():
    async with attune.open() as ai:
        await ai.run("hello")
asyncio.run(main())
"""

IN_A_STREAM = """
import asyncio, attune
async def main():
    async with attune.open() as ai:
        async with ai.stream("hello") as events:
            async for event in events:
                pass
asyncio.run(main())
"""

BLOCKING = """
import attune
attune.open().ask("hello")
"""


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("program", [IN_A_LOOP, IN_A_STREAM, BLOCKING])
async def test_a_signal_ends_the_program_after_the_call_under_way_is_in_the_ledger(
    world: World, program: str, number: signal.Signals
) -> None:
    world.upstream.default = Answer(stall_head=True)
    with _started(world, program) as child:
        await world.upstream.arrived()
        child.send_signal(number)
        assert await asyncio.to_thread(child.wait, 60) == -number
    assert world.ended() == ["cancelled"]
    assert len(world.upstream.received) == 1


LOCKED = """
import attune, signal, time
ai = attune.open()
ai.ask("hello")
with ai.store._writer._lock:
    signal.raise_signal(signal.SIGTERM)
    time.sleep(0.1)
    print("free", flush=True)
time.sleep(60)
"""


async def test_a_signal_inside_a_lock_of_the_ledger_is_no_deadlock(world: World) -> None:
    with _started(world, LOCKED) as child:
        assert await asyncio.to_thread(child.wait, 60) == -signal.SIGTERM
        assert child.stdout is not None
        assert child.stdout.read() == b"free\n"
    assert world.ended() == [""]


HANDLED = """
import attune, signal
signal.signal(signal.SIGTERM, lambda *_: print("mine", flush=True))
signal.signal(signal.SIGHUP, signal.SIG_IGN)
attune.open()
for number in (signal.SIGTERM, signal.SIGHUP):
    signal.raise_signal(number)
"""


async def test_what_the_program_does_about_signals_itself_is_left_alone(world: World) -> None:
    with _started(world, HANDLED) as child:
        assert await asyncio.to_thread(child.wait, 60) == 0
        assert child.stdout is not None
        assert child.stdout.read() == b"mine\n"


async def test_everything_open_is_closed_and_what_is_closed_or_gone_does_no_harm(world: World) -> None:
    one, two = world.runtime(), world.runtime()
    await two.run("hello")
    for each in (one, two, two):
        shutdown._opened.add(each)
    await asyncio.to_thread(shutdown.close_opened)
    await asyncio.to_thread(shutdown.close_opened)
    assert world.ended() == [""]
    with pytest.raises(InvalidRequestError):
        await one.run("hello")


def _started(world: World, program: str) -> subprocess.Popen[bytes]:
    # Without the variables that would measure coverage there: that handles SIGTERM itself.
    environ = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    return subprocess.Popen(
        [sys.executable, "-c", f"{_DEFAULT_SIGNALS}\n{program}"],
        env={**environ, **world.environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )


_DEFAULT_SIGNALS = "import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL)"
"""Under nohup a program is started with SIGHUP ignored."""
