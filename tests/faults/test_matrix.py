"""Every kind of fault, in every protocol, comes to what the table says."""

from __future__ import annotations

from pathlib import Path

import pytest

from faults.matrix import KEY, Cell, Outcome, cells, play_all, small
from faults.matrix_expected import EXPECTED, everything, expected
from faults.matrix_page import TITLES, page
from support.faults import FAULTS
from support.scale import SCALE
from support.stalls import anew_after_a_stall

DOCS = Path(__file__).resolve().parents[2] / "docs"
UNREACHABLE = {kind for kind, fault in FAULTS.items() if fault.place != "server"}


def chosen(kind: str) -> list[Cell]:
    return small(kind) if SCALE == "test" else cells([kind])


@pytest.mark.parametrize("kind", FAULTS)
@anew_after_a_stall
async def test_a_fault_comes_to_what_the_table_says(kind: str, tmp_path: Path) -> None:
    outcomes = await play_all(chosen(kind), tmp_path)
    for cell, outcome in outcomes.items():
        assert outcome == expected(cell), cell
        holds_for_every_fault(cell, outcome)
    for file in tmp_path.rglob("*"):
        assert not (file.is_file() and KEY.encode() in file.read_bytes()), f"a key is in {file.name}"


def holds_for_every_fault(cell: Cell, outcome: Outcome) -> None:
    """What must be true whatever the table says."""
    saw, message, asked, _, recorded = outcome
    assert "WRONG" not in saw, cell
    assert len(recorded) <= (4 if cell.mode != "fifth run" else 20), cell
    assert KEY not in message, cell
    assert "\n" not in message, cell
    for service in asked.split(", "):
        name, requests = service.split(" ")
        attempts = sum(line.startswith(f"{name}: ") for line in recorded)
        assert attempts == int(requests) or (cell.kind in UNREACHABLE and name == "first"), cell
    succeeded = [line for line in recorded if ": ok" in line]
    calls = 5 if cell.mode == "fifth run" else 1
    assert len(succeeded) == calls * saw.startswith("answer of"), cell
    if cell.setting == "with a second" and cell.mode != "stream" and cell.kind != "400":
        assert saw.startswith("answer of"), cell


def test_the_table_and_the_page_have_the_28_kinds() -> None:
    assert list(EXPECTED) == list(TITLES) == list(FAULTS)
    assert len(FAULTS) == 28


def test_the_page_of_the_documentation_is_what_the_matrix_says() -> None:
    committed = (DOCS / "reference" / "what-happens-when.md").read_text("utf-8")
    assert committed == page(everything()), "write it anew with `make docs`"
