"""Tables as text: columns where they fit, else a block of lines for each row. No name is ever cut."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["blocks", "paragraph", "table"]

GAP = "  "
_HARD_BLANK = "\N{NO-BREAK SPACE}"
MIN_TEXT_COLUMNS = 36
"""A last column of text that would get less than this is put on lines of its own."""


def table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, width: int | None = None, lead: int = 1
) -> str:
    """Rows below a header; a column whose name starts with ``>`` is aligned right.

    With a ``width`` the text of the last column is folded, or else ``blocks`` are made, ``lead``
    being how many columns then share the first line.
    """
    headers = [column.removeprefix(">") for column in columns]
    sizes = [max(map(len, cells)) for cells in zip(headers, *rows, strict=True)]
    folded = None if width is None else width - sum(sizes[:-1]) - len(GAP) * (len(sizes) - 1)
    if folded is not None and folded < sizes[-1]:
        if folded < MIN_TEXT_COLUMNS or columns[-1].startswith(">"):
            return blocks(columns, rows, width=width, lead=lead)
        sizes[-1] = folded
    lines = [*_row(columns, headers, sizes), "-" * (sum(sizes) + len(GAP) * (len(sizes) - 1))]
    return "\n".join([*lines, *(line for row in rows for line in _row(columns, row, sizes))])


def blocks(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, width: int | None = None, lead: int = 1
) -> str:
    """A block for each row: the first ``lead`` columns on one line, below it the numbers with their
    names, then each text.
    """
    heads = [[_named(column, cell) for column, cell in zip(columns, row, strict=True)][:lead] for row in rows]
    sizes = [max(map(len, cells)) for cells in zip(*heads, strict=True)]
    if width is not None and sum(sizes) + len(GAP) * (lead - 1) > width:
        sizes = [0] * lead  # aligned they would not fit, one by one they may
    lines: list[str] = []
    for head, row in zip(heads, rows, strict=True):
        line = GAP.join(cell.ljust(size) for cell, size in zip(head, sizes, strict=True) if cell)
        lines.append(paragraph(line.rstrip(), width, "    "))
        rest = list(zip(columns[lead:], row[lead:], strict=True))
        numbers = "; ".join(_named(column, cell) for column, cell in rest if column[0] == ">")
        texts = [numbers, *(cell for column, cell in rest if column[0] != ">")]
        lines += [paragraph(f"    {text}", width, "    ") for text in texts if text]
    return "\n".join(lines).replace(_HARD_BLANK, " ")


def paragraph(text: str, width: int | None = None, indent: str = "  ") -> str:
    """A text folded at blanks, its further lines indented; without a ``width`` as it is."""
    if width is None or len(text) <= width:
        return text
    return textwrap.fill(
        text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def _named(column: str, cell: str) -> str:
    """A number with the name of its column, which no fold tears apart; a text speaks for itself."""
    return f"{column[1:]} {cell}".strip().replace(" ", _HARD_BLANK) if column.startswith(">") else cell


def _row(columns: Sequence[str], cells: Sequence[str], sizes: Sequence[int]) -> list[str]:
    """The lines of one row: one, or more where the last cell is folded."""
    *first, last = cells
    start = "".join(
        (cell.rjust(size) if column.startswith(">") else cell.ljust(size)) + GAP
        for column, cell, size in zip(columns[:-1], first, sizes[:-1], strict=True)
    )
    if columns[-1].startswith(">"):
        return [start + last.rjust(sizes[-1])]
    folded = textwrap.wrap(last, sizes[-1], break_long_words=False, break_on_hyphens=False) or [""]
    return [
        (start if place == 0 else " " * len(start)) + text if text else start.rstrip()
        for place, text in enumerate(folded)
    ]
