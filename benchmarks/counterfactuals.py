"""Whether what is said of another policy is true: logs simulated from full tables, the truth known.

Rows are redrawn in workflow runs, a policy that draws logs one model of each, and the estimate from the log
alone is held against what the target would have come to on the whole table. ``--data DIR`` holds the tables.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import random
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from _table import show

from attune.models.estimators import LoggedCall, compare

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

COVERED = (0.92, 0.985)
ERRORS = {"success": 0.03, "cost": 0.07}
ENOUGH = 200
"""Effective calls from which an estimate is held to ``ERRORS``."""
EPSILON = 0.1


class Row(NamedTuple):
    """A task: its key, the size of its prompt, and success and USD of each model."""

    key: str
    size: int
    arms: tuple[tuple[float, float], ...]


Vector = list[float]


class Policy(NamedTuple):
    """A target: the probabilities of the models at a row."""

    name: str
    probabilities: Callable[[Row], Vector]


# -- tables ----------------------------------------------------------------------------------------------


def paretobandit(folder: Path) -> list[Row]:
    rows = []
    for record in _records(folder / "paretobandit" / "val.jsonl.gz"):
        arms = tuple((arm["reward"], arm["cost"]) for arm in record["arms"].values())
        rows.append(Row(record["source"], len(record["prompt"]), arms))
    return rows


def mmlu(folder: Path) -> list[Row]:
    """The two models' costs are made up: a price each, times the prompt's size."""
    rows = []
    for record in _records(folder / "routellm" / "mmlu.jsonl.gz"):
        size = len(record["prompt"])
        weak, strong = float(record["weak"]), float(record["strong"])
        rows.append(Row(record["subject"], size, ((weak, 2e-7 * size), (strong, 5e-6 * size))))
    return rows


def _records(file: Path) -> Iterator[dict]:
    for line in gzip.decompress(file.read_bytes()).decode().split("\n"):
        if line:
            yield json.loads(line)


TABLES = {"paretobandit": paretobandit, "mmlu": mmlu}


# -- policies --------------------------------------------------------------------------------------------


def targets(training: Sequence[Row]) -> list[Policy]:
    """Policies that know nothing of the rows that they are judged on."""
    count = len(training[0].arms)
    best = {key: _best(rows) for key, rows in _by_key(training).items()}
    overall = _best(training)
    size = statistics.median(row.size for row in training)
    return [
        *(Policy(f"always model {i}", lambda _, i=i: _certain(i, count)) for i in range(count)),
        Policy("mix", lambda _: [1 / count] * count),
        Policy("best by key", lambda row: _certain(best.get(row.key, overall), count)),
        Policy("by prompt size", lambda row: _certain(0 if row.size < size else count - 1, count)),
    ]


def logging_policy(training: Sequence[Row]) -> Callable[[Row], Vector]:
    """A softmax of the key's mean rewards and of the prompt's size, with a floor."""
    count = len(training[0].arms)
    size = statistics.median(row.size for row in training)
    means = {key: _means(rows) for key, rows in _by_key(training).items()}
    overall = _means(training)

    def probabilities(row: Row) -> Vector:
        scores = means.get(row.key, overall)
        lean = 0.5 if row.size > size else -0.5
        odds = [math.exp(6 * score + lean * i) for i, score in enumerate(scores)]
        return [EPSILON / count + (1 - EPSILON) * each / sum(odds) for each in odds]

    return probabilities


def _by_key(rows: Sequence[Row]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.key, []).append(row)
    return groups


def _means(rows: Sequence[Row]) -> Vector:
    return [statistics.fmean(row.arms[i][0] for row in rows) for i in range(len(rows[0].arms))]


def _best(rows: Sequence[Row]) -> int:
    means = _means(rows)
    return means.index(max(means))


def _certain(index: int, count: int) -> Vector:
    return [float(i == index) for i in range(count)]


# -- logs ------------------------------------------------------------------------------------------------


def redrawn(rows: Sequence[Row], calls: int, generator: random.Random) -> Iterator[tuple[str, Row]]:
    """Rows with the run that they belong to: a run has 1 to 7 neighbours in a key's order of prompt sizes, so
    that its calls are alike. Each row is as probable as any other.
    """
    rings = {key: sorted(members, key=lambda row: row.size) for key, members in _by_key(rows).items()}
    drawn = run = 0
    while drawn < calls:
        ring = rings[generator.choice(rows).key]
        start, length = generator.randrange(len(ring)), generator.randint(1, 7)
        for step in range(min(length, calls - drawn)):
            yield f"run-{run}", ring[(start + step) % len(ring)]
        drawn += length
        run += 1


def log(
    rows: Sequence[Row], logging: Callable[[Row], Vector], target: Policy, calls: int, seed: int
) -> list[LoggedCall]:
    generator = random.Random(seed)
    found = []
    for run, row in redrawn(rows, calls, generator):
        vector = logging(row)
        chosen = generator.choices(range(len(vector)), vector)[0]
        success, cost = row.arms[chosen]
        found.append(
            LoggedCall(
                key=("table", "", row.key),
                run=run,
                models=[f"model-{i}" for i in range(len(vector))],
                logged=vector,
                current=vector,
                target=target.probabilities(row),
                chosen=chosen,
                success=success,
                cost=cost,
                most=max(cost for _, cost in row.arms),
            )
        )
    return found


def truth(rows: Sequence[Row], probabilities: Callable[[Row], Vector]) -> tuple[float, float]:
    """Success and cost of a policy on the whole table."""
    success = cost = 0.0
    for row in rows:
        for p, (reward, usd) in zip(probabilities(row), row.arms, strict=True):
            success += p * reward
            cost += p * usd
    return success / len(rows), cost / len(rows)


# -- judging ---------------------------------------------------------------------------------------------


class Judged:
    """What came of many runs of one target."""

    def __init__(self) -> None:
        self.refused = 0
        self.disagreed = 0
        self.wrong = 0
        self.effective: list[float] = []
        self.covered: dict[str, list[bool]] = {}
        self.errors: dict[str, list[float]] = {"success": [], "cost": []}
        self.widths: dict[str, list[float]] = {"success": [], "cost": []}


def judge(rows: Sequence[Row], training: Sequence[Row], target: Policy, runs: int, calls: int) -> Judged:
    logging, judged = logging_policy(training), Judged()
    logged, known = truth(rows, logging), truth(rows, target.probabilities)
    for seed in range(runs):
        found = compare(log(rows, logging, target, calls, seed), seed=seed)
        support = found.target.support
        judged.effective.append(support.effective)
        judged.disagreed += any("disagree" in note for note in found.notes)
        if found.target.success.value is None:
            judged.refused += 1
            continue
        pairs = {
            "success": (found.target.success, known[0]),
            "cost": (found.target.cost, known[1]),
            "success difference": (found.success_difference, known[0] - logged[0]),
            "cost difference": (found.cost_difference, known[1] - logged[1]),
        }
        for name, (interval, value) in pairs.items():
            judged.covered.setdefault(name, []).append(interval.low <= value <= interval.high)
        within = known[0] >= logged[0] - 0.05 and known[1] <= 1.05 * logged[1]
        judged.wrong += found.verdict != "undecided" and (found.verdict == "within") is not within
        for name in judged.errors:
            interval, value = pairs[name]
            judged.widths[name].append((interval.high - interval.low) / value)
            if support.effective >= ENOUGH:
                judged.errors[name].append(abs(interval.value - value) / value)
    return judged


def figures(judged: Judged) -> dict[str, float | None]:
    """What is shown of a target: shares, medians of relative errors and widths, and counts of logs."""
    names = ("success", "cost", "success difference", "cost difference")
    return {
        "effective calls": statistics.median(judged.effective),
        **{f"{name} covered": _of(statistics.fmean, judged.covered.get(name)) for name in names},
        **{f"{name} error": _of(statistics.median, each) for name, each in judged.errors.items()},
        **{f"{name} width": _of(statistics.median, each) for name, each in judged.widths.items()},
        "wrong verdicts": judged.wrong,
        "checks that disagree": judged.disagreed,
        "refused": judged.refused,
    }


def _of(what: Callable[[Sequence[float]], float], values: Sequence[float] | None) -> float | None:
    return what(values) if values else None


def missed(found: dict[str, float | None]) -> list[str]:
    """The figures that are not as good as they have to be."""
    low, high = COVERED
    return [
        name
        for name, value in found.items()
        if value is not None
        and (
            (name.endswith("covered") and not low <= value <= high)
            or (name.endswith("error") and value > ERRORS[name.removesuffix(" error")])
        )
    ]


def line(name: str, found: dict[str, float | None]) -> list[str]:
    """A row of the table."""
    cells = [name]
    for what, value in found.items():
        if value is None:
            cells.append("-")
        elif what.endswith(("error", "width")):
            cells.append(f"{value:.1%}")
        else:
            cells.append(f"{value:.3f}" if what.endswith("covered") else f"{value:.0f}")
    return [*cells, "MISSED" if missed(found) else "kept"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="where the tables are")
    parser.add_argument("--table", choices=TABLES, action="append", help="only this one")
    parser.add_argument("--runs", type=int, default=500, help="logs of each target (default 500)")
    parser.add_argument("--calls", type=int, default=1500, help="calls of a log (default 1500)")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    report: dict[str, dict[str, dict[str, float | None]]] = {}
    for name in args.table or TABLES:
        started = time.perf_counter()
        report[name] = of_table(TABLES[name](args.data), args.runs, args.calls)
        if not args.json:
            took = time.perf_counter() - started
            header = ["target", *next(iter(report[name].values())), "targets"]
            lines = [line(target, found) for target, found in report[name].items()]
            show(f"{name}: {args.runs} logs of {args.calls} calls a target ({took:.0f} s)", header, lines)
    if args.json:
        print(json.dumps(report, indent=2))
    return int(any(missed(found) for targets in report.values() for found in targets.values()))


def of_table(rows: list[Row], runs: int, calls: int) -> dict[str, dict[str, float | None]]:
    """The figures of each target, which is made from a third of the rows and judged on the others."""
    random.Random(0).shuffle(rows)
    training, held = rows[: len(rows) // 3], rows[len(rows) // 3 :]
    return {target.name: figures(judge(held, training, target, runs, calls)) for target in targets(training)}


if __name__ == "__main__":
    sys.exit(main())
