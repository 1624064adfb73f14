"""Load on a server of ``gateway.py``: wrk for requests, a client that reads every event for paced streams."""

from __future__ import annotations

import asyncio
import json
import shutil
import statistics
import subprocess
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, NamedTuple

import _gateway_bodies
import aiohttp

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SECONDS_TO_ANSWER = 30

_SCRIPT = """
wrk.method = "POST"
wrk.body = {body}
{headers}
done = function(summary, latency, requests)
    local errors = summary.errors
    io.write(string.format(
        '\\nfigures {{"completed": %d, "seconds": %.6f, "p50_ms": %.4f, "p99_ms": %.4f, "failed": %d}}\\n',
        summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
        errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
"""


class Asked(NamedTuple):
    """A request that is made again and again, and a text that its answer must hold. ``paced``: the answer
    comes piece by piece.
    """

    url: str
    body: str
    headers: Mapping[str, str]
    answer: str
    paced: bool = False


class Load(NamedTuple):
    """What wrk saw: calls answered, seconds, and the percentiles of a call in milliseconds."""

    completed: int
    seconds: float
    p50_ms: float
    p99_ms: float

    @property
    def per_second(self) -> float:
        """Calls answered a second. One is taken to be, where a slow server has answered none in time."""
        return max(1, self.completed) / self.seconds


class Streams(NamedTuple):
    """What became of paced streams: how many, and the median time of one in milliseconds."""

    completed: int
    p50_ms: float


def check(of: str, asked: Asked) -> None:
    """Ask once. Raises ``RuntimeError`` unless the answer is 200 and the right one."""
    request = urllib.request.Request(asked.url, asked.body.encode(), dict(asked.headers))
    try:
        with urllib.request.urlopen(request, timeout=SECONDS_TO_ANSWER) as answer:
            text = answer.read().decode()
    except OSError as error:
        told = error.read(300).decode("utf-8", "replace") if isinstance(error, urllib.error.HTTPError) else ""
        raise RuntimeError(f"{of} does not answer: {error} {told}") from None
    if asked.answer not in text:
        raise RuntimeError(f"{of} answers something else: {text[:300]}")


def wrk() -> str:
    """The program. Raises ``RuntimeError`` where there is none."""
    found = shutil.which("wrk")
    if found is None:
        raise RuntimeError("wrk is not on the PATH; on Debian: apt-get install wrk")
    return found


def load(asked: Asked, connections: int, seconds: int, folder: Path) -> Load:
    """Ask over so many connections, each one call after the other. Raises ``RuntimeError`` if one failed."""
    script = folder / "load.lua"
    script.touch(mode=0o600)  # it holds the key
    headers = "\n".join(
        f"wrk.headers[{json.dumps(name)}] = {json.dumps(value)}" for name, value in asked.headers.items()
    )
    script.write_text(_SCRIPT.format(body=json.dumps(asked.body), headers=headers))
    argv = [
        wrk(),
        "-t1",
        f"-c{connections}",
        f"-d{seconds}s",
        "--timeout",
        "30s",
        "-s",
        str(script),
        asked.url,
    ]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=seconds + 60, check=False)
    figures = [line for line in done.stdout.splitlines() if line.startswith("figures ")]
    if not figures:
        raise RuntimeError(f"wrk failed: {(done.stderr.strip() or 'no output').splitlines()[-1]}")
    found = json.loads(figures[0].removeprefix("figures "))
    if found.pop("failed"):
        raise RuntimeError(f"calls of {asked.url} failed: {done.stdout.strip()}")
    return Load(**found)


def streams(asked: Asked, at_once: int, each: int) -> Streams:
    """Read paced streams to their end, ``each`` by every one of ``at_once`` callers.

    Raises ``RuntimeError`` for one that is not whole.
    """
    return asyncio.run(_streams(asked, at_once, each))


async def _streams(asked: Asked, at_once: int, each: int) -> Streams:
    taken: list[float] = []
    limit = aiohttp.ClientTimeout(total=SECONDS_TO_ANSWER)
    async with aiohttp.ClientSession(timeout=limit) as session:

        async def caller() -> None:
            for _ in range(each):
                began = time.perf_counter()
                async with session.post(asked.url, data=asked.body, headers=dict(asked.headers)) as answer:
                    lines = [line async for line in answer.content if line.startswith(b"data: ")]
                taken.append((time.perf_counter() - began) * 1e3)
                if answer.status != 200 or len(lines) < _gateway_bodies.EVENTS or b"[DONE]" not in lines[-1]:
                    raise RuntimeError(f"a stream of {asked.url} is not whole: {lines[-1:]}")

        await asyncio.gather(*(caller() for _ in range(at_once)))
    return Streams(len(taken), statistics.median(taken))
