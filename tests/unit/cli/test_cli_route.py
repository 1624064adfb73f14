"""``attune route``: the decision as the configuration and the ledger make it."""

from __future__ import annotations

import contextlib
import time

import pytest

from attune.stores.sqlite import SqliteStore
from unit.stores.ledger_records import FAILED, attempt

SERVER = """\
[routing]
policy = "{policy}"
allow_providers = ["mine"]
{line}
[providers.mine]
kind = "openai"
base_url = "http://127.0.0.1:9/v1"
"""

MODEL = """
[[models]]
id = "{}"
provider = "mine"
tier = "capable"
context_window = 100000
"""


@pytest.fixture
def measured(attune):
    """A first model of which 45 of 50 calls succeeded; nothing is known of the second."""
    with contextlib.closing(SqliteStore.open(attune.home / "data" / "ledger.db")) as store:
        for number in range(50):
            record = attempt(f"c{number}", **(FAILED if number % 10 == 0 else {}))
            store.append_attempt(
                record._replace(
                    at=time.time(), workflow="w", provider="mine", model_id="first", cost_nanos=None
                )
            )


def decided(attune):
    return attune.json("route", "--workflow", "w", "--stage", "security", "--task", "review_security")


@pytest.mark.parametrize(
    ("line", "chosen"),
    [("", "first"), ("min_success_rate = 0.95", "second"), ("min_success_rate = 0", "first")],
)
def test_the_success_rate_where_a_call_asks_for_none_is_that_of_the_configuration(
    attune, measured, line, chosen
):
    attune.configure(
        SERVER.format(policy="static", line=line) + MODEL.format("first") + MODEL.format("second")
    )
    shown = decided(attune)
    assert shown["chosen"] == f"mine/{chosen}#none"
    dropped = {each["candidate"]: each["reason"] for each in shown["dropped"]}
    below = {"mine/first#none": "succeeded in 90.0% of 50 calls, below 95.0%"}
    assert dropped == (below if chosen == "second" else {})


def test_a_configured_success_rate_that_nothing_reaches_is_a_preference(attune, measured):
    attune.configure(SERVER.format(policy="static", line="min_success_rate = 0.95") + MODEL.format("first"))
    shown = decided(attune)
    assert shown["chosen"] == "mine/first#none"
    assert shown["notes"][0] == "no candidate reaches a success rate of 95%"


def test_what_would_have_changed_the_choice_is_shown_on_request(attune, measured):
    attune.configure(SERVER.format(policy="best", line="") + MODEL.format("first") + MODEL.format("second"))
    code, out = attune("route", "--workflow", "w", "--stage", "security", "--flips")
    assert code == 0
    table = out.partition("\ncandidate")[2].splitlines()[2:]
    quantities = {line.split("  ")[1].strip() for line in table if line.startswith("mine/first  ")}
    assert quantities == {"success", "latency"}
    assert any(line.startswith("mine/second") and line.endswith("  mine/first") for line in table)
    assert table[-1] == (
        "by no other success, cost or latency of one candidate, all else as it was, would the choice have "
        "been another"
    )


def test_what_the_numbers_of_a_decision_mean_stands_below_them(attune, measured):
    attune.configure(SERVER.format(policy="static", line="") + MODEL.format("first"))
    _, out = attune("route", "--workflow", "w", "--stage", "security")
    assert (
        "p: the propensity, with what probability it was to be chosen; score: success, latency and cost in "
        "one, at most 1; samples: the calls here that this is known from, with few of them it is assumed"
    ) in out
