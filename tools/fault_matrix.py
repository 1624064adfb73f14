"""Play the whole fault matrix and print it; exit 1 if a cell is not what it must be.

``--json`` prints every cell as JSON instead, ``--write`` writes the page "What happens when ..." from it.
Run it as ``make faults`` and ``make docs``.
"""

import argparse
import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.table import Table
from rich.text import Text

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from faults.matrix import MODES, PROTOCOLS, Cell, Outcome, cells, play_all  # noqa: E402  (found there)
from faults.matrix_expected import expected  # noqa: E402
from faults.matrix_page import page  # noqa: E402

PAGE = ROOT / "docs" / "reference" / "what-happens-when.md"
WIDTH = 200
"""Columns where there is no terminal that has a width."""
WIDE = 140
COLUMNS = ("fault", "setting", "where", "the caller saw", "asked", "counts against", "recorded")


def groups(outcomes: Mapping[Cell, Outcome]) -> Iterator[tuple[list[Cell], Outcome]]:
    """The cells of a kind and setting that came to the same, together."""
    together: dict[tuple[str, str, Outcome], list[Cell]] = {}
    for cell, outcome in outcomes.items():
        together.setdefault((cell.kind, cell.setting, outcome), []).append(cell)
    return ((same, outcome) for (_, _, outcome), same in together.items())


def where(same: list[Cell]) -> str:
    """Protocols and modes of cells, as short as they can be said."""
    protocols = [each for each in PROTOCOLS if any(cell.protocol == each for cell in same)]
    modes = [each for each in MODES if any(cell.mode == each for cell in same)]
    said = ["" if len(protocols) == len(PROTOCOLS) else ", ".join(protocols)]
    said.append("" if len(modes) == len(MODES) else ", ".join(modes))
    return "; ".join(filter(None, said)) or "all"


def colour(outcome: Outcome) -> str:
    """Green for an answer, yellow for a part of one, red for none."""
    if outcome.saw.startswith("answer"):
        return "green"
    return "yellow" if outcome.saw.startswith("part") else "red"


def show(outcomes: Mapping[Cell, Outcome], seconds: float) -> None:
    """Print the matrix as a table; a narrow one has two columns, with all of an outcome in one."""
    found = Console()
    console = found if found.is_terminal else Console(width=WIDTH)
    wide = console.width >= WIDE
    title = f"{len(outcomes)} cells in {seconds:.1f} s; what is the same is shown once"
    table = Table(title=title)
    for header in COLUMNS if wide else ("fault", "what came of it"):
        table.add_column(header, overflow="fold")
    before = ""
    for same, outcome in groups(outcomes):
        kind, _, setting, _ = same[0]
        if kind != before:
            table.add_section()
        row = [Text(kind if kind != before else ""), Text(setting), Text(where(same)), *told(outcome)]
        named = (Text.assemble(f"{name}: ", text) for name, text in zip(COLUMNS[1:], row[1:], strict=True))
        table.add_row(*(row if wide else (row[0], Text("\n").join(named))))
        before = kind
    console.print(table)


def told(outcome: Outcome) -> list[Text]:
    """An outcome's columns."""
    saw = outcome.saw + (f"\n{outcome.message}" if outcome.message else "")
    recorded = (f"{count} x {line}" for line, count in Counter(outcome.recorded).items())
    closed = "\n".join(outcome.closed) or "nothing"
    texts = [Text(outcome.asked), Text(closed), Text("\n".join(recorded))]
    return [Text(saw, style=colour(outcome)), *texts]


def main(arguments: list[str]) -> int:
    """Play, print, and judge."""
    parser = argparse.ArgumentParser(description="play the fault matrix")
    parser.add_argument("--json", action="store_true", help="print every cell as JSON")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.relative_to(ROOT)}")
    chosen = parser.parse_args(arguments)
    started = time.monotonic()
    with TemporaryDirectory() as folder:
        outcomes = asyncio.run(play_all(cells(), Path(folder)))
    seconds = time.monotonic() - started
    if chosen.json:
        print(
            json.dumps([cell._asdict() | outcome._asdict() for cell, outcome in outcomes.items()], indent=1)
        )
    else:
        show(outcomes, seconds)
    if chosen.write:
        PAGE.write_text(page(outcomes), encoding="utf-8")
    wrong = [cell for cell, outcome in outcomes.items() if outcome != expected(cell)]
    for cell in wrong:
        print(f"not as expected: {', '.join(cell)}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
