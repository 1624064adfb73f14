"""When a second attempt is started beside one that is slow to begin.

The delay is a quantile of the time to the first content, learned for each (task, model), after Dean and
Barroso, "The Tail at Scale" (2013): at the 95th percentile about one call in twenty starts a second
attempt, and only those that would have been slow gain from it.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from typing import TYPE_CHECKING

from attune.errors import ErrorClass, InvalidRequestError, UnknownNameError
from attune.models.performance import LatencySketch

if TYPE_CHECKING:
    from collections.abc import Iterable

    from attune.models.telemetry import LLMCallRecord

__all__ = ["FirstContentTimes", "parse_hedge"]

ENOUGH_ATTEMPTS = 20
"""Attempts at a (task, model) before it is hedged."""

GENERATION = 500
"""Between this many and twice as many of the newest attempts count."""

MAX_KEYS = 1000
"""How many (task, model) pairs are remembered: the least recently used goes first."""

LEARN_EVERY = 16
"""A quantile is computed anew after so many attempts."""

_QUANTILE = re.compile(r"p([7-9]\d(?:\.\d+)?)")


def parse_hedge(text: str) -> float | None:
    """The quantile of a setting from "p70" to "p99.9" (0.999), ``None`` for "off".

    Raises ``UnknownNameError`` for any other.
    """
    if not isinstance(text, str):
        raise InvalidRequestError(f'hedge is "off" or a quantile such as "p95", not {text!r}')
    setting = text.strip().lower()
    if setting == "off":
        return None
    found = _QUANTILE.fullmatch(setting)
    if found is None:
        raise UnknownNameError("hedge", text, ("off", "p90", "p95", "p99"))
    return float(found[1]) / 100


class _Times:
    """The newest first content times of one key, in two generations of which the older is dropped."""

    __slots__ = ("known", "newer", "older", "since")

    def __init__(self) -> None:
        self.older = LatencySketch()
        self.newer = LatencySketch()
        self.since = 0
        self.known: dict[float, float] = {}

    def add(self, ms: float) -> None:
        self.newer.add(ms)
        self.since += 1
        if self.since % LEARN_EVERY == 0 or self.since == GENERATION:
            self.known.clear()
        if self.since == GENERATION:
            self.older, self.newer, self.since = self.newer, LatencySketch(), 0

    def quantile(self, q: float) -> float | None:
        found = self.known.get(q)
        if found is None:
            both = LatencySketch()
            both.merge(self.older)
            both.merge(self.newer)
            if both.count < ENOUGH_ATTEMPTS:
                return None
            found = self.known[q] = both.quantile(q) or 0.0
        return found


class FirstContentTimes:
    """How long each (task, model) takes until its first content, of the last 500 to 1,000 attempts."""

    def __init__(self) -> None:
        self._times: OrderedDict[tuple[str, str], _Times] = OrderedDict()

    def learn(self, task: str, label: str, ms: float) -> None:
        """Take in an attempt: the milliseconds to its first content. For one that was cancelled because
        another was faster, what it had waited: without those the slow ones would be forgotten.
        """
        key = task, label
        times = self._times.get(key)
        if times is None:
            times = self._times[key] = _Times()
            if len(self._times) > MAX_KEYS:
                self._times.popitem(last=False)
        else:
            self._times.move_to_end(key)
        times.add(ms)

    def learn_records(self, records: Iterable[LLMCallRecord]) -> None:
        """Take in attempts of the ledger, oldest first, also those that were overtaken: cancelled, while a
        later attempt of the same call was a success.
        """
        kept = list(records)
        winners = {record.call_id: record.position for record in kept if record.success}
        for record in kept:
            overtaken = (
                record.error_class == ErrorClass.CANCELLED
                and winners.get(record.call_id, 0) > record.position
            )
            ms = record.latency_ms if overtaken else record.ttft_ms
            if ms is not None:
                self.learn_attempt(record, ms)

    def learn_attempt(self, record: LLMCallRecord, ms: float) -> None:
        """``learn``, of what was recorded."""
        self.learn(record.task_type, f"{record.provider}/{record.model_id}", ms)

    def quantile_s(self, task: str, label: str, q: float) -> float | None:
        """The seconds within which a share ``q`` of the attempts gave content; ``None`` when too few did."""
        times = self._times.get((task, label))
        ms = None if times is None else times.quantile(q)
        return None if ms is None else ms / 1000
