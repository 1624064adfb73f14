"""``attune simulate`` on small tables: what it says, what it refuses, what it draws."""

from __future__ import annotations

import gzip
import json
import math
import re
import sys

import pytest

from attune.cli import _simulate_table
from support.routing_table import records, write

BEST = {"arms": {"large": {"reward": 1, "cost": 1.0}, "small": {"reward": 0, "cost": 0.1}}}
SPENT = ("--policy", "budget", "--budget", "0.4", "--key", "task")


@pytest.fixture
def table(tmp_path):
    return str(write(tmp_path / "table.jsonl", records(600)))


@pytest.fixture
def refused(attune, tmp_path):
    """The one line that a table with these lines is refused with."""

    def run(*lines: object, args=("--policy", "thompson"), code: int = 2) -> str:
        file = tmp_path / "bad.jsonl"
        text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
        file.write_text(text, encoding="utf-8")
        assert attune("simulate", str(file), *args) == (code, "")
        assert attune.err.count("\n") == 1
        return attune.err.removeprefix("attune: ").replace(str(tmp_path) + "/", "").rstrip("\n")

    return run


def contender(found, name):
    return next(each for each in found["contenders"] if each["name"] == name)


# -- what it says ----------------------------------------------------------------------------------------


def test_the_json_has_every_contender_with_intervals_halves_and_the_worst_seed(attune, table):
    found = attune.json("simulate", table, *SPENT, "--seeds", "3")
    assert (found["rows"], found["keys"], found["key"], found["seeds"]) == (600, 3, "task", 3)
    assert [each["kind"] for each in found["contenders"]] == [
        "policy",
        "baseline",
        "baseline",
        "static_hull",
        "clairvoyant",
        "single_model",
        "single_model",
    ]
    for each in found["contenders"]:
        for part in (each["whole"], each["second_half"]):
            assert set(part["shares"]) == {"large", "small"}
            for name in ("reward", "cost_usd", "regret_best_single", "regret_row_oracle"):
                estimate = part[name]
                assert estimate["low"] <= estimate["mean"] <= estimate["high"]
                assert estimate["least"] <= estimate["mean"] + 1e-9
                assert estimate["worst_seed"] == estimate["least" if name == "reward" else "greatest"]
    budget = contender(found, "budget")["whole"]
    assert budget["cost_usd"]["mean"] == pytest.approx(0.4, rel=0.1)
    assert contender(found, "static hull, same spend")["whole"]["cost_usd"] == budget["cost_usd"]
    assert contender(found, "clairvoyant per key")["whole"]["cost_usd"]["mean"] == pytest.approx(0.4)
    assert found["best_single_model"] == "large"


@pytest.fixture
def tiers(tmp_path):
    file = tmp_path / "large-first.toml"
    file.write_text('[tiers]\npremium = ["large"]\ncheap = ["small"]\n')
    return str(file)


def test_the_policy_that_is_asked_for_is_the_one_that_runs(attune, table, tiers):
    shares = {}
    for policy in ("static", "best", "guarded", "thompson"):
        args = ("--policy", policy, "--key", "task", "--seeds", "2", "--tiers", tiers)
        found = attune.json("simulate", table, *args)
        assert found["contenders"][0]["name"] == policy
        shares[policy] = found["contenders"][0]["whole"]["shares"]["large"]["mean"]
    assert shares["static"] == 1.0
    assert 0.3 < shares["guarded"] < 1.0
    assert len(set(shares.values())) == 4


def test_guarded_without_tiers_says_that_it_knows_of_nothing_cheaper(attune, table):
    _, out = attune("simulate", table, "--policy", "guarded", "--seeds", "1")
    assert "note: guarded tries only what it knows to be cheaper; without --tiers it knows of nothing" in out


def test_the_verdict_is_equal_for_what_is_one_model_and_undecided_from_one_order(attune, table):
    static = attune.json("simulate", table, "--policy", "static", "--seeds", "2")
    assert static["verdict"]["whole"]["against_best_single_model"] == "equal"
    once = attune.json("simulate", table, "--policy", "thompson", "--seeds", "1")
    assert once["verdict"]["whole"]["against_static_hull"] == "undecided"
    assert once["contenders"][0]["whole"]["reward"]["low"] is None


def test_people_get_a_table_and_are_told_plainly_what_was_beaten(attune, table):
    code, out = attune("simulate", table, *SPENT, "--seeds", "4")
    assert code == 0
    assert out.startswith("600 rows, 3 keys (task), 2 models, replayed in 4 shuffled orders")
    assert "budget beat the static hull (the best fixed mixture of models at the same spend): +0.0" in out
    assert "budget did not beat the best single model, large, at 0.4" in out
    assert "in the worst order" in out
    assert "other rows can differ by more" in out
    assert attune.err == ""  # no bar where nobody looks


def test_one_order_is_said_to_give_no_interval(attune, table):
    _, out = attune("simulate", table, "--policy", "thompson", "--seeds", "1")
    assert "thompson was not told apart from the static hull" in out
    assert "in one order, which gives no interval" in out
    assert "±" not in out.split("\n", 1)[1]


def test_a_table_with_text_fields_is_offered_a_key_and_static_says_what_it_follows(attune, table):
    _, out = attune("simulate", table, "--policy", "static", "--seeds", "1")
    assert "note: no key was used; this table could have one: --key task" in out
    assert "note: the static table's choice is large, the first model of the first row; --tiers FILE" in out
    assert "static earned as much as the best single model, large, at 1 times its cost" in out


def test_a_budget_below_the_cheapest_model_is_pointed_out(attune, table):
    _, out = attune("simulate", table, "--policy", "budget", "--budget", "0.001", "--seeds", "1")
    assert "note: even the cheapest model costs 0.0" in out


def test_of_many_models_the_most_called_are_shown(attune, tmp_path):
    arms = {f"provider/m{i}": {"reward": 0.5, "cost": 0.1} for i in range(8)}
    file = str(write(tmp_path / "many.jsonl", [{"arms": arms}] * 400))
    _, out = attune("simulate", file, "--policy", "thompson", "--seeds", "2")
    line = next(line for line in out.splitlines() if line.startswith("random"))
    assert re.search(r"m\d 1\d\.\d%, m\d 1\d\.\d%, m\d 1\d\.\d%, 5 others \d\d\.\d%$", line)


def test_models_that_cost_nothing_are_no_obstacle(attune, tmp_path):
    free = [{"arms": {"a": {"reward": i % 2, "cost": 0}, "b": {"reward": 1, "cost": 0}}} for i in range(60)]
    file = str(write(tmp_path / "free.jsonl", free))
    code, out = attune("simulate", file, "--policy", "budget", "--budget", "1", "--seeds", "2")
    assert (code, "both at no cost" in out, "nan" in out) == (0, True, False)


def test_a_bar_is_shown_on_a_terminal_and_only_on_standard_error(attune, table, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    code, out = attune("simulate", table, "--policy", "static", "--seeds", "1", "--json")
    assert code == 0
    json.loads(out)


def test_a_picture_that_cannot_be_written_in_the_end_costs_no_figures(attune, table, tmp_path):
    (tmp_path / "full.svg").symlink_to("/dev/full")
    for name in ("full.svg", f"{'x' * 300}.svg"):
        args = ("simulate", table, "--policy", "static", "--seeds", "1", "--json")
        code, out = attune(*args, "--out", str(tmp_path / name))
        assert code == 2
        assert json.loads(out)["rows"] == 600
        assert "cannot write" in attune.err
        assert attune.err.count("\n") == 1


def test_the_same_command_gives_the_same_figures(attune, table):
    one, two = (attune.json("simulate", table, *SPENT, "--seeds", "2") for _ in range(2))
    assert one == two


def test_tiers_give_the_order_of_the_static_table_and_are_shown(attune, table, tmp_path):
    tiers = tmp_path / "tiers.toml"
    tiers.write_text('[tiers]\ncheap = ["small"]\npremium = ["large"]\n')
    args = ("simulate", table, "--policy", "static", "--seeds", "1", "--tiers", str(tiers))
    found = attune.json(*args)
    assert (found["models"], found["tiers"]) == (["small", "large"], {"small": 0, "large": 2})
    assert found["contenders"][0]["whole"]["shares"]["small"]["mean"] == 1.0
    assert "the static table's choice is small, the first model of the tiers" in attune(*args)[1]


def test_a_slow_model_is_left_and_the_best_single_model_is_one_that_is_quick_enough(attune, table):
    args = ("simulate", table, "--policy", "thompson", "--key", "task", "--seeds", "2")
    free, quick = attune.json(*args), attune.json(*args, "--max-latency-ms", "1000")
    assert free["best_single_model"] == "large"
    assert quick["best_single_model"] == "small"
    assert quick["contenders"][0]["whole"]["shares"]["large"]["mean"] < 0.05
    assert contender(quick, "clairvoyant per key")["whole"]["shares"]["large"]["mean"] == 0.0
    assert (free["max_latency_ms"], quick["max_latency_ms"]) == (None, 1000.0)


@pytest.mark.parametrize("packed", [True, False])
def test_a_table_may_be_packed_and_have_blank_lines_a_mark_and_odd_separators(attune, tmp_path, packed):
    lines = [json.dumps({**record, "prompt": "a\u2028b"}, ensure_ascii=False) for record in records(30)]
    content = ("\ufeff" + "\r\n\n".join(lines)).encode()
    file = tmp_path / "table.jsonl"
    file.write_bytes(gzip.compress(content) if packed else content)
    assert attune.json("simulate", str(file), "--policy", "static", "--seeds", "1")["rows"] == 30


# -- what it refuses -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("nonsense", "bad.jsonl line 2: this is not JSON; a row is an object on one line"),
        ("[" * 100_000, "bad.jsonl line 2: this is not JSON"),
        ("[1]", "bad.jsonl line 2: a row is a JSON object, not list"),
        ({"arms": {}}, 'bad.jsonl line 2: "arms" must map each model to its reward and cost'),
        ({"prompt": "x"}, 'bad.jsonl line 2: "arms" must map each model'),
        ({"arms": {"large": BEST["arms"]["large"]}}, "line 2: has no result of 'small'; every row needs all"),
        ({"arms": {**BEST["arms"], "new": {"reward": 1, "cost": 1}}}, "line 2: has a result of 'new', which"),
        (
            {"arms": {"large": {"reward": 2, "cost": 1}}},
            "line 2, model large: the reward must be a number from",
        ),
        ({"arms": {"large": {"reward": math.nan, "cost": 1}}}, "from 0 to 1, not nan"),
        (
            {"arms": {"large": {"reward": 1, "cost": -1}}},
            "the cost must be a number of USD, 0 or more, not -1",
        ),
        ({"arms": {"large": {"reward": 1, "cost": math.inf}}}, "and below 1e+12, not inf"),
        ('{"arms": {"large": {"reward": 1, "cost": 1' + "0" * 9000 + "}}}", "and below 1e+12, not inf"),
        ({"arms": {"large": 1}}, "line 2, model large: must be an object with a reward and a cost"),
    ],
)
def test_a_bad_row_is_one_line_that_names_the_file_and_the_line(refused, row, says):
    assert says in refused(BEST, row)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (
            {"arms": {"large": {"reward": 1, "cost": 1}}},
            "line 1: has one model, 'large', so there is nothing to",
        ),
        (
            {"arms": {str(i): {"reward": 1, "cost": 1} for i in range(51)}},
            "line 1: has 51 models; a table has",
        ),
        ({"arms": {" ": {"reward": 1, "cost": 1}, "b": {"reward": 1, "cost": 1}}}, "1 to 100 characters"),
        ("", "bad.jsonl is empty; a table has one JSON object a line, a task each"),
    ],
)
def test_the_first_row_says_which_models_there_are(refused, row, says):
    assert says in refused(row)


def test_an_unknown_key_field_is_told_the_nearest_one(refused):
    rows = [{**BEST, "task": "sql"}, BEST]
    args = ("--policy", "thompson", "--key")
    assert "unknown key field 'tasks' in bad.jsonl line 1; did you mean 'task'?" in refused(
        *rows, args=(*args, "tasks")
    )
    assert "bad.jsonl line 2: the key field 'task' is missing or not a text" in refused(
        *rows, args=(*args, "task")
    )


def test_a_limit_on_latency_needs_the_latency_of_every_result(refused):
    says = refused(BEST, args=("--policy", "thompson", "--max-latency-ms", "100"))
    assert says == (
        "bad.jsonl line 1, model large: has no latency_ms; --max-latency-ms needs that of every result"
    )


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--policy", "thomson"), "unknown policy 'thomson'; did you mean 'thompson'?"),
        (("--policy", "budget"), "--policy budget needs --budget, in USD a call"),
        (
            ("--policy", "thompson", "--budget", "1"),
            "--budget is for --policy budget; --policy thompson takes",
        ),
        (("--policy", "budget", "--budget", "0"), "--budget is in USD a call, above 0, not 0"),
        (("--policy", "budget", "--budget", "nan"), "--budget is in USD a call, above 0, not nan"),
        (
            ("--policy", "best", "--max-latency-ms", "-1"),
            "--max-latency-ms is in milliseconds, above 0, not -1",
        ),
        (("--policy", "best", "--seeds", "0"), "--seeds must be from 1 to 200, not 0"),
        (
            ("--policy", "best", "--out", "a.png"),
            "--out a.png: pictures are drawn as SVG only; give a name ending",
        ),
        (("--policy", "best", "--out", "gone/a.svg"), "--out gone/a.svg: cannot be written there"),
    ],
)
def test_options_that_make_no_sense_are_refused_before_anything_runs(attune, table, args, says):
    assert attune("simulate", table, *args) == (2, "")
    assert says in attune.err
    assert attune.err.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            '[tiers]\n\ncheap = ["smal"]',
            "tiers.toml line 3: [tiers] cheap: unknown model 'smal'; did you mean 'small'?",
        ),
        (
            '[tiers]\ncheep = ["small"]',
            "tiers.toml line 2: unknown key 'cheep' in [tiers]; did you mean 'cheap'?",
        ),
        (
            '[tiers]\ncheap = ["small"]\npremium = ["small"]',
            "line 3: [tiers] premium: 'small' is named twice",
        ),
        ("", 'no tiers: write [tiers] and in it, say, cheap = ["MODEL"]'),
    ],
)
def test_a_wrong_file_of_tiers_is_one_line_and_code_3(attune, table, tmp_path, text, says):
    tiers = tmp_path / "tiers.toml"
    tiers.write_text(text)
    assert attune("simulate", table, "--policy", "static", "--tiers", str(tiers)) == (3, "")
    assert says in attune.err
    assert attune.err.count("\n") == 1


def test_a_table_that_is_too_large_is_refused(refused, monkeypatch):
    monkeypatch.setattr(_simulate_table, "MAX_ROWS", 2)
    assert "line 3: a table has at most 2 rows; take a sample of it" in refused(BEST, BEST, BEST)
    monkeypatch.setattr(_simulate_table, "MAX_BYTES", 10)
    assert "MiB unpacked; take a sample of its rows" in refused(BEST)


def test_a_file_that_is_no_table_is_refused(attune, tmp_path):
    cut = tmp_path / "cut.gz"
    cut.write_bytes(gzip.compress(b"x" * 1000)[:20])
    latin = tmp_path / "latin.jsonl"
    latin.write_bytes(b'{"arms": "\xff"}')
    for name, says in (
        (str(tmp_path / "gone.jsonl"), "does not exist; name a file of JSON lines"),
        (str(tmp_path), "is not a regular file"),
        (str(cut), "cannot read"),
        (str(latin), "line 1: this is not UTF-8 text"),
    ):
        assert attune("simulate", name, "--policy", "static") == (2, "")
        assert says in attune.err
        assert attune.err.count("\n") == 1
