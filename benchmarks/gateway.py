"""What the gateway costs between a client and its upstream, on a static upstream, beside peers.

The upstream is nginx, which answers at once and always with the same bytes, and wrk asks: what is measured is
the gateway. Every gateway is one process with one worker, all stand ready at the same time, and their rounds
take turns. One connection gives the times, 32 the requests a second. Paced streams, whose events come one
by one, give the processor time of a stream as models send it.

Usage: ``python benchmarks/gateway.py [--json] [--rounds N] [--skip-peers] [--no-soak]``.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import _gateway_bodies
import _gateway_load
import _gateway_rounds
import _gateway_servers
import _table
from _gateway_rounds import AT_ONCE, Row
from _gateway_upstream import upstream

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from _gateway_servers import Gateway

ROUNDS = 3
DIRECT, ATTUNE = "nginx", "attune"
CHAT, STREAMED, PACED = "chat", "chat, streamed", "chat, paced"

MOST_ADDED_MS, LEAST_PER_SECOND = 1.0, 2000
LEAST_TIMES = {"Portkey": 3, "litellm": 40}
"""How many times the peer's requests a second attune must answer."""
MOST_STREAM_CPU_MS = 2.0
MOST_RESIDENT_MB, MOST_GROWTH = 120, 1.05
"""Growth is resident memory after the last step of the soak over that after the one before."""
MOST_SECONDS_TO_READY = 1.5


class Measured(NamedTuple):
    """A row and its figures, round by round, without the one that warmed up."""

    of: str
    what: str
    rounds: Sequence[Mapping[str, float]]

    def median(self, figure: str) -> float | None:
        """Over the rounds; ``None`` where it is not measured."""
        values = [each[figure] for each in self.rounds if figure in each]
        return statistics.median(values) if values else None


class Target(NamedTuple):
    """A figure, and what it should be at most, or at least."""

    what: str
    measured: float
    limit: float
    at_least: bool = False

    @property
    def verdict(self) -> str:
        """Whether it is."""
        if not self.at_least:
            return _table.verdict(self.measured, self.limit)
        return f">= {self.limit:g} {'kept' if self.measured >= self.limit else 'MISSED'}"


def gateways(address: str, folder: Path, *, peers: bool) -> Iterator[Gateway]:
    """Every gateway that is to be had."""
    others = (_gateway_servers.portkey, _gateway_servers.litellm) if peers else ()
    for make in (_gateway_servers.floor, _gateway_servers.attune, *others):
        home = folder / make.__name__
        home.mkdir()
        if gateway := make(address, home):
            yield gateway


def rows_of(address: str, running: Sequence[Gateway], stack: ExitStack) -> Iterator[Row]:
    """Every case of the upstream and of every gateway, started, whose answer is the right one."""
    for case, asked in _gateway_servers.direct(address).items():
        yield Row(DIRECT, case, asked, None)
    for gateway in running:
        try:
            server = stack.enter_context(gateway.start())
            for case, asked in gateway.asked(server.address).items():
                row = Row(gateway.of, case, asked, server)
                row.check()
                yield row
        except RuntimeError as error:
            if not gateway.is_peer:
                raise
            print(f"left out: {error}", file=sys.stderr)


def measured(rows: Sequence[Row], taken: Sequence[Sequence[Mapping[str, float]]]) -> list[Measured]:
    """The rows, with what each adds to the upstream's own time in the same round."""
    direct = {row.case: each for row, each in zip(rows, taken, strict=True) if row.of == DIRECT}
    found = []
    for row, each in zip(rows, taken, strict=True):
        beside = direct.get(row.case, direct[CHAT])
        pairs = list(zip(each, beside, strict=True))[1:]
        rounds = [{**one, "added_ms": one["p50_ms"] - bare["p50_ms"]} for one, bare in pairs]
        found.append(Measured(row.of, row.case, rounds))
    return found


def figures(rounds: int, *, peers: bool, soak: bool) -> dict[str, Any]:
    """Everything that is measured. Raises ``RuntimeError`` without nginx or wrk, or if a call fails."""
    _gateway_load.wrk()  # before anything is started
    with tempfile.TemporaryDirectory(prefix="attune-gateway-") as name, ExitStack() as stack:
        folder = Path(name)
        address = stack.enter_context(upstream(folder))
        found = list(gateways(address, folder, peers=peers))
        ready = _gateway_rounds.starts(found)
        running = [gateway for gateway in found if gateway.of in ready]
        with ExitStack() as serving:
            rows = list(rows_of(address, running, serving))
            memory = [_resident(rows)]
            taken = _gateway_rounds.in_turns(rows, rounds, folder)
            memory.append(_resident(rows))
        steps = []
        if soak:
            home = folder / "soak"
            home.mkdir()
            steps = _gateway_rounds.soak(_gateway_servers.attune(address, home), CHAT, folder)
        return {
            "rows": measured(rows, taken),
            "processes": [
                {"of": of, "ready_s": statistics.median(seconds), "resident_mb": [one[of] for one in memory]}
                for of, seconds in ready.items()
                if of in memory[0]
            ],
            "ledger": _agreed(found, rows, taken),
            "soak": steps,
        }


def _resident(rows: Sequence[Row]) -> dict[str, float]:
    servers = {row.of: row.server for row in rows if row.server is not None}
    return {of: server.resident_mb() for of, server in servers.items()}


def _agreed(
    found: Sequence[Gateway], rows: Sequence[Row], taken: Sequence[Sequence[Mapping[str, float]]]
) -> dict[str, int]:
    own = [each for row, each in zip(rows, taken, strict=True) if row.of == ATTUNE]
    answered = sum(1 + sum(int(one["completed"]) for one in each) for each in own)  # one was the check
    broken_off = sum(int(one.get("broken_off", 0)) for each in own for one in each)
    attune = next(gateway for gateway in found if gateway.of == ATTUNE)
    return _gateway_rounds.agree(attune, answered, broken_off)


def targets(found: Mapping[str, Any]) -> Iterator[Target]:
    """What attune is held to. Peers are compared within a round."""
    rows = {(row.of, row.what): row for row in found["rows"]}
    chat = rows[ATTUNE, CHAT]
    yield Target("added p50 at one connection, ms", chat.median("added_ms") or 0.0, MOST_ADDED_MS)
    per_second = chat.median("per_second") or 0.0
    yield Target(f"requests/s at {AT_ONCE} connections", per_second, LEAST_PER_SECOND, at_least=True)
    for (of, what), row in rows.items():
        if what == CHAT and (least := LEAST_TIMES.get(of.split()[0])):
            pairs = zip(chat.rounds, row.rounds, strict=True)
            times = statistics.median(own["per_second"] / other["per_second"] for own, other in pairs)
            yield Target(f"requests/s over those of {of}", times, least, at_least=True)
    for what, how in ((STREAMED, "as nginx sends it"), (PACED, "event by event")):
        cpu_ms = rows[ATTUNE, what].median("cpu_ms") or 0.0
        yield Target(f"processor time of a stream {how}, ms", cpu_ms, MOST_STREAM_CPU_MS)
    own = next(each for each in found["processes"] if each["of"] == ATTUNE)
    yield Target("seconds until ready", own["ready_s"], MOST_SECONDS_TO_READY)
    memory = [*own["resident_mb"], *(step["resident_mb"] for step in found["soak"])]
    yield Target("resident memory at most, MB", max(memory), MOST_RESIDENT_MB)
    if found["soak"]:
        *_, before, last = found["soak"]
        what = f"memory after {last['requests']:,.0f} requests over that after {before['requests']:,.0f}"
        yield Target(what, last["resident_mb"] / before["resident_mb"], MOST_GROWTH)


def show(found: Mapping[str, Any]) -> None:
    """Print the figures and what became of the targets."""
    show_rows(found["rows"])
    _table.show(
        "Processes: seconds until ready, resident memory in MB",
        ("of", "ready", "at the start", "after the rounds"),
        [
            (each["of"], f"{each['ready_s']:.2f}", *(f"{mb:.0f}" for mb in each["resident_mb"]))
            for each in found["processes"]
        ],
    )
    if found["soak"]:
        _table.show(
            "attune's resident memory in MB, a fresh process",
            ("requests", "resident"),
            [(f"{step['requests']:,.0f}", f"{step['resident_mb']:.1f}") for step in found["soak"]],
        )
    ledger = found["ledger"]
    print(
        f"\nThe ledger holds {ledger['in_ledger']:,} calls: the {ledger['answered']:,} that were answered, "
        f"and of at most {ledger['broken_off_at_most']:,} that wrk broke off those that had begun."
    )
    _table.show(
        "Targets",
        ("figure", "measured", "target"),
        [(each.what, f"{each.measured:,.2f}", each.verdict) for each in targets(found)],
    )


def show_rows(rows: Sequence[Measured]) -> None:
    """Print what requests cost, and what paced streams cost."""

    def cells(row: Measured, *names: str) -> list[str]:
        values = [row.median(name) for name in names]
        return ["" if value is None else f"{value:,.2f}" for value in values]

    _table.show(
        f"A request, in milliseconds at one connection; a second and processor time at {AT_ONCE}",
        ("what", "of", "p50", "p99", "added p50", "requests/s", "cpu"),
        [
            (
                row.what,
                row.of,
                *cells(row, "p50_ms", "p99_ms", "added_ms"),
                f"{row.median('per_second'):,.0f}",
                *cells(row, "cpu_ms"),
            )
            for row in rows
            if row.what != PACED
        ],
    )
    _table.show(
        f"A stream whose {_gateway_bodies.EVENTS} events of text come one by one, in milliseconds",
        ("of", "p50", "added p50", "cpu"),
        [(row.of, *cells(row, "p50_ms", "added_ms", "cpu_ms")) for row in rows if row.what == PACED],
    )


def main() -> int:
    """Measure, and print tables or JSON. Exit code 1 without nginx or wrk, or if a call fails."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"rounds of every case ({ROUNDS})")
    parser.add_argument("--skip-peers", action="store_true", help="measure attune and the floor alone")
    parser.add_argument(
        "--soak",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="also watch attune's memory over 100,000 requests (on)",
    )
    arguments = parser.parse_args()
    busy = os.getloadavg()[0]
    if busy > 1:
        print(f"the machine is busy (load {busy:.1f}): times will be too long", file=sys.stderr)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    try:
        found = figures(max(1, arguments.rounds), peers=not arguments.skip_peers, soak=arguments.soak)
    except RuntimeError as error:
        print(f"the gateway could not be measured: {error}", file=sys.stderr)
        return 1
    if arguments.json:
        rows = [row._asdict() for row in found["rows"]]
        held = [each._asdict() | {"verdict": each.verdict} for each in targets(found)]
        print(json.dumps({**found, "rows": rows, "targets": held}, indent=2))
    else:
        show(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
