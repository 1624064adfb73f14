"""The picture of a simulation, drawn by the real program: well-formed, whole, and readable on dark."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import pytest

from support.program import Program
from support.routing_table import records, write

if TYPE_CHECKING:
    from pathlib import Path

SVG = "{http://www.w3.org/2000/svg}"
NUMBERS = re.compile(r"-?\d+\.\d,-?\d+\.\d")


def drawn(tmp_path: Path, table: list[dict], *args: str) -> ElementTree.Element:
    program = Program(tmp_path)
    file = write(tmp_path / "table.jsonl", table)
    ended = program("simulate", str(file), *args, "--seeds", "2", "--out", "picture.svg")
    assert ended.code == 0, ended.err
    assert ended.err == ""
    return ElementTree.parse(tmp_path / "picture.svg").getroot()


def texts(root: ElementTree.Element) -> list[str]:
    return [text.text or "" for text in root.iter(f"{SVG}text")]


def test_the_picture_draws_regret_cost_reward_and_shares_within_its_frame(tmp_path: Path) -> None:
    root = drawn(tmp_path, records(240), "--policy", "budget", "--budget", "0.4", "--key", "task")
    heads = [text.text for text in root.iter(f"{SVG}text") if text.get("class") == "head"]
    assert [head.split()[0] for head in heads] == ["Regret", "USD", "Reward", "Shares"]
    assert "budget on table.jsonl: 240 rows, mean of 2 shuffled orders" in texts(root)
    assert {"large", "small", "the budget", "best model: large"} <= set(texts(root))
    _, _, width, height = map(float, root.get("viewBox").split())
    shapes = [*root.iter(f"{SVG}polyline"), *root.iter(f"{SVG}polygon")]
    assert len(shapes) == 5 + 4 + 5 + 3 + 2
    for shape in shapes:
        for point in shape.get("points").split():
            assert NUMBERS.fullmatch(point)
            x, y = map(float, point.split(","))
            assert 0 <= x <= width
            assert 0 <= y <= height
    assert "prefers-color-scheme: dark" in root.find(f"{SVG}style").text


@pytest.mark.parametrize("count", [1, 2, 7])
def test_a_few_rows_are_enough_for_a_picture(tmp_path: Path, count: int) -> None:
    assert "static" in texts(drawn(tmp_path, records(count), "--policy", "static"))


def test_names_that_xml_cannot_hold_are_made_fit_and_many_models_share_a_place(tmp_path: Path) -> None:
    names = ['a<b>&"c', "bell\x07", "half \ud800", *(f"model-{i}" for i in range(8))]
    arms = {name: {"reward": 0.5, "cost": 0.1 * i} for i, name in enumerate(names)}
    root = drawn(tmp_path, [{"arms": arms}] * 200, "--policy", "thompson")
    shown = texts(root)
    assert "5 others" in shown
    assert not any(ord(c) < 32 for text in shown for c in text)
