"""What one routing decision costs, by the size of the history, beside peers.

Ten candidates, 1,000 stages in rotation and a clock that moves at every call, so that no remembered
answer is measured. ``decide`` is timed alone, over a history that stays as it is, and then as a pair
with ``observe``; building the request is part of it. Each product runs in a process and an environment
of its own.

Usage: ``python benchmarks/decision.py [--json]``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import _peers
import _table

SIZES = (10**3, 10**4, 10**5, 10**6)
PEER_SIZES = (10**3, 10**4)
LIMIT_SECONDS = 600

DECIDE_US = 20.0
JUDGED_US = 40.0
PROMPTED_US = 150.0
PAIR_US = 60.0
GROWTH = 1.2
"""Targets: p50 of a decision, by a policy that draws, and with a prompt;
p50 of the pair, and p50 at the largest history over that at the smallest."""


def measure(python: Path, worker: str, sizes: tuple[int, ...]) -> list[dict[str, Any]]:
    """Run a worker; its figures. Raises ``RuntimeError`` with the last line of a failed one."""
    script = Path(__file__).with_name(worker)
    with tempfile.TemporaryDirectory() as home:
        done = subprocess.run(
            [str(python), str(script), *map(str, sizes)],
            env=_peers.environment(Path(home)),
            capture_output=True,
            text=True,
            check=False,
            timeout=LIMIT_SECONDS,
        )
    if done.returncode:
        raise RuntimeError(f"{worker}: {(done.stderr.strip() or 'no output').splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def figures() -> list[dict[str, Any]]:
    """The rows of attune first, then those of each peer that is to be had."""
    rows = [{"of": "attune", **row} for row in measure(Path(sys.executable), "_decision_attune.py", SIZES)]
    for name, worker in (("attune-ai", "_decision_attune_ai.py"), ("litellm", "_decision_litellm.py")):
        if python := _peers.python_of(name):
            try:
                rows += [{"of": _peers.label(name), **row} for row in measure(python, worker, PEER_SIZES)]
            except (RuntimeError, subprocess.TimeoutExpired) as error:
                print(f"{_peers.label(name)} is left out: {error}", file=sys.stderr)
    return rows


def targets(rows: list[dict[str, Any]]) -> list[tuple[str, float, float]]:
    """(what, figure, target) for attune's own rows; the worst history counts."""
    own = [row for row in rows if row["of"] == "attune" and row["what"] == "decide"]
    smallest, largest = own[0], own[-1]
    judged = [row for row in rows if row["of"] == "attune" and "judged" in row["what"]]
    return [
        ("p50 of decide, us", max(row["decide"]["p50_us"] for row in own), DECIDE_US),
        ("p50 of decide + observe, us", max(row["pair"]["p50_us"] for row in own), PAIR_US),
        (
            f"p50 of decide at {largest['history']:,} over {smallest['history']:,} records",
            largest["decide"]["p50_us"] / smallest["decide"]["p50_us"],
            GROWTH,
        ),
        *(
            (
                f"p50 of {row['what']}, us",
                row["decide"]["p50_us"],
                PROMPTED_US if "prompt" in row["what"] else JUDGED_US,
            )
            for row in judged
        ),
    ]


def show(rows: list[dict[str, Any]]) -> None:
    """Print the figures and what became of the targets."""
    _table.show(
        "One decision over 10 candidates, in microseconds",
        ("what", "of", "history", "decide p50", "p99", "with observe p50", "p99"),
        [
            (
                row["what"],
                row["of"],
                f"{row['history']:,}",
                *(f"{row[what][q]:.1f}" for what in ("decide", "pair") for q in ("p50_us", "p99_us")),
            )
            for row in rows
        ],
    )
    _table.show(
        "Targets",
        ("figure", "measured", "target"),
        [(what, f"{value:.2f}", _table.verdict(value, target)) for what, value, target in targets(rows)],
    )


def main() -> int:
    """Measure, and print tables or JSON. Exit code 1 if attune itself could not be measured."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    arguments = parser.parse_args()
    try:
        rows = figures()
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        print(f"attune could not be measured: {error}", file=sys.stderr)
        return 1
    print(json.dumps(rows, indent=2)) if arguments.json else show(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
