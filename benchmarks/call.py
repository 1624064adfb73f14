"""What one whole call costs besides the model's own time, on a static upstream, beside peers.

The upstream is nginx, which answers at once and always with the same bytes: what is measured is the client,
nginx, and the loopback between them. Every product runs in a process and an environment of its own, all
stand ready at the same time, and their rounds take turns. Calls one after the other give the times; 32
callers at once give the calls a second.

Usage: ``python benchmarks/call.py [--json] [--rounds N]``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import _peers
import _table
from _call_upstream import upstream

if TYPE_CHECKING:
    from collections.abc import Iterator

ROUNDS = 15
AT_ONCE = 32
LIMIT_SECONDS = 600.0
"""A worker that has not ended after this long is killed."""

OF_TENSORZERO = 1.0
OF_LITELLM = 0.05
"""Targets: p50 of a call as a share of the peer's, both answered in the same form."""


class Worker:
    """A process that holds the cases of a product ready. Both methods raise ``RuntimeError`` with the last
    line of one that has failed.
    """

    def __init__(self, of: str, python: Path, script: str, address: str, home: Path) -> None:
        home.mkdir()
        self.of = of
        self._errors = home / "stderr"
        with self._errors.open("w") as errors:
            self._process = subprocess.Popen(
                [str(python), str(Path(__file__).with_name(script)), address],
                env=_peers.environment(home),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self._limit = threading.Timer(LIMIT_SECONDS, self._process.kill)
        self._limit.start()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()  # it ends when there are no more orders
        self._limit.cancel()

    def cases(self) -> list[str]:
        """The names of its cases, when they are ready."""
        return list(self._answer())

    def round(self, case: str, at_once: int) -> dict[str, float]:
        """The figures of one round of a case."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has died, and said why
            print(json.dumps({"case": case, "at_once": at_once}), file=self._process.stdin, flush=True)
        return dict(self._answer())

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(("{", "[")):  # else it is the product's own log
                return json.loads(line)
        raise RuntimeError(f"{self.of}: {(self._errors.read_text().strip() or 'no output').splitlines()[-1]}")


def workers(address: str, folder: Path, stack: ExitStack) -> Iterator[tuple[Worker, str]]:
    """Every case of every product that is to be had, ready to be measured."""

    def started(of: str, python: Path, script: str) -> list[tuple[Worker, str]]:
        worker = stack.enter_context(Worker(of, python, script, address, folder / script))
        return [(worker, case) for case in worker.cases()]

    yield from started("aiohttp", Path(sys.executable), "_call_aiohttp.py")
    yield from started("attune", Path(sys.executable), "_call_attune.py")
    for name in ("tensorzero", "litellm"):
        if python := _peers.python_of(name):
            try:
                yield from started(_peers.label(name), python, f"_call_{name}.py")
            except RuntimeError as error:
                print(f"{_peers.label(name)} is left out: {error}", file=sys.stderr)


def figures(rounds: int) -> list[dict[str, Any]]:
    """A row for each case: the medians over its rounds. Raises ``RuntimeError`` without attune or nginx."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        cases = list(workers(stack.enter_context(upstream()), folder, stack))
        alone: list[list[dict[str, float]]] = [[] for _ in cases]
        together: list[list[dict[str, float]]] = [[] for _ in cases]
        for _ in range(rounds):
            for place, (worker, case) in enumerate(cases):
                alone[place].append(worker.round(case, 1))
                together[place].append(worker.round(case, AT_ONCE))
        return [
            {
                "of": worker.of,
                "what": case,
                "p50_us": round(statistics.median(one["p50_us"] for one in alone[place]), 1),
                "p95_us": round(statistics.median(one["p95_us"] for one in alone[place]), 1),
                "per_second": round(statistics.median(one["per_second"] for one in together[place])),
            }
            for place, (worker, case) in enumerate(cases)
        ]


def targets(rows: list[dict[str, Any]]) -> list[tuple[str, float, float]]:
    """(what, figure, target): attune's p50 as a share of each peer's."""
    p50 = {(row["of"], row["what"].endswith("streamed")): row["p50_us"] for row in rows}
    shares = {_peers.label("tensorzero"): OF_TENSORZERO, _peers.label("litellm"): OF_LITELLM}
    return [
        (
            f"p50 over that of {peer}, {'streamed' if streamed else 'in one body'}",
            p50["attune", streamed] / p50[peer, streamed],
            share,
        )
        for peer, share in shares.items()
        for streamed in (False, True)
        if (peer, streamed) in p50
    ]


def show(rows: list[dict[str, Any]]) -> None:
    """Print the figures and what became of the targets."""
    _table.show(
        f"One call on a static upstream, in microseconds; calls a second with {AT_ONCE} callers",
        ("what", "of", "p50", "p95", "calls/s"),
        [
            (
                row["what"],
                row["of"],
                f"{row['p50_us']:,.0f}",
                f"{row['p95_us']:,.0f}",
                f"{row['per_second']:,}",
            )
            for row in rows
        ],
    )
    _table.show(
        "Targets",
        ("figure", "measured", "target"),
        [(what, f"{value:.3f}", _table.verdict(value, target)) for what, value, target in targets(rows)],
    )


def main() -> int:
    """Measure, and print tables or JSON. Exit code 1 without nginx, or if a product fails under way."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"rounds of every case ({ROUNDS})")
    arguments = parser.parse_args()
    try:
        rows = figures(arguments.rounds)
    except RuntimeError as error:
        print(f"calls could not be measured: {error}", file=sys.stderr)
        return 1
    print(json.dumps(rows, indent=2)) if arguments.json else show(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
