"""Change the code that carries a call through failures, one small thing at a time, and see who notices.

    python tools/mutants.py [MODULE ...]

``TESTS`` names the modules and the tests of each; MODULE (``retry``, ``attempt`` ...) takes some of them
only. Works on copies under .make/mutation. Prints how many of the changes ("mutants") of each module its
tests found, then every one that they did not find; fails where fewer than 95 of 100 were found, of those
that change anything. Which ones are left, and why, is in docs/explanation/mutation-survivors.md.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

LEAST_SCORE = 95.0
FOUND = frozenset({"killed", "timeout", "segfault"})
COPIES = Path(".make/mutation")
MUTMUT = (sys.executable, "-m", "mutmut")

EXECUTOR = (
    "resilient_executor",
    "resilient_executor_budgets",
    "resilient_executor_last_resort",
    "resilient_executor_streams",
    "executor_exactly",
    "hedging",
)
TESTS = {
    "circuit_breaker": ("circuit_breaker",),
    "failure_domains": ("failure_domains",),
    "budget": ("budget", "dollars_of_a_call"),
    "retry": ("retry",),
    "fallback": ("fallback",),
    "attempt": ("attempt", "attempt_exactly", "empathy_executor"),
    "resilient_executor": EXECUTOR,
    "call": (*EXECUTOR, "call_exactly"),
    "plan": (*EXECUTOR, "call_exactly", "plan", "resilient_executor_repeats"),
    "call_stream": (*EXECUTOR, "resilient_executor_repeats"),
}
"""The modules of ``attune.models``, and the files of tests/unit/models/test_*.py that must notice."""

EQUIVALENT = frozenset(
    {
        "self._generation = 1",
        "self._generation -= 1",
        "self._generation += 2",
        "self._probe_successes = None",
        "self._probe_successes = 1",
        'self._next_early = float("-INF")',
        "self._probes = {p for p in self._probes if p.lease_until >= now}",
        "self._learning = None",
        'hedge: str = "OFF",',
        "self._over = None",
        "self._closed = None",
        'self._reader: asyncio.Task[object] | None = ""',
        "self._reading.reschedule(1.0)  # wherever it waits: for the head, in a pause, for an event",
        "self._answered = None",
        "self._left: deque[ScoredCandidate] = None",
        "self._models: dict[str, ModelInfo] = None",
        "self._left_out_added = None",
        "self._too_small = 1",
        "self.last_resort = None",
    }
)
"""Lines that mutants put in and that change nothing anybody could see."""


def main(modules: list[str]) -> int:
    """Run everything; 0 when every module reaches the score."""
    enough, missed = True, []
    for module in modules or list(TESTS):
        copy = copy_tree(module)
        with (copy / "run.log").open("w") as log:
            command = [*MUTMUT, "run", f"attune.models.{module}.*"]
            subprocess.run(command, cwd=copy, check=True, stdout=log, stderr=subprocess.STDOUT)
        found, names = results(copy)
        changes = {name: change(copy, name) for name in names}
        missed += [f"\nnot found: {name}\n{lines}" for name, lines in changes.items()]
        same = sum(lines.rpartition("\n+")[2].strip() in EQUIVALENT for lines in changes.values())
        score = 100 * found / (found + len(names) - same)
        enough &= score >= LEAST_SCORE
        counts = f"{found + len(names):5} mutants {found:5} found {same:3} equivalent"
        print(f"{module:20} {counts} {score:6.1f} %", flush=True)
    print("\n".join(missed))
    return 0 if enough else 1


def copy_tree(module: str) -> Path:
    """Copy what is mutated and what tests it, since mutmut writes beside its sources; returns where."""
    copy = COPIES / module
    shutil.rmtree(copy, ignore_errors=True)
    for name in ("src", "tests"):
        shutil.copytree(name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    tests = [f"tests/unit/models/test_{name}.py" for name in TESTS[module]]
    settings = {
        "source_paths": ["src"],
        "only_mutate": [f"src/attune/models/{module}.py"],
        "pytest_add_cli_args": ["-p", "no:cacheprovider", "--hypothesis-seed=1"],
        "pytest_add_cli_args_test_selection": tests,
    }
    lines = [f"{key} = {json.dumps(value)}\n" for key, value in settings.items()]
    lines += ["use_git_change_detection = false\n", "track_dependencies = false\n"]
    project = Path("pyproject.toml").read_text(encoding="utf-8")
    (copy / "pyproject.toml").write_text(f"{project}\n[tool.mutmut]\n{''.join(lines)}", encoding="utf-8")
    return copy


def results(copy: Path) -> tuple[int, list[str]]:
    """How many mutants were found, and the names of those that were not."""
    lines = [line.strip().rpartition(": ") for line in mutmut(copy, "results", "--all", "true").splitlines()]
    names = [(name, status) for name, _, status in lines if name]
    return sum(status in FOUND for _, status in names), [n for n, status in names if status not in FOUND]


def change(copy: Path, name: str) -> str:
    """The lines that the mutant takes out and puts in."""
    diff = mutmut(copy, "show", name).splitlines()
    return "\n".join(line for line in diff if re.match(r"[-+](?![-+]{2} )", line))


def mutmut(copy: Path, *arguments: str) -> str:
    """What mutmut says."""
    command = [*MUTMUT, *arguments]
    return subprocess.run(command, cwd=copy, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    if unknown := sys.argv[1:] and set(sys.argv[1:]) - TESTS.keys():
        sys.exit(f"{', '.join(unknown)}: not among {', '.join(TESTS)}")
    sys.exit(main(sys.argv[1:]))
