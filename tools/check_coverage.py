"""Fail if the tests reach too little of the code.

Usage: ``python tools/check_coverage.py COVERAGE.json``, the file that ``coverage json`` writes with
branch measurement on. Statements and branches are each held to the floor of their part: a high
figure of one does not make up for the other. Exit code 1 below a floor, 2 if the file is no such
report.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

FLOORS = {"src/attune/models": 95.0, "the rest of src/attune": 85.0}
"""Percent that must be covered; a file belongs to the first part that its path starts with, else the last."""

WORST_SHOWN = 5


class Reach(NamedTuple):
    """How much of something the tests reached."""

    statements: int = 0
    covered_statements: int = 0
    branches: int = 0
    covered_branches: int = 0

    def plus(self, summary: dict[str, int]) -> Reach:
        """This, and one file's summary."""
        return Reach(
            self.statements + summary["num_statements"],
            self.covered_statements + summary["covered_lines"],
            self.branches + summary["num_branches"],
            self.covered_branches + summary["covered_branches"],
        )

    @property
    def statement_percent(self) -> float:
        return percent(self.covered_statements, self.statements)

    @property
    def branch_percent(self) -> float:
        return percent(self.covered_branches, self.branches)

    @property
    def lowest_percent(self) -> float:
        return min(self.statement_percent, self.branch_percent)


def percent(covered: int, total: int) -> float:
    """``covered`` of ``total`` in percent; nothing to cover is covered."""
    return 100.0 * covered / total if total else 100.0


def part_of(path: str) -> str:
    """The part of the code, a key of ``FLOORS``, that a file belongs to."""
    *named, rest = FLOORS
    return next((part for part in named if path.startswith(f"{part}/")), rest)


def report(files: dict[str, Any]) -> bool:
    """Print the reach of every part and, below a floor, its worst files. True if all parts pass."""
    passed = True
    for part, floor in FLOORS.items():
        own = {path: Reach().plus(file["summary"]) for path, file in files.items() if part_of(path) == part}
        reach = Reach()
        for path in own:
            reach = reach.plus(files[path]["summary"])
        print(
            f"coverage of {part}: {reach.statement_percent:.1f} % of statements, "
            f"{reach.branch_percent:.1f} % of branches (at least {floor:.0f} % of each)"
        )
        if reach.lowest_percent < floor:
            passed = False
            for path in sorted(own, key=lambda path: own[path].lowest_percent)[:WORST_SHOWN]:
                one = own[path]
                print(f"  {path}: {one.statement_percent:.1f} %, {one.branch_percent:.1f} %")
    return passed


def main(arguments: list[str]) -> int:
    """Judge the report named by the only argument."""
    if len(arguments) != 1:
        print("usage: check_coverage.py COVERAGE.json", file=sys.stderr)
        return 2
    try:
        data = json.loads(Path(arguments[0]).read_text("utf-8"))
        measured = data["meta"]["branch_coverage"] and data["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"{arguments[0]} is no JSON report of coverage ({error}); run `make test`", file=sys.stderr)
        return 2
    if not measured:
        print(f"{arguments[0]} has no branch measurement or no files; run `make test`", file=sys.stderr)
        return 2
    return 0 if report(measured) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
