"""llmock, an independent fake of the services, judges how attune treats a scripted run of faults.

Its verdict knows requests only, and takes one for the retry of another by its path and body. It cannot see
that a call went to a candidate with another path or model, and says then that the client gave up, or took
half an answer for a whole one; and if the other candidate has the same path and model it says after a 429
that the client did not wait. So calls have *twins* here, two providers with one path and model, where going
elsewhere is to be seen, and another path where somebody else may be asked during a ``Retry-After``. Callers
who are told of a broken stream ask again: one that was passed off as whole stays without a retry.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from attune.config import load
from attune.errors import AllProvidersFailedError, CallerError, StreamBrokenError
from attune.models.request import ExecutionContext
from attune.runtime import build
from support.llmock_server import control, llmock
from support.stalls import anew_after_a_stall

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping
    from pathlib import Path

    from attune.runtime import Runtime

pytest.importorskip("llmock")

TWINS = ExecutionContext(workflow="twins")
ALONE = ExecutionContext(workflow="alone")
ELSEWHERE = ExecutionContext(workflow="elsewhere")

PROVIDER = """\
[providers.{name}]
{speaks}
base_url = "{url}"
api_key = "env:KEY"

[[models]]
id = "some-model"
provider = "{name}"
tier = "capable"
context_window = 100000
input_price = 1.0
output_price = 5.0

"""
CONFIGURATION = """\
[tiers]
capable = ["one/some-model", "twin/some-model", "new/some-model", "other/some-model"]

[routing]
policy = "best"
allow_providers = ["one", "twin", "new", "other"]

[routing.workflows.twins]
allow_providers = ["one", "twin"]

[routing.workflows.alone]
allow_providers = ["one"]

[routing.workflows.elsewhere]
allow_providers = ["one", "other"]

[call]
first_content_seconds = 3
idle_seconds = 0.4
"""


class Unhurried(Random):
    """Pauses of an eighth of a second: the server has noticed by then that its client has gone."""

    def uniform(self, a: float, b: float) -> float:
        return max(a, min(b, 0.125))


class Judge:
    """One llmock, and the runtime that it judges."""

    def __init__(self, url: str) -> None:
        self.url = url

    def configure(self, home: Path, extra: str) -> Mapping[str, str]:
        """Write a configuration whose ``[call]`` goes on with ``extra``."""
        chat, responses = 'kind = "openai"', 'kind = "openai"\nprotocol = "responses"'
        providers = {
            "one": (f"{self.url}/v1", chat),
            "twin": (f"{self.url}/v1", chat),
            "new": (f"{self.url}/v1", responses),
            "other": (f"{self.url}/anthropic", 'kind = "anthropic"'),
        }
        parts = [PROVIDER.format(name=name, url=url, speaks=how) for name, (url, how) in providers.items()]
        (home / "config.toml").write_text("".join(parts) + CONFIGURATION + extra)
        return {"ATTUNE_HOME": str(home), "KEY": "canary-of-a-key"}

    async def script(self, **behaviour: Any) -> None:
        await asyncio.to_thread(self._control, "scenario", {"behaviors": [behaviour]})

    async def reset(self) -> None:
        await asyncio.to_thread(self._control, "reset", {})

    async def findings(self) -> list[tuple[str, str]]:
        verdict = await asyncio.to_thread(self._control, "verdict")
        return [(finding["code"], finding["title"]) for finding in verdict["findings"]]

    async def faults(self) -> int:
        """How many of the faults it was told to make it has made."""
        return int((await asyncio.to_thread(self._control, "verdict"))["faults_injected"])

    async def requests(self) -> list[dict[str, Any]]:
        return list((await asyncio.to_thread(self._control, "requests"))["requests"])

    def _control(self, path: str, data: Any = None) -> Any:
        return control(self.url, path, data)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with llmock("--stream-chunk-delay-ms", "8") as url:
        yield url


@asynccontextmanager
async def judged(server: str, home: Path, extra: str = "") -> AsyncIterator[tuple[Judge, Runtime]]:
    """A judge who remembers nothing, and a runtime before it."""
    judge = Judge(server)
    await judge.reset()
    environ = judge.configure(home, extra)
    async with build(load(environ=environ), environ=environ) as ai:
        ai.executor.rng = Unhurried()
        yield judge, ai


PATHS = {"one": "/v1/chat/completions", "new": "/v1/responses", "other": "/anthropic/v1/messages"}
CUT = ("disconnect", "truncate")
# No more than a retry bucket holds: with an empty one a lone candidate is not tried again.
PASSING = [
    {"type": "fail", "status": 408},
    {"type": "fail", "status": 500},
    {"type": "fail", "status": 503, "retry_after": 0.2},
    {"type": "fail", "status": 529, "retry_after": 0.2},
    {"type": "delay", "seconds": 0.1},
    {"type": "slow_first_token", "seconds": 0.1},
    {"type": "stream_fault", "kind": "disconnect", "after_chunks": 0},
    {"type": "stream_fault", "kind": "disconnect", "after_chunks": 5},
    {"type": "stream_fault", "kind": "truncate", "after_chunks": 0},
    {"type": "stream_fault", "kind": "truncate", "after_chunks": 5},
    {"type": "stream_fault", "kind": "malformed", "after_chunks": 5},
    {"type": "stream_fault", "kind": "stall", "after_chunks": 5, "stall_seconds": 5},
]
# Those whose end the server knows before its client does, and that ask nobody to wait.
ENDED = [fault for fault in PASSING if fault.get("status") in (408, 500) or fault.get("kind") in CUT]


@anew_after_a_stall
async def test_after_a_fault_that_passes_the_answer_is_whole_and_comes_from_where_it_was_asked(
    server: str, tmp_path: Path
) -> None:
    async with judged(server, tmp_path) as (judge, ai):

        async def each_fault(provider: str, path: str) -> None:
            for number, fault in enumerate(PASSING):
                await judge.script(**fault, match={"path": path})
                answer = await ai.run(f"question {number}", allow_providers={provider})
                assert answer.text, fault
                assert answer.stop_reason == "stop", fault

        await asyncio.gather(*(each_fault(*where) for where in PATHS.items()))
        assert await judge.faults() == len(PATHS) * (len(PASSING) - 2)  # a delay is no fault to it
        assert await judge.findings() == []


@anew_after_a_stall
async def test_after_a_fault_the_twin_answers_at_once(server: str, tmp_path: Path) -> None:
    async with judged(server, tmp_path, "retries = 0") as (judge, ai):
        for number, fault in enumerate(ENDED):
            await judge.script(**fault)
            answer = await ai.run(f"question {number}", TWINS)
            assert answer.fallback_used, fault
            assert answer.stop_reason == "stop", fault
        assert await judge.findings() == []


@anew_after_a_stall
async def test_a_caller_is_told_of_every_stream_that_breaks_after_content(
    server: str, tmp_path: Path
) -> None:
    async with judged(server, tmp_path) as (judge, ai):
        told = 0
        for kind in ("disconnect", "truncate", "malformed", "stall"):
            await judge.script(type="stream_fault", kind=kind, after_chunks=5, stall_seconds=5)
            while True:
                try:
                    async with ai.stream(f"a {kind}", TWINS) as events:
                        async for _ in events:
                            pass
                except StreamBrokenError:
                    told += 1
                    await judge.requests()  # waits until the server has noticed
                else:
                    break
            assert events.response is not None
        assert told == 4
        assert await judge.findings() == []


@anew_after_a_stall
async def test_a_retry_after_is_waited_for_to_its_end_where_nobody_else_can_answer(
    server: str, tmp_path: Path
) -> None:
    async with judged(server, tmp_path) as (judge, ai):
        for seconds in (0.25, 0.5):
            await judge.script(type="fail", status=429, retry_after=seconds)
            assert (await ai.run(f"after {seconds} s", ALONE)).provider == "one"
        assert len(await judge.requests()) == 4
        assert await judge.findings() == []


@anew_after_a_stall
async def test_while_a_retry_after_lasts_others_answer_and_nobody_asks_there(
    server: str, tmp_path: Path
) -> None:
    async with judged(server, tmp_path) as (judge, ai):
        await judge.script(type="fail", status=429, retry_after=0.6, match={"provider": "openai"})
        for _ in range(3):
            assert (await ai.run("the same question", ELSEWHERE)).provider == "other"
        assert (await ai.run("the same question", ALONE)).provider == "one"  # which waits for its end
        at_one = [request for request in await judge.requests() if request["provider"] == "openai"]
        assert [request["status"] for request in at_one] == [429, 200]
        assert await judge.findings() == []


@anew_after_a_stall
async def test_what_no_retry_can_mend_is_never_sent_there_again(server: str, tmp_path: Path) -> None:
    async with judged(server, tmp_path) as (judge, ai):
        for status in (400, 422):
            await judge.script(type="fail", status=status)
            with pytest.raises(CallerError):
                await ai.run(f"a {status}", TWINS)
        for status, code in ((404, "model_not_found"), (401, "invalid_api_key")):
            await judge.script(type="fail", status=status, match={"provider": "openai"}, code=code)
            assert (await ai.run("the same question", ELSEWHERE)).provider == "other"
            assert (await ai.run("the same question", ELSEWHERE)).provider == "other"
        assert await judge.findings() == []


@anew_after_a_stall
async def test_an_outage_is_given_up_after_a_few_attempts_that_it_is_told_of(
    server: str, tmp_path: Path
) -> None:
    async with judged(server, tmp_path) as (judge, ai):
        await judge.script(type="fail", status=500, times=None)
        with pytest.raises(AllProvidersFailedError) as caught:
            await ai.run("is anybody there?", ELSEWHERE)
        assert len(caught.value.attempts) == len(await judge.requests()) == 4
        assert await judge.findings() == []
