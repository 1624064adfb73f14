"""What people and programs see on standard output."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from attune.cli._exit import note, plain, print_json
from attune.cli._table import blocks, paragraph, table

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Mapping, Sequence

    from attune.config import Config

__all__ = [
    "counted",
    "dollars",
    "fitted",
    "folded",
    "load_config",
    "print_blocks",
    "print_json",
    "print_table",
    "utc",
]


def load_config(args: argparse.Namespace, flags: Mapping[str, Any] | None = None) -> Config:
    """The configuration that the arguments name, its notices shown. Raises ``ConfigError``."""
    from attune.config import load

    config = load(getattr(args, "config", None), flags=flags)
    for notice in config.notices:
        note(notice)
    return config


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, lead: int = 1) -> None:
    """A table as ``attune.cli._table.table`` makes it, as wide as the terminal allows."""
    print(fitted(columns, rows, lead=lead))


def fitted(columns: Sequence[str], rows: Iterable[Sequence[str]], *, lead: int = 1) -> str:
    """The text of ``print_table``."""
    return table(columns, [[plain(cell) for cell in row] for row in rows], width=_width(), lead=lead)


def print_blocks(columns: Sequence[str], rows: Iterable[Sequence[str]], *, lead: int) -> None:
    """A block of lines for each row, whatever the width."""
    print(blocks(columns, [[plain(cell) for cell in row] for row in rows], width=_width(), lead=lead))


def folded(text: str, indent: str = "") -> str:
    """A sentence on lines that the terminal has room for, further in than ``indent`` after the first."""
    return paragraph(indent + plain(text), _width(), indent + "  ")


def _width() -> int | None:
    """The columns of the terminal; ``None`` in a file or a pipe, where lines have no end."""
    if not sys.stdout.isatty():
        return None
    import shutil

    return shutil.get_terminal_size().columns


def counted(number: int, what: str) -> str:
    """A number of things: ``1 call``, ``2 calls``."""
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def dollars(usd: float | None) -> str:
    """An amount, to six digits where it is small; ``unknown`` where it is."""
    if usd is None:
        return "unknown"
    return f"${usd:.2f}" if usd == 0 or usd >= 1 else f"${usd:.6f}"


def utc(epoch_seconds: float) -> str:
    """A time as people write it, in UTC."""
    from datetime import UTC, datetime

    return datetime.fromtimestamp(epoch_seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
