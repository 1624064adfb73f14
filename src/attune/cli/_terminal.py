"""What people and programs see on standard output."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from attune.cli._exit import note, plain

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Mapping, Sequence

    from attune.config import Config

__all__ = ["aligned", "dollars", "load_config", "print_json", "print_table", "utc"]

PIPED_COLUMNS = 200
"""The width of a table that goes to a file or a pipe, where lines do not wrap."""


def load_config(args: argparse.Namespace, flags: Mapping[str, Any] | None = None) -> Config:
    """The configuration that the arguments name, its notices shown. Raises ``ConfigError``."""
    from attune.config import load

    config = load(getattr(args, "config", None), flags=flags)
    for notice in config.notices:
        note(notice)
    return config


def print_json(value: Any) -> None:
    """A value as JSON with stable keys."""
    print(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str = "") -> None:
    """A table; a column whose name starts with ``>`` is aligned right. Colours only on a terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(width=None if sys.stdout.isatty() else PIPED_COLUMNS, highlight=False)
    table = Table(title=title or None, title_justify="left", box=box.SIMPLE, pad_edge=False)
    for column in columns:
        right = column.startswith(">")
        table.add_column(
            column.removeprefix(">"), justify="right" if right else "left", overflow="fold", no_wrap=right
        )
    for row in rows:
        table.add_row(*(Text(plain(cell)) for cell in row))
    with console.capture() as captured:  # rich would end the program itself when the pipe is closed
        console.print(table)
    print(captured.get(), end="")


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of short texts with their columns below each other; what a table is, without its 80 ms."""
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def dollars(usd: float | None) -> str:
    """An amount, to six digits where it is small; ``unknown`` where it is."""
    if usd is None:
        return "unknown"
    return f"${usd:.2f}" if usd == 0 or usd >= 1 else f"${usd:.6f}"


def utc(epoch_seconds: float) -> str:
    """A time as people write it, in UTC."""
    from datetime import UTC, datetime

    return datetime.fromtimestamp(epoch_seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
