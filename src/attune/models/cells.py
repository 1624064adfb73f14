"""One candidate's sums at one level, and what they say: the smallest parts of the statistics."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, TypeAlias

from attune.models.performance import (
    DENSE,
    PRIOR_LATENCY_MS,
    PRIOR_SUCCESS_RATE,
    PRIOR_WEIGHT,
    RECENT,
    LatencySketch,
    newest,
)
from attune.models.registry import EMBEDDINGS
from attune.models.sequential import FailureWatch, highest_proven_rate

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["NOTHING_KNOWN", "NOT_MEASURED", "SUMS", "Cell", "Level", "Path", "Row", "Sums", "estimate"]


class Cell:
    """One candidate at one level: the sums of the window and the buckets that they are made of.

    A bucket has sums in the order of ``Sums``, as a tuple until it is added to: tuples of numbers are shared
    between levels, and the garbage collector passes them by. ``total`` is their sum over all buckets.
    ``recent`` holds the last results as bits, newest lowest: as many as there are calls, at most
    ``RECENT``. ``proven`` is the highest success rate in percent that the window has proven, by a test that
    was looked at after each result, or ``_UNKNOWN`` after a restore and when a day has left.
    """

    __slots__ = ("buckets", "oldest", "proven", "recent", "sketches", "tier", "total")

    def __init__(self, tier: str) -> None:
        self.tier = tier
        self.buckets: dict[int, Bucket] = {}
        self.sketches: dict[int, LatencySketch | bytes] = {}
        self.total: list[float] = [0] * SUMS
        self.oldest = _NEVER
        self.proven = 0
        self.recent = 0

    def add(self, index: int, sums: Sums) -> None:
        """Add sums to a bucket and to the window."""
        self.add_to_bucket(index, sums)
        _add_sums(self.total, sums)

    def add_to_bucket(self, index: int, sums: Bucket) -> None:
        """Add sums to a bucket; ``sum_up`` has to follow."""
        if index in self.buckets:
            _add_sums(self.changeable(index), sums)
        else:
            self.buckets[index] = sums
            if index < self.oldest:  # noqa: PLR1730  (a call of min takes longer, and this is hot)
                self.oldest = index

    def changeable(self, index: int) -> list[float]:
        """A bucket that there is, as a list of its own: what was added first may be shared with others."""
        bucket = self.buckets[index]
        if not isinstance(bucket, list):
            bucket = self.buckets[index] = list(bucket)
        return bucket

    def absorb(self, inner: Cell) -> None:
        """Add another cell's buckets and sums."""
        if self.buckets:
            for index, sums in inner.buckets.items():
                self.add_to_bucket(index, tuple(sums))
        else:
            self.buckets = {index: tuple(sums) for index, sums in inner.buckets.items()}
            self.oldest = inner.oldest
        _add_sums(self.total, inner.total)
        self.proven = _UNKNOWN

    def sum_up(self) -> None:
        """Make the window's sums from the buckets."""
        self.total = [sum(sums) for sums in zip(*self.buckets.values(), strict=True)] or [0] * SUMS
        self.proven = _UNKNOWN

    def proven_rate(self) -> int:
        """The highest success rate, in percent, that at least ``DENSE`` results have proven, else 0."""
        if self.proven == _UNKNOWN:
            self.proven = 0
            self.prove()
        return self.proven

    def prove(self) -> None:
        """Look at what is proven after a result was taken in; ``proven_rate`` must have been before it."""
        if self.total[0] >= DENSE:
            self.proven = highest_proven_rate(self.total[1], self.total[0] - self.total[1], self.proven)

    def packed(self) -> bytes:
        """The numbers that a decision needs, side by side in memory."""
        calls, successes, latency_sum = self.total[:3]
        return _pack(calls, successes, latency_sum, self.recent.bit_count(), self.oldest)

    def expire(self, first: int) -> None:
        """Forget the buckets before ``first``, and the results that were theirs."""
        for index in [i for i in self.buckets if i < first]:
            del self.buckets[index]
            self.sketches.pop(index, None)
        self.sum_up()
        self.oldest = min(self.buckets, default=_NEVER)
        self.recent = newest(self.recent, self.total[0])

    def sketch(self, index: int) -> LatencySketch:
        """The latencies of a bucket, decoded at their first use after a restore."""
        found = self.sketches.get(index)
        if not isinstance(found, LatencySketch):
            found = LatencySketch() if found is None else LatencySketch.from_bytes(found)
            self.sketches[index] = found
        return found


def _add_sums(to: list[float], sums: Sequence[float]) -> None:
    """Unrolled, because this is what ``observe`` and ``restore`` spend their time on."""
    calls, successes, latency, cost, cost_count, tokens_in, tokens_out, usage_count = sums
    to[0] += calls
    to[1] += successes
    to[2] += latency
    to[3] += cost
    to[4] += cost_count
    to[5] += tokens_in
    to[6] += tokens_out
    to[7] += usage_count


_NEVER = 1 << 50
_UNKNOWN = -1
_ROW = struct.Struct("5d")
_pack, _unpack = _ROW.pack, _ROW.unpack
Sums: TypeAlias = tuple[float, ...]
Bucket: TypeAlias = "Sums | list[float]"
SUMS = 8  # calls, successes, latency ms, cost nanos, cost count, input tokens, output tokens, usage count


class Level:
    """One workflow, stage or task (or all of them): its candidates' cells by label, and the sums
    of everyone's calls.

    ``same_as_inner`` says that there was never more than one level inside, whose sums are then these.
    ``rows`` repeats what a decision needs of each cell, packed: with thousands of keys a decision's
    time is that of fetching memory, and ten packed rows are a tenth of the cache lines of ten cells.
    ``watches`` hold the test of each tier; only keys and stages have them.
    """

    __slots__ = ("cells", "children", "everyone", "rows", "same_as_inner", "watches")

    def __init__(self) -> None:
        self.cells: dict[str, Cell] = {}
        self.rows: dict[str, bytes] = {}
        self.everyone: Cell | None = None
        self.watches: dict[str, FailureWatch] = {}
        self.children = 0
        self.same_as_inner = True

    def absorb(self, inner: Level) -> None:
        """Add the cells of a level inside this one; ``pack`` has to follow."""
        for label, cell in inner.cells.items():
            self.cells[label].absorb(cell)

    def pack(self) -> None:
        """Make the packed rows anew."""
        self.rows = {label: cell.packed() for label, cell in self.cells.items()}
        self.everyone = None

    def everyone_calls(self) -> Cell:
        """The sums over all candidates of a tier, made when they are first asked for."""
        if self.everyone is None:
            self.everyone = Cell("")
            for cell in self.cells.values():
                if cell.tier == EMBEDDINGS:
                    continue  # whose size says nothing of a conversation's
                for index, sums in cell.buckets.items():
                    self.everyone.add(index, tuple(sums))
        return self.everyone

    def row(self, label: str, first: int) -> _LevelRow | None:
        """A candidate's numbers within the window, or ``None`` if it has no calls here."""
        packed = self.rows.get(label)
        if packed is None:
            return None
        row: _LevelRow = _unpack(packed)
        if row[4] < first:
            self.expire(label, first)
            row = _unpack(self.rows[label])
        return row if row[0] else None

    def expire(self, label: str, first: int) -> None:
        """Forget a candidate's buckets before ``first``."""
        cell = self.cells[label]
        cell.expire(first)
        self.rows[label] = cell.packed()

    def watch(self, tier: str, first: int) -> FailureWatch:
        """The test of a tier's failures, a new one where nothing was seen within the window.

        After a restore it is made from the buckets: results are taken for evenly spread within a day, but for
        the last ones of each candidate. What was found before is thus found again, if not at the same call.
        """
        watch = self.watches.get(tier)
        if watch is None:
            watch = self.watches[tier] = _watched([cell for cell in self.cells.values() if cell.tier == tier])
        return watch if watch.last >= first else FailureWatch()

    def look(self, label: str, tier: str, index: int, first: int, *, failed: bool) -> None:
        """Let a result be looked at that is about to be added to the cell; ``Cell.prove`` has to follow."""
        cell = self.cells.get(label)
        if cell is not None:
            tier = cell.tier
            if cell.oldest < first:
                self.expire(label, first)
            cell.proven_rate()
        watch = self.watches[tier] = self.watch(tier, first)
        watch.last = max(watch.last, index)
        watch.observe(failed=failed)

    def look_again(self, cell: Cell, *, failed: bool) -> None:
        """Let an earlier result of a cell be looked at that has turned out otherwise."""
        cell.prove()
        if cell.tier in self.watches:
            self.watches[cell.tier].correct(failed=failed)


def _watched(cells: Sequence[Cell]) -> FailureWatch:
    """The test that has seen what cells hold, of which only the last results are known one by one."""
    watch = FailureWatch()
    days: dict[int, tuple[float, float]] = {}
    last: list[tuple[int, Cell, int]] = []
    for cell in cells:
        newest_day = max(cell.buckets, default=0)
        for index, sums in cell.buckets.items():
            calls, failures = sums[0], sums[0] - sums[1]
            if index == newest_day:
                known = min(RECENT, int(calls))
                last.append((index, cell, known))
                calls -= known
                failures -= newest(cell.recent, known).bit_count()
            before = days.get(index, (0.0, 0.0))
            days[index] = (before[0] + calls, before[1] + max(failures, 0.0))
    for index in sorted(days):
        watch.observe_many(int(days[index][0]), int(days[index][1]))
        watch.last = index
    for _, cell, known in sorted(last, key=lambda each: each[0]):
        for place in reversed(range(known)):
            watch.observe(failed=bool(cell.recent >> place & 1))
    return watch


_LevelRow: TypeAlias = tuple[float, float, float, float, float]
"""Calls, successes, the sum of latencies, recent failures, and the oldest bucket."""

Row: TypeAlias = tuple[float, float, float, float, float, float, float, float, float]
"""What telemetry says of a candidate at a key, sparse cells having borrowed from their parents: success rate
(0..1), latency in ms, how much of both is known (0..1, the rest is the prior's), the key's own calls and
successes, recent failures; then plain means, of the key or else of its parent: the measured success rate, the
calls that it is of, and the measured latency in ms. Where neither has ``PRIOR_WEIGHT`` calls (successful ones
for the latency) the mean is ``NOT_MEASURED``. A plain tuple, because every decision makes ten.
"""

NOT_MEASURED = -1.0
_FADING = PRIOR_WEIGHT / DENSE

Path: TypeAlias = tuple[Level, ...]

NOTHING_KNOWN: Row = (PRIOR_SUCCESS_RATE, PRIOR_LATENCY_MS, 0, 0, 0, 0, NOT_MEASURED, 0, NOT_MEASURED)
_NO_CALLS: _LevelRow = (0.0, 0.0, 0.0, 0.0, 0.0)


def estimate(levels: Path, label: str, first: int) -> Row:
    """What the window knows of a candidate at a key.

    The success rate p of a level with n calls is drawn to that of its siblings, which are its
    parent's other calls, by a weight w that fades out, w = 10 (1 - n / 30) and 0 from ``DENSE``
    calls on::

        p = (successes + w p_siblings) / (n + w)

    Theirs is drawn to that of the grandparent's other calls and so on; above all stands the prior.
    No call counts twice. The mean latency likewise, by successful calls. To the level's own recent
    failures come those of its siblings, in proportion to what it lacks to ``RECENT`` calls.
    ``levels`` are those of a key, the most specific first; buckets before ``first`` are left out.
    """
    packed = levels[0].rows.get(label)
    if packed is not None:
        calls, successes, latency_sum, lately, oldest = _unpack(packed)
        if oldest >= first:
            if successes >= DENSE:
                rate, latency = successes / calls, latency_sum / successes
                return rate, latency, 1.0, calls, successes, lately, rate, calls, latency
            of_stage = len(levels) == 3
            if 0 < calls < RECENT and (of_stage or levels[1].same_as_inner):
                wide = _unpack(levels[-2].rows[label])
                if wide[4] >= first and wide[1] - successes >= DENSE:
                    outer = wide if of_stage else _NO_CALLS
                    return _drawn_once(calls, successes, latency_sum, lately, wide, outer)
    return _borrowed(levels, label, first)


def _drawn_once(
    calls: float, won: float, latency_sum: float, failed: float, wide: _LevelRow, outer: _LevelRow
) -> Row:
    """``_borrowed`` of the usual case, in a third of its time: few calls of a stage, or of the only task of
    one, in a workflow that has many. ``outer`` is what may be measured instead of the key itself.
    """
    others, others_won = wide[0] - calls, wide[1] - won
    weight = PRIOR_WEIGHT - calls * _FADING
    latency_weight = PRIOR_WEIGHT - won * _FADING
    if calls >= PRIOR_WEIGHT:
        measured, measured_calls = won / calls, calls
    elif outer[0]:
        measured, measured_calls = outer[1] / outer[0], outer[0]
    else:
        measured, measured_calls = NOT_MEASURED, 0.0
    if won >= PRIOR_WEIGHT:
        measured_latency = latency_sum / won
    else:
        measured_latency = outer[2] / outer[1] if outer[1] else NOT_MEASURED
    return (
        (won + weight * others_won / others) / (calls + weight),
        (latency_sum + latency_weight * (wide[2] - latency_sum) / others_won) / (won + latency_weight),
        1.0,
        calls,
        won,
        failed + (wide[3] if wide[3] < others - others_won else others - others_won) * (1 - calls / RECENT),
        measured,
        measured_calls,
        measured_latency,
    )


def _borrowed(levels: Path, label: str, first: int) -> Row:
    """``estimate`` of a key with few calls of its own, or none. A hot path: the way out to the first
    siblings with many calls, where it mostly ends at once, and the way back in.
    """
    inner: list[_LevelRow] = []
    own = total = _NO_CALLS
    own_place = place = -1
    rate, latency, known, lately = PRIOR_SUCCESS_RATE, PRIOR_LATENCY_MS, 0.0, 0.0
    outer = _NO_CALLS
    for level in levels:
        place += 1
        packed = level.rows.get(label)
        if packed is None:
            continue
        row = _unpack(packed)
        if row[4] < first:
            level.expire(label, first)
            row = _unpack(level.rows[label])
        calls = row[0]
        if not calls:
            continue
        if own_place < 0:
            own, own_place = row, place
        if place < 2:
            outer = row
        others = calls - total[0]
        if others:
            won = row[1] - total[1]
            if won >= DENSE:
                rate, latency, known = won / others, (row[2] - total[2]) / won, 1.0
                lately = min(row[3], others - won)
                break
            inner.append((others, won, row[2] - total[2], min(row[3], others - won), 0.0))
        total = row
    if own_place < 0:
        return NOTHING_KNOWN
    for calls, won, latency_sum, failed, _ in reversed(inner):
        weight = PRIOR_WEIGHT - calls * _FADING if calls < DENSE else 0.0
        rate = (won + weight * rate) / (calls + weight)
        known = (calls + weight * known) / (calls + weight)
        weight = PRIOR_WEIGHT - won * _FADING
        latency = (latency_sum + weight * latency) / (won + weight)
        lately = failed + lately * (1 - calls / RECENT) if calls < RECENT else failed
    own_calls, own_successes = own[:2] if own_place == 0 else (0.0, 0.0)
    measured = measured_latency = NOT_MEASURED
    measured_calls = 0.0
    if own_place < 2:
        rated = own if own[0] >= PRIOR_WEIGHT else outer
        if rated[0] >= PRIOR_WEIGHT:
            measured, measured_calls = rated[1] / rated[0], rated[0]
        timed = own if own[1] >= PRIOR_WEIGHT else outer
        if timed[1] >= PRIOR_WEIGHT:
            measured_latency = timed[2] / timed[1]
    return (
        rate,
        latency,
        known,
        own_calls,
        own_successes,
        lately,
        measured,
        measured_calls,
        measured_latency,
    )
