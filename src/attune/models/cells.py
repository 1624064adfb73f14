"""One candidate's sums at one level, and the levels: the smallest parts of the statistics."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, TypeAlias

from attune.models.performance import DENSE, RECENT, Labels, LatencySketch, newest
from attune.models.registry import EMBEDDINGS
from attune.models.sequential import FailureWatch, highest_proven_rate

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["SUMS", "Cell", "Level", "LevelRow", "Path", "Sums", "unpack"]


class Cell:
    """One candidate at one level: the sums of the window and the buckets that they are made of.

    A bucket has sums in the order of ``Sums``, as a tuple until it is added to: tuples of numbers are shared
    between levels, and the garbage collector passes them by. ``total`` is their sum over all buckets.
    ``recent`` holds the last results as bits, newest lowest: as many as there are calls, at most
    ``RECENT``. ``labels`` has, by bucket, what is known of the answers of a key; the levels above have none.
    ``proven`` is the highest success rate in percent that the window has proven, by a test that
    was looked at after each result, or ``_UNKNOWN`` after a restore and when a day has left.
    """

    __slots__ = ("buckets", "labels", "oldest", "proven", "recent", "sketches", "tier", "total")

    def __init__(self, tier: str) -> None:
        self.tier = tier
        self.buckets: dict[int, Bucket] = {}
        self.sketches: dict[int, LatencySketch | bytes] = {}
        self.labels: dict[int, Labels] = {}
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
            self.labels.pop(index, None)
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
_pack, unpack = _ROW.pack, _ROW.unpack
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

    def row(self, label: str, first: int) -> LevelRow | None:
        """A candidate's numbers within the window, or ``None`` if it has no calls here."""
        packed = self.rows.get(label)
        if packed is None:
            return None
        row: LevelRow = unpack(packed)
        if row[4] < first:
            self.expire(label, first)
            row = unpack(self.rows[label])
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
        counted = {index: sums for index, sums in cell.buckets.items() if sums[0]}  # not cancelled alone
        newest_day = max(counted, default=0)
        for index, sums in counted.items():
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


LevelRow: TypeAlias = tuple[float, float, float, float, float]
"""Calls, successes, the sum of latencies, recent failures, and the oldest bucket."""

Path: TypeAlias = tuple[Level, ...]
