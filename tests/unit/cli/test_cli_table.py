"""Tables as text, at every width: names stay whole, no line is padded, the rest is folded or stacked."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from attune.cli._table import blocks, paragraph, table

COLUMNS = ("candidate", ">cost", "why")
ROWS = [
    (
        "anthropic/claude-sonnet-5-5#api_key",
        "$1.00",
        "capable is enough for it, and it is the cheapest of them",
    ),
    ("o/m#k", "$12.00", ""),
]


def test_a_table_that_fits_has_its_numbers_to_the_right_and_no_padding() -> None:
    assert table(COLUMNS, [("a", "$1.00", "x"), ("bb", "$12.00", "")]).splitlines() == [
        "candidate    cost  why",
        "----------------------",
        "a           $1.00  x",
        "bb         $12.00",
    ]


def test_the_last_text_is_folded_where_it_alone_is_too_wide() -> None:
    assert table(COLUMNS, ROWS, width=83).splitlines()[2:] == [
        "anthropic/claude-sonnet-5-5#api_key   $1.00  capable is enough for it, and it is",
        "                                             the cheapest of them",
        "o/m#k                                $12.00",
    ]


def test_a_narrow_terminal_gets_a_block_for_each_row() -> None:
    assert table(COLUMNS, ROWS, width=60, lead=2).splitlines() == [
        "anthropic/claude-sonnet-5-5#api_key  cost $1.00",
        "    capable is enough for it, and it is the cheapest of them",
        "o/m#k                                cost $12.00",
    ]


def test_numbers_are_named_and_are_not_torn_from_their_names() -> None:
    rows = [("name", "1", "22", "333")]
    shown = blocks(("model", ">recent failures", ">samples", ">p95 ms"), rows, width=40)
    assert shown.splitlines() == ["name", "    recent failures 1; samples 22;", "    p95 ms 333"]


def test_a_first_line_that_is_too_long_breaks_between_its_cells() -> None:
    rows = [("1", "local/smollm2-135m-instruct (no key needed)", "cheap", "0.780")]
    shown = blocks((">", "candidate", "tier", ">score"), rows, width=60, lead=4)
    assert shown.splitlines() == [
        "1  local/smollm2-135m-instruct (no key needed)  cheap",
        "    score 0.780",
    ]


def test_a_paragraph_is_folded_at_blanks_only() -> None:
    assert paragraph("a " + "b" * 30 + " c", 10).splitlines() == ["a", "  " + "b" * 30, "  c"]
    assert paragraph("a " * 100) == "a " * 100


names = st.text(st.characters(categories=["L", "N"], include_characters="/#-._"), min_size=1, max_size=45)
texts = st.text(st.characters(categories=["L", "N"], include_characters=" -"), max_size=120).map(
    lambda text: " ".join(text.split())
)


@given(st.lists(st.tuples(names, names, names, texts), max_size=4), st.integers(50, 200), st.integers(1, 3))
def test_no_name_is_ever_cut_and_no_line_is_padded_or_empty(rows, width, lead) -> None:
    shown = table(("model", "tier", ">cost", "why"), rows, width=width, lead=lead)
    words = shown.split()
    for name, tier, cost, _ in rows:
        assert {name, tier, cost} <= {word.rstrip(";") for word in words} | set(words)
    for line in shown.splitlines():
        assert line == line.rstrip() != ""
        assert len(line) <= width or len(line.split()) <= 2
