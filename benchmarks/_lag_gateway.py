"""Worker of ``gateway_lag.py``: the gateway with a probe in its event loop. Argument: the configuration.

A line on standard input ends a stretch: its figures come back as one line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
from pathlib import Path
from time import perf_counter, process_time

from attune.config import load
from attune.gateway.log import log_to_stderr
from attune.gateway.server import listen, serve
from attune.runtime import build

EVERY_S = 0.001

lags: list[float] = []
own: list[float] = []


async def probe() -> None:
    """Note by how many milliseconds the loop is late, and how much of that this process was computing: on a
    busy machine the rest is other programs' doing.
    """
    while True:
        began, used = perf_counter(), process_time()
        await asyncio.sleep(EVERY_S)
        lag, used = perf_counter() - began - EVERY_S, process_time() - used
        lags.append(lag * 1000)
        own.append(min(lag, used) * 1000)


def resident_mib() -> float:
    """The memory that the process has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def report() -> None:
    """Write the figures since the last line, and begin a new stretch."""
    sys.stdin.readline()
    of_lag, of_own = quantiles(lags), quantiles(own)
    lags.clear()
    own.clear()
    print(json.dumps({"lag": of_lag, "own": of_own, "mib": resident_mib()}), flush=True)


def quantiles(values: list[float]) -> dict[str, float]:
    """The usual ones, and how many there are."""
    found = sorted(values) or [0.0]
    wanted = (("p50", 0.5), ("p99", 0.99), ("p999", 0.999), ("max", 1.0))
    return {name: found[min(len(found) - 1, int(len(found) * q))] for name, q in wanted} | {"n": len(values)}


async def main(path: str) -> None:
    """Serve until the end of standard input."""
    loop = asyncio.get_running_loop()
    log_to_stderr()
    config = load(path)
    listening = listen("127.0.0.1", 0)
    tasks = [loop.create_task(probe())]
    loop.add_reader(sys.stdin, report)
    runtime = build(config)
    await serve(runtime, listening, on_ready=lambda: print(listening.getsockname()[1], flush=True))
    for task in tasks:
        task.cancel()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
