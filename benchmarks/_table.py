"""Plain tables, aligned in columns; the first column to the left, the others to the right."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def show(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print one table."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    print(f"\n{title}\n")
    for row in (header, ["-" * width for width in widths], *rows):
        first, *others = (
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        print("  ".join([first, *others]))


def verdict(value: float, target: float | None) -> str:
    """Whether a figure keeps its target ("" without one)."""
    if target is None:
        return ""
    return f"<= {target:g} kept" if value <= target else f"<= {target:g} MISSED"
