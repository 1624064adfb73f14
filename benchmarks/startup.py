"""Start-up of whole processes, as multiples of a bare ``python -c pass`` in the same run.

Every command is run once unmeasured (which also writes its bytecode, as on a user's machine) and then
in turns with the others, so that a slow moment of the machine hits all alike. Medians.

Usage: ``python benchmarks/startup.py [--rounds N] [--json]``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import _peers
import _table

ROUNDS = 15
LIMIT_SECONDS = 60
BARE = "python -c pass"


class Command(NamedTuple):
    """One measured command. ``target`` is the most multiples of bare Python that it may take."""

    product: str
    what: str
    argv: tuple[str, ...]
    target: float | None = None


GET_MODEL = "from attune.models import get_model; get_model('anthropic', 'cheap')"


def own_commands() -> list[Command]:
    """What attune is held to, from the environment of this interpreter."""
    python = sys.executable
    script = str(Path(python).with_name("attune"))
    return [
        Command("attune", BARE, (python, "-c", "pass")),
        Command("attune", "import attune.models", (python, "-c", "import attune.models"), 8),
        Command("attune", "first get_model", (python, "-c", GET_MODEL), 12),
        Command("attune", "attune auth status", (script, "auth", "status"), 18),
        Command("attune", "python -m attune auth status", (python, "-m", "attune", "auth", "status"), 18),
    ]


def peer_commands() -> list[Command]:
    """The same of each peer that can be installed."""
    found: list[Command] = []
    if python := _peers.python_of("attune-ai"):
        name = _peers.label("attune-ai")
        found += [
            Command(name, "import attune.models", (str(python), "-c", "import attune.models")),
            Command(name, "first get_model", (str(python), "-c", GET_MODEL)),
            Command(name, "attune auth status", (str(python.with_name("attune")), "auth", "status")),
        ]
    if python := _peers.python_of("litellm"):
        found.append(
            Command(_peers.label("litellm"), "import litellm", (str(python), "-c", "import litellm"))
        )
    return found


def run_once(command: Command, home: Path) -> float:
    """Seconds of one whole process. Raises ``subprocess.CalledProcessError`` if it fails."""
    start = time.perf_counter()
    subprocess.run(
        command.argv,
        env=_peers.environment(home),
        cwd=home,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
        timeout=LIMIT_SECONDS,
    )
    return time.perf_counter() - start


def runnable(commands: list[Command], home: Path) -> list[Command]:
    """Those that work at all; the others are named on stderr. A failing command is fast and says nothing."""
    working = []
    for command in commands:
        try:
            run_once(command, home)
        except (OSError, subprocess.SubprocessError) as error:
            stderr = (getattr(error, "stderr", b"") or b"").decode("utf-8", "replace").strip()
            reason = stderr.splitlines()[-1] if stderr else error
            print(f"left out, does not run: {command.product}: {command.what}: {reason}", file=sys.stderr)
        else:
            working.append(command)
    return working


def measure(commands: list[Command], rounds: int, home: Path) -> list[float]:
    """The median of each command in seconds."""
    samples: list[list[float]] = [[] for _ in commands]
    for _ in range(rounds):
        for command, taken in zip(commands, samples, strict=True):
            taken.append(run_once(command, home))
    return [statistics.median(taken) for taken in samples]


def main() -> int:
    """Measure, and print a table or JSON. Exit code 1 if a command of attune does not run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"runs of each command (default {ROUNDS})")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    own = own_commands()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        commands = runnable(own + peer_commands(), home)
        medians = measure(commands, arguments.rounds, home)
    figures = [(one, median, median / medians[0]) for one, median in zip(commands, medians, strict=True)]
    if arguments.json:
        rows = [
            {
                "of": one.product,
                "command": one.what,
                "ms": median * 1e3,
                "multiple": multiple,
                "target": one.target,
            }
            for one, median, multiple in figures
        ]
        print(json.dumps({"rounds": arguments.rounds, "commands": rows}, indent=2))
    else:
        _table.show(
            f"Start-up of whole processes (medians of {arguments.rounds} runs, in turns)",
            ("command", "of", "ms", f"x {BARE}", "target"),
            [
                (
                    one.what,
                    one.product,
                    f"{median * 1e3:.1f}",
                    f"{multiple:.1f}",
                    _table.verdict(multiple, one.target),
                )
                for one, median, multiple in figures
            ],
        )
    return 0 if set(own) <= set(commands) else 1


if __name__ == "__main__":
    sys.exit(main())
