"""The rounds of ``gateway.py``: starts, load in turns, the soak, and whether the ledger agrees."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, NamedTuple

import _gateway_load

from attune.stores.sqlite import SqliteStore

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from _gateway_load import Asked
    from _gateway_process import ServerProcess
    from _gateway_servers import Gateway

STARTS = 3
SECONDS_ALONE, SECONDS_TOGETHER = 2, 3
"""Of a round at one connection, and of one at ``AT_ONCE``: wrk counts in whole seconds."""

AT_ONCE = 32
STREAMS_AT_ONCE, STREAMS_EACH = 8, 10
SOAK_STEPS = (1_000, 10_000, 100_000)
SOAK_LIMIT_SECONDS = 180


class Row(NamedTuple):
    """A case that is ready to be measured; ``server`` is ``None`` where it is the upstream itself."""

    of: str
    case: str
    asked: Asked
    server: ServerProcess | None

    def check(self) -> None:
        """Ask once. Raises ``RuntimeError`` unless the answer is the right one."""
        _gateway_load.check(self.of, self.asked)

    def measure(self, folder: Path) -> Mapping[str, float]:
        """The figures of one round; ``broken_off`` are the most calls that were begun and not read."""
        if self.asked.paced:
            began = self._cpu_ms()
            streams = _gateway_load.streams(self.asked, STREAMS_AT_ONCE, STREAMS_EACH)
            cpu_ms = (self._cpu_ms() - began) / streams.completed
            return {"p50_ms": streams.p50_ms, "cpu_ms": cpu_ms, "completed": streams.completed}
        alone = _gateway_load.load(self.asked, 1, SECONDS_ALONE, folder)
        began = self._cpu_ms()
        together = _gateway_load.load(self.asked, AT_ONCE, SECONDS_TOGETHER, folder)
        return {
            "p50_ms": alone.p50_ms,
            "p99_ms": alone.p99_ms,
            "per_second": together.per_second,
            "cpu_ms": (self._cpu_ms() - began) / max(1, together.completed),
            "completed": alone.completed + together.completed,
            "broken_off": 1 + AT_ONCE,
        }

    def _cpu_ms(self) -> float:
        return 0.0 if self.server is None else self.server.cpu_seconds() * 1e3


def starts(gateways: Sequence[Gateway]) -> dict[str, list[float]]:
    """The seconds from the start of each until it was ready, in turns; without a peer that does not start."""
    taken: dict[str, list[float]] = {gateway.of: [] for gateway in gateways}
    for _ in range(STARTS):
        for gateway in gateways:
            if gateway.of not in taken:
                continue
            try:
                with gateway.start() as server:
                    taken[gateway.of].append(server.seconds_to_ready)
            except RuntimeError as error:
                if not gateway.is_peer:
                    raise
                del taken[gateway.of]
                print(f"left out: {error}", file=sys.stderr)
    return taken


def in_turns(rows: Sequence[Row], rounds: int, folder: Path) -> list[list[Mapping[str, float]]]:
    """The figures of every round of every row. The first round warms up; it comes beside the others."""
    taken: list[list[Mapping[str, float]]] = [[] for _ in rows]
    for number in range(rounds + 1):
        for row, figures in zip(rows, taken, strict=True):
            figures.append(row.measure(folder))
        print(f"round {number} of {rounds} is done", file=sys.stderr)
    return taken


def soak(gateway: Gateway, case: str, folder: Path) -> list[dict[str, float]]:
    """Resident memory at the start and after each of ``SOAK_STEPS`` requests, or a little more.

    Without the last ones if they take longer than ``SOAK_LIMIT_SECONDS``.
    """
    with gateway.start() as server:
        asked = gateway.asked(server.address)[case]
        found = [{"requests": 0.0, "resident_mb": server.resident_mb()}]
        end = time.monotonic() + SOAK_LIMIT_SECONDS
        answered = broken_off = 0
        for step in SOAK_STEPS:
            while answered < step and time.monotonic() < end:
                connections = 1 if step == SOAK_STEPS[0] else AT_ONCE
                answered += _gateway_load.load(asked, connections, 1, folder).completed
                broken_off += connections
            found.append({"requests": answered, "resident_mb": server.resident_mb()})
    agree(gateway, answered, broken_off)
    return found


def agree(gateway: Gateway, answered: int, broken_off: int) -> dict[str, int]:
    """How attune's ledger counts. Raises ``RuntimeError`` unless it holds every call that was answered, and
    no other but those that were broken off.
    """
    totals = SqliteStore.open_readonly(gateway.home / "attune" / "data" / "ledger.db").totals()
    if not answered <= totals.calls <= answered + broken_off:
        raise RuntimeError(
            f"the ledger holds {totals.calls:,} calls; {answered:,} were answered, {broken_off:,} broken off"
        )
    return {"answered": answered, "in_ledger": totals.calls, "broken_off_at_most": broken_off}
