"""The telemetry that decisions are made from: windowed, mergeable statistics.

Telemetry is kept per (workflow, stage, task, candidate) in buckets of time; a window of N days is
the sum of its buckets. Every parent level (stage, workflow, all) is summed as well, so that a
sparse cell can borrow from it. Both ``PerformanceStats.observe`` and a look-up take the same time
however much telemetry there is, and at most ``max_cells`` cells are kept.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from attune.errors import ErrorClass, InvalidRequestError
from attune.models.borrowing import estimate
from attune.models.cells import SUMS, Cell, Level
from attune.models.performance import (
    BUCKET_SECONDS,
    RECENT,
    Labels,
    LatencySketch,
    ModelPerformance,
    counts,
    join_recent,
    label_change,
    newest,
    timed_out,
)
from attune.models.registry import EMBEDDINGS
from attune.models.tasks import normalize_task
from attune.models.telemetry import NANOS_PER_USD

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from attune.models.cells import Path, Sums
    from attune.models.state import RollupRow
    from attune.models.telemetry import LLMCallRecord, Outcome

__all__ = ["DEFAULT_WINDOW_DAYS", "CellWindow", "PerformanceStats", "TierResults"]

DEFAULT_WINDOW_DAYS = 7
MAX_CELLS = 10_000


_Key: TypeAlias = tuple[str, str, str]


class TierResults(NamedTuple):
    """Calls and failures of one tier at a key."""

    calls: float
    failures: float


class PerformanceStats:
    """The statistics of one window, by (workflow, stage, task) and candidate ("provider/model").

    ``observe`` and ``restore`` feed it; everything else is a query. Not thread-safe: one event loop
    or thread owns it. At most ``max_cells`` cells of (workflow, stage, task, candidate) are kept, the
    least recently observed keys go first.
    """

    def __init__(self, *, window_days: int = DEFAULT_WINDOW_DAYS, max_cells: int = MAX_CELLS) -> None:
        if window_days < 1:
            raise InvalidRequestError(f"window_days must be at least 1, not {window_days!r}")
        self.window_days = window_days
        self.max_cells = max_cells
        self._all = Level()
        self._workflows: dict[str, Level] = {}
        self._stages: dict[tuple[str, str], Level] = {}
        self._paths: OrderedDict[_Key, Path] = OrderedDict()
        self._cells = 0

    def first_bucket(self, now: float) -> int:
        """The oldest bucket that the window still holds at ``now`` (UTC epoch seconds)."""
        return int(now // BUCKET_SECONDS) - self.window_days

    # -- feeding ---------------------------------------------------------------------------------

    def observe(self, record: LLMCallRecord) -> None:
        """Count one attempt, of a cancelled one only the time that it took (see ``timed_out``). Others that
        say nothing of the candidate change nothing.
        """
        if not counts(record):
            if record.error_class == ErrorClass.CANCELLED:
                self._observe_time(record)
            return
        index = int(record.at // BUCKET_SECONDS)
        success = record.success
        timed = success or timed_out(record)
        usage = record.usage
        cost = record.cost_nanos
        sums: Sums = (
            1,
            success,
            record.latency_ms if timed else 0.0,
            cost or 0,
            cost is not None,
            0 if usage is None else usage.input_tokens,
            0 if usage is None else usage.output_tokens,
            usage is not None,
        )
        label = f"{record.provider}/{record.model_id}"
        path = self._path((record.workflow, record.stage, record.task_type))
        watched = _watched_of(path, record.task_type)
        for level in watched:
            level.look(label, record.tier, index, index - self.window_days, failed=not success)
        self._add(path, label, record.tier, index, sums, recent=not success, recent_count=1)
        for level in watched:
            level.cells[label].prove()
        if timed:
            path[0].cells[label].sketch(index).add(record.latency_ms)
        self._evict()

    def _observe_time(self, record: LLMCallRecord) -> None:
        path = self._path((record.workflow, record.stage, record.task_type))
        label, index = f"{record.provider}/{record.model_id}", int(record.at // BUCKET_SECONDS)
        time_alone: Sums = (0, 0, record.latency_ms, 0, 0, 0, 0, 0)
        self._add(path, label, record.tier, index, time_alone, recent=0, recent_count=0)
        self._evict()

    def correct(self, record: LLMCallRecord, *, previous: Outcome | None, outcome: Outcome) -> None:
        """Take in what became known of the answer of an attempt that ``observe`` had counted.

        ``previous`` is what an earlier outcome of the same attempt had said, or ``None``. An attempt
        whose transport failed stays a failure, and has no answer to label. Both its success and its label
        count in the bucket of the attempt, whenever they became known. Of the last 20 results, the newest
        that differs is taken for the one that changed.
        """
        path = self._paths.get((record.workflow, record.stage, normalize_task(record.task_type)))
        if path is None or not record.success:
            return
        index = int(record.at // BUCKET_SECONDS)
        label = f"{record.provider}/{record.model_id}"
        leaf = path[0].cells.get(label)
        if leaf is not None and index in leaf.buckets:
            leaf.labels[index] = leaf.labels.get(index, Labels()).plus(label_change(previous, outcome))
        if (previous is None or previous.success) != outcome.success:
            self._turn(record, path, label, index, success=outcome.success)

    def _turn(self, record: LLMCallRecord, path: Path, label: str, index: int, *, success: bool) -> None:
        """Make a success a failure, or the other way round, at every level of a key."""
        change = 1 if success else -1
        watched = _watched_of(path, record.task_type)
        for level in path:
            cell = level.cells.get(label)
            bucket = None if cell is None else cell.buckets.get(index)
            if cell is None or bucket is None or not 0 <= bucket[1] + change <= bucket[0]:
                continue  # the attempt is no longer in it: it was evicted in between
            if level in watched:
                cell.proven_rate()
            for each in (cell.changeable(index), cell.total):
                each[1] += change
                each[2] += change * record.latency_ms
            if level in watched:
                level.look_again(cell, failed=not success)
            cell.recent = _flip_newest(cell.recent, min(RECENT, int(cell.total[0])), failed=not success)
            level.rows[label] = cell.packed()

    def restore(self, rows: Iterable[RollupRow]) -> None:
        """Take in roll-ups, oldest bucket first, as if their attempts had been observed.

        Raises ``InvalidRequestError`` unless nothing was observed yet. Start-up waits for this: a row
        touches the buckets of its own key only, the levels above are summed once at the end.
        """
        if self._paths:
            raise InvalidRequestError("roll-ups are restored before anything is observed")
        known: dict[tuple[str, ...], list[Cell]] = {}
        for row in rows:
            name, tier, index, (bins, recent, count) = row[1:6], row[6], row[0], row[15:18]
            cells = known.get(name)
            if cells is None:
                path, label = self._path(row[1:4]), f"{row[4]}/{row[5]}"
                cells = known[name] = [
                    level.cells.get(label) or self._new_cell(level, label, tier, path) for level in path
                ]
            for cell in cells:
                cell.recent = join_recent(cell.recent, recent, count)
            leaf = cells[0]
            leaf.add_to_bucket(index, row[7:15])
            if row.labelled or row.judged:
                leaf.labels[index] = leaf.labels.get(index, Labels()).plus(Labels(*row[18:22]))
            if index in leaf.sketches:
                leaf.sketch(index).merge(LatencySketch.from_bytes(bins))
            else:
                leaf.sketches[index] = bins
        self._sum_up()
        self._evict()

    def _sum_up(self) -> None:
        """Make every level's sums from the buckets of the keys."""
        stages = dict.fromkeys(path[1:3] for path in self._paths.values())
        for leaf, stage, _, _ in self._paths.values():
            for cell in leaf.cells.values():
                cell.sum_up()
            leaf.pack()
            stage.absorb(leaf)
        for stage, workflow in stages:
            stage.pack()
            workflow.absorb(stage)
        for workflow in self._workflows.values():
            workflow.pack()
            self._all.absorb(workflow)
        self._all.pack()

    def _add(
        self, path: Path, label: str, tier: str, index: int, sums: Sums, recent: int, recent_count: int
    ) -> None:
        for level in path:
            cell = level.cells.get(label) or self._new_cell(level, label, tier, path)
            cell.add(index, sums)
            cell.recent = join_recent(cell.recent, recent, recent_count)
            level.rows[label] = cell.packed()
            if level.everyone is not None and tier != EMBEDDINGS:
                level.everyone.add(index, sums)

    def _new_cell(self, level: Level, label: str, tier: str, path: Path) -> Cell:
        cell = level.cells[label] = Cell(tier)
        self._cells += level is path[0]
        return cell

    def _path(self, key: _Key) -> Path:
        if key not in self._paths:
            key = (key[0], key[1], normalize_task(key[2]))
        path = self._paths.get(key)
        if path is not None:
            self._paths.move_to_end(key)
            return path
        workflow, stage, _ = key
        workflow_level = self._workflows.setdefault(workflow, Level())
        stage_level = self._stages.setdefault((workflow, stage), Level())
        workflow_level.children += 1
        stage_level.children += 1
        stage_level.same_as_inner = stage_level.same_as_inner and stage_level.children == 1
        path = self._paths[key] = (Level(), stage_level, workflow_level, self._all)
        return path

    def _evict(self) -> None:
        while self._cells > self.max_cells and len(self._paths) > 1:
            (workflow, stage, _), (leaf, stage_level, workflow_level, _) = self._paths.popitem(last=False)
            self._cells -= len(leaf.cells)
            stage_level.children -= 1
            workflow_level.children -= 1
            if not stage_level.children:
                del self._stages[workflow, stage]
            if not workflow_level.children:
                del self._workflows[workflow]

    # -- asking ----------------------------------------------------------------------------------

    def levels(self, workflow: str, stage: str, task_type: str) -> Path:
        """The level of a key itself (empty if unseen), then its parents; without a task, the stage's."""
        workflow_level = self._workflows.get(workflow, _UNSEEN)
        stage_level = self._stages.get((workflow, stage), _UNSEEN)
        if not task_type:
            return (stage_level, workflow_level, self._all)
        path = self._paths.get((workflow, stage, task_type))
        return path or (_UNSEEN, stage_level, workflow_level, self._all)

    estimate = staticmethod(estimate)

    def mean_tokens(self, levels: Path, first: int) -> tuple[float, float] | None:
        """Mean input and output tokens of a call, over all candidates, at the most specific level
        that has any; ``None`` where nothing is known.
        """
        for level in levels:
            cell = level.everyone or level.everyone_calls()
            if cell.oldest < first:
                cell.expire(first)
            count = cell.total[7]
            if count:
                return cell.total[5] / count, cell.total[6] / count
        return None

    def tiers(self, level: Level, first: int) -> dict[str, TierResults]:
        """What each tier's candidates have done at a level."""
        results: dict[str, TierResults] = {}
        for label, cell in level.cells.items():
            row = level.row(label, first)
            if row is not None and cell.tier != EMBEDDINGS:
                calls, failures = results.get(cell.tier, (0.0, 0.0))
                results[cell.tier] = TierResults(calls + row[0], failures + row[0] - row[1])
        return results

    def labelled_share(self, workflow: str, stage: str, task_type: str, first: int) -> float | None:
        """Of the attempts at a key, the share whose answer has an outcome; ``None`` without any attempt."""
        path = self._paths.get((workflow, stage, task_type))
        windows = [] if path is None else [window for _, window in self.windows(path[0], first)]
        calls = sum(window.calls for window in windows)
        return min(1.0, sum(window.labels.labelled for window in windows) / calls) if calls else None

    def windows(self, level: Level, first: int) -> Iterator[tuple[str, CellWindow]]:
        """Every candidate called at a level, with its sums over the window."""
        for label, cell in level.cells.items():
            window = CellWindow.of(cell, first)
            if window.calls:
                yield label, window

    def keys(self, workflow: str, stage: str | None = None) -> Iterator[tuple[_Key, Level]]:
        """Every (workflow, stage, task) of a workflow, or of one of its stages, with its level."""
        for key, path in self._paths.items():
            if key[0] == workflow and stage in {None, key[1]}:
                yield key, path[0]

    def __len__(self) -> int:
        """How many cells of (workflow, stage, task, candidate) are kept."""
        return self._cells


_UNSEEN = Level()


def _watched_of(path: Path, task_type: str) -> Path:
    """The levels that a decision about the tier of such a call is made from, and those of its stage."""
    return path[:2] if task_type else path[1:2]


def _flip_newest(bits: int, count: int, *, failed: bool) -> int:
    """Mark the newest result that was otherwise as failed (or not)."""
    for place in range(count):
        if bool(bits >> place & 1) is not failed:
            return bits ^ (1 << place)
    return bits


class CellWindow(NamedTuple):
    """One cell's sums over a window, the sketch of its latencies, and its labels.

    ``latency_ms`` and the sketch are of successes and time-outs, the former of cancelled attempts too.
    """

    tier: str
    calls: int
    successes: int
    latency_ms: float
    cost_nanos: int
    cost_count: int
    input_tokens: int
    output_tokens: int
    usage_count: int
    recent_failures: int
    sketch: LatencySketch
    labels: Labels = Labels()

    def performance(self, label: str) -> ModelPerformance:
        """The same as a ``ModelPerformance``, plain means without anything borrowed; without a success
        the whole time is taken for the latency, which is above it.
        """
        return ModelPerformance(
            model_id=label.partition("/")[2],
            tier=self.tier,
            success_rate=self.successes / self.calls,
            avg_latency_ms=self.latency_ms / (self.successes or 1),
            avg_cost=self.cost_nanos / self.cost_count / NANOS_PER_USD if self.cost_count else 0.0,
            sample_size=self.calls,
            recent_failures=self.recent_failures,
        )

    @classmethod
    def of(cls, cell: Cell, first: int) -> CellWindow:
        """The sums of the buckets from ``first`` on."""
        sketch = LatencySketch()
        for index in cell.sketches:
            if index >= first:
                sketch.merge(cell.sketch(index))
        labels = Labels()
        for index, known in cell.labels.items():
            if index >= first:
                labels = labels.plus(known)
        kept = [sums for index, sums in cell.buckets.items() if index >= first]
        sums = [sum(column) for column in zip(*kept, strict=True)] or [0] * SUMS
        return cls(
            tier=cell.tier,
            calls=int(sums[0]),
            successes=int(sums[1]),
            latency_ms=sums[2],
            cost_nanos=int(sums[3]),
            cost_count=int(sums[4]),
            input_tokens=int(sums[5]),
            output_tokens=int(sums[6]),
            usage_count=int(sums[7]),
            recent_failures=newest(cell.recent, sums[0]).bit_count(),
            sketch=sketch,
            labels=labels,
        )
