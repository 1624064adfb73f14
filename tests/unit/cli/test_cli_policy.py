"""``attune policy diff`` on a real ledger: what it answers, what it refuses, and how it ends."""

from __future__ import annotations

import json
import random
import time

import pytest

from attune.models.telemetry import (
    CostStatus,
    DecisionRecord,
    DroppedCandidate,
    LLMCallRecord,
    Outcome,
    ScoredCandidate,
    TokenUsage,
)
from attune.stores.sqlite import SqliteStore

CONFIGURATION = """\
[providers.mine]
kind = "openai"
base_url = "http://127.0.0.1:9/v1"

[tiers]
cheap = ["mine/small"]
capable = ["mine/large", "mine/other"]
"""
MODEL = """
[[models]]
id = "{}"
provider = "mine"
tier = "{}"
context_window = 100000
max_output_tokens = 1000
input_price = {}
output_price = {}
"""
MODELS = (("small", "cheap", 0.1, 0.5), ("large", "capable", 1.0, 5.0), ("other", "capable", 0.2, 1.0))
TIERS = {model_id: tier for model_id, tier, _, _ in MODELS}
USAGE = TokenUsage(1000, 200)
LARGE_USD, OTHER_USD, SMALL_USD = 0.002, 0.0004, 0.0002
NOW = time.time()


def scored(model_id: str, propensity: float, credential: str = "key", score: float = 0.5) -> ScoredCandidate:
    return ScoredCandidate(
        "mine",
        model_id,
        credential,
        TIERS.get(model_id, "capable"),
        score,
        0.9,
        100.0,
        0.001,
        10,
        0,
        propensity,
    )


class Ledger:
    """What a running process writes: decisions among models, attempts, outcomes."""

    def __init__(self, home) -> None:
        self.store = SqliteStore.open(home / "data" / "ledger.db")
        self.number = 0

    def call(
        self,
        ranked,
        *,
        outcome: bool | None = None,
        attempts=None,
        session: str = "",
        days_ago: float = 1.0,
        task: str = "fix_bug",
        features=(("input_tokens", "1000"), ("max_output_tokens", "200")),
    ) -> str:
        """One call; without ``attempts`` the first of ``ranked`` answered."""
        self.number += 1
        call_id, at = f"call-{self.number}", NOW - 86_400 * days_ago
        self.store.append_decision(
            DecisionRecord(
                decision_id=call_id,
                call_id=call_id,
                at=at,
                workflow="work",
                stage="stage",
                task_type=task,
                base_tier="capable",
                tier="capable",
                policy="mix/1",
                reason="why",
                ranked=tuple(ranked),
                dropped=(DroppedCandidate("mine", "gone", "key", "capable", "its circuit is open"),),
                features=features,
            )
        )
        made = [{"model_id": ranked[0].model_id}] if attempts is None else attempts
        for position, fields in enumerate(made):
            base = LLMCallRecord(
                call_id=call_id,
                attempt_id=f"{call_id}.{position}",
                decision_id=call_id,
                at=at,
                workflow="work",
                stage="stage",
                task_type=task,
                provider="mine",
                model_id="large",
                tier="capable",
                credential="key",
                success=True,
                latency_ms=100.0,
                usage=USAGE,
                cost_nanos=77,
                cost_status=CostStatus.EXACT,
                position=position,
                session_id=session,
            )
            self.store.append_attempt(base._replace(**fields))
        if outcome is not None:
            self.store.record_outcome(Outcome(call_id, at, outcome))
        return call_id


@pytest.fixture
def ledger(attune):
    attune.configure(CONFIGURATION + "".join(MODEL.format(*model) for model in MODELS))
    opened = Ledger(attune.home)
    yield opened
    opened.store.close()


@pytest.fixture
def policy(attune):
    def write(text: str, name: str = "policy.toml") -> str:
        (attune.home / name).write_text(text)
        return str(attune.home / name)

    return write


@pytest.fixture
def diff(attune, ledger):
    """Runs the command with ``--json`` after what was written is in the file: exit code and what it says."""

    def run(*args: str) -> tuple[int, dict]:
        ledger.store.close()
        code, out = attune("policy", "diff", "--json", *args)
        return code, json.loads(out)

    return run


def mixed(ledger: Ledger, calls: int = 600, *, other_succeeds: float = 0.9, **fields) -> None:
    """Calls of a policy that draws "large" and "other" as often, two calls a session."""
    generator = random.Random(1)
    for number in range(calls):
        order = ["large", "other"] if generator.random() < 0.5 else ["other", "large"]
        rate = 0.9 if order[0] == "large" else other_succeeds
        ledger.call(
            [scored(name, 0.5) for name in order],
            outcome=generator.random() < rate,
            session=f"session-{number // 2}",
            **fields,
        )


ALWAYS_OTHER = '[policy]\nkind = "static"\n[tiers]\ncapable = ["mine/other"]\n'


# -- answers ---------------------------------------------------------------------------------------------


def test_a_cheaper_model_as_good_is_proven_within_the_limits(ledger, policy, diff):
    mixed(ledger)
    code, found = diff("--to", policy(ALWAYS_OTHER), "--max-success-drop", "10%")
    assert (code, found["verdict"]) == (0, "within")
    assert found["target"]["cost_usd"]["value"] == pytest.approx(OTHER_USD)
    assert found["current"]["cost_usd"]["value"] == pytest.approx((OTHER_USD + LARGE_USD) / 2, rel=0.05)
    assert found["difference"]["success"]["low"] > -0.1
    assert found["target"]["effective"] == pytest.approx(300, abs=40)
    assert found["target"]["largest_weight"] == pytest.approx(2.0)
    assert found["target"]["unsupported"] == 0.0
    assert found["calls"] == 600


def test_the_price_of_today_counts_and_not_what_a_call_cost_then(ledger, policy, diff):
    mixed(ledger, 200)  # every attempt is recorded as 77 nano-dollars
    found = diff("--to", policy('[policy]\nkind = "static"\n'))[1]
    assert found["target"]["cost_usd"]["value"] == pytest.approx(LARGE_USD)


def test_a_dearer_model_is_proven_beyond_the_limits_with_code_6(ledger, policy, diff):
    mixed(ledger)
    code, found = diff("--to", policy('[policy]\nkind = "static"\n'))
    assert (code, found["verdict"]) == (6, "beyond")


def test_a_model_that_fails_more_is_proven_beyond_the_limits(ledger, policy, diff):
    mixed(ledger, other_succeeds=0.6)
    code, found = diff("--to", policy(ALWAYS_OTHER))
    assert code == 6
    assert found["difference"]["success"]["value"] == pytest.approx(-0.15, abs=0.06)


def test_limits_that_the_interval_holds_are_undecided_with_code_7(ledger, policy, diff):
    mixed(ledger, 300)
    code, found = diff("--to", policy(ALWAYS_OTHER), "--max-success-drop", "0%")
    assert (code, found["verdict"]) == (7, "undecided")
    assert found["difference"]["success"]["value"] is not None


def test_the_policy_that_decided_differs_from_itself_by_nothing(ledger, policy, diff):
    mixed(ledger, 100)
    text = '[policy]\nkind = "mix"\n[weights]\n"mine/large" = 1\nother = 1\n'
    code, found = diff("--to", policy(text), "--max-cost-increase", "0%", "--max-success-drop", "0%")
    assert code == 0
    assert found["difference"]["success"] == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_the_highest_logged_score_is_what_best_would_have_chosen(ledger, policy, diff):
    for number in range(300):
        name = ("large", "other")[number % 2]
        rest = ("large", "other")[1 - number % 2]
        scores = {"large": 0.2, "other": 0.8}
        ledger.call([scored(n, 0.5, score=scores[n]) for n in (name, rest)])
    found = diff("--to", policy('[policy]\nkind = "best"\n'))[1]
    assert found["target"]["cost_usd"]["value"] == pytest.approx(OTHER_USD)


def test_a_task_may_be_given_another_tier_and_a_tier_that_was_asked_for_stands(ledger, policy, diff):
    for number in range(400):
        names = ["small", "large"] if number % 2 else ["large", "small"]
        asked = (("tier", "capable"),) if number % 4 < 2 else ()
        ledger.call([scored(name, 0.5) for name in names], features=(*asked, ("input_tokens", "1000")))
    found = diff("--to", policy('[policy]\nkind = "static"\n[tasks]\nFix-Bug = "cheap"\n'))[1]
    half_cheap = (SMALL_USD + LARGE_USD) / 2
    assert found["target"]["cost_usd"]["value"] == pytest.approx(half_cheap, rel=0.02)


def test_two_files_are_compared_with_each_other(ledger, policy, diff):
    mixed(ledger)
    current = policy('[policy]\nkind = "static"\n', "now.toml")
    code, found = diff("--from", current, "--to", policy(ALWAYS_OTHER), "--max-success-drop", "20%")
    assert code == 0
    assert found["current"]["policy"] == "static (now.toml)"
    assert found["current"]["cost_usd"]["value"] == pytest.approx(LARGE_USD)


# -- what a call is --------------------------------------------------------------------------------------


def test_what_a_fallback_spent_and_saved_belongs_to_what_was_drawn(ledger, policy, diff):
    failed = {"success": False, "error_class": "transient"}
    for number in range(200):
        if number % 2:
            ledger.call([scored("other", 0.5), scored("large", 0.5)])
        else:
            chain = [failed, {"model_id": "other", "chosen_by_policy": False}]
            ledger.call([scored("large", 0.5), scored("other", 0.5)], attempts=chain)
    found = diff("--to", policy('[policy]\nkind = "static"\n'))[1]
    assert found["target"]["success"]["value"] == 1.0
    assert found["target"]["cost_usd"]["value"] == pytest.approx(LARGE_USD + OTHER_USD)


def test_an_answer_that_was_no_use_is_a_failure_and_untold_outcomes_are_said(ledger, policy, diff):
    for number in range(200):
        ledger.call([scored("large", 1.0)], outcome=False if number % 4 == 0 else None)
    found = diff("--to", policy('[policy]\nkind = "static"\n'))[1]
    assert found["target"]["success"]["value"] == pytest.approx(0.75)
    assert any("an outcome was told of 25.0% of the calls" in note for note in found["notes"])


def test_credentials_of_a_model_are_one_choice(ledger, policy, diff):
    for number in range(200):
        first, second = ("a", "b") if number % 2 else ("b", "a")
        ledger.call([scored("large", 0.5, first), scored("large", 0.5, second)])
    code, found = diff("--to", policy('[policy]\nkind = "static"\n'))
    assert code == 0
    assert any("a single candidate" in note for note in found["notes"])


def test_only_the_days_that_are_asked_for_count_and_calls_that_asked_nobody_are_left_out(
    ledger, policy, diff
):
    mixed(ledger, 100, days_ago=9)
    mixed(ledger, 100, days_ago=2)
    ledger.call([scored("large", 1.0)], attempts=[])
    ledger.call([], attempts=[])
    found = diff("--to", policy(ALWAYS_OTHER))[1]
    assert found["calls"] == 100
    assert any("2 calls that no model was asked" in note for note in found["notes"])


def test_a_model_without_a_price_today_costs_what_it_did_then(ledger, policy, diff):
    for _ in range(100):
        ledger.call([scored("retired", 1.0)])
    found = diff("--to", policy('[policy]\nkind = "static"\n'))[1]
    assert found["target"]["cost_usd"]["value"] == pytest.approx(77e-9)
    assert any("100 calls cost what they did then" in note for note in found["notes"])


def test_unknown_costs_are_said_and_prove_nothing(ledger, policy, diff):
    unknown = {"usage": None, "cost_nanos": None, "cost_status": CostStatus.UNKNOWN}
    for _ in range(100):
        ledger.call([scored("large", 1.0)], attempts=[unknown])
    code, found = diff("--to", policy('[policy]\nkind = "static"\n'))
    assert code == 7
    assert found["target"]["cost_usd"] is None
    assert any("100 calls are of unknown cost" in note for note in found["notes"])


# -- refusals --------------------------------------------------------------------------------------------


def test_a_deterministic_log_says_nothing_of_another_model_but_bounds(ledger, policy, diff):
    for _ in range(200):
        ledger.call([scored("large", 1.0), scored("other", 0.0)])
    code, found = diff("--to", policy(ALWAYS_OTHER))
    assert (code, found["target"]["unsupported"]) == (7, 1.0)
    assert found["target"]["success"] == {"value": None, "low": 0.0, "high": 1.0}
    most = (
        1500 * 1.0 + 200 * 5.0
    ) / 1e6  # half as large a prompt again, the longest answer, the dearest model
    assert found["target"]["cost_usd"] == {"value": None, "low": 0.0, "high": pytest.approx(most)}
    assert any("deterministic" in note for note in found["notes"])


def test_what_has_no_price_or_size_cannot_be_bounded(ledger, policy, diff):
    for number in range(100):
        rest, features = (("retired", ()), ("small", (("input_tokens", "9"),)))[number % 2]
        attempts = [{"usage": None, "cost_nanos": 0}]
        ranked = [scored("large", 1.0), scored("other", 0.0), scored(rest, 0.0)]
        ledger.call(ranked, attempts=attempts, features=features)
    code, found = diff("--to", policy(ALWAYS_OTHER))
    assert (code, found["target"]["cost_usd"]) == (7, None)
    assert any("the size of a call or a price is not known" in note for note in found["notes"])


def test_a_policy_chooses_among_what_was_eligible(ledger, policy, diff):
    for _ in range(100):
        ledger.call([scored("large", 1.0), scored("retired", 0.0)])
    ledger.store.close()
    mix = policy('[policy]\nkind = "mix"\n[weights]\n"mine/small" = 1\n', "mix.toml")
    for file in (mix, policy(ALWAYS_OTHER)):
        code, found = diff("--to", file)
        assert code == 0
        assert found["target"]["cost_usd"]["value"] == pytest.approx(LARGE_USD)


@pytest.mark.parametrize("fill", [False, True], ids=["no ledger", "an empty window"])
def test_nothing_to_compare_on_is_undecided(attune, policy, fill):
    if fill:
        opened = Ledger(attune.home)
        opened.call([scored("large", 1.0)], days_ago=20)
        opened.store.close()
    code, out = attune("policy", "diff", "--to", policy('[policy]\nkind = "static"\n'))
    assert (code, out) == (7, "undecided: no calls within the last 7 days: nothing to compare on\n")


def test_probabilities_that_cannot_be_are_refused(ledger, policy, diff):
    for _ in range(30):
        ledger.call([scored("large", 0.0), scored("other", 1.0)])
    code, found = diff("--to", policy(ALWAYS_OTHER))
    assert (code, found["verdict"]) == (7, "undecided")
    assert "none of the 30 logged calls can be used" in found["notes"][0]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            '[policy]\nkind = "statik"',
            "line 2: [policy] kind: unknown kind of policy 'statik'; did you mean 'static'?",
        ),
        ('[policy]\nknd = "static"', "line 2: unknown key 'knd' in [policy]; did you mean 'kind'?"),
        ("[polici]", "line 1: unknown table 'polici' in the file; did you mean 'policy'?"),
        ("", "kind is missing"),
        (
            '[policy]\nkind = "static"\n[weights]\n"mine/large" = 1',
            'only a policy of kind = "mix" has weights',
        ),
        ('[policy]\nkind = "mix"', "a mix needs at least one weight above 0"),
        ('[policy]\nkind = "mix"\n[weights]\n"mine/larg" = 1', "line 4: [weights] mine/larg: unknown model"),
        ('[policy]\nkind = "mix"\n[weights]\nlarge = -1', "line 4: [weights] large: must be a number from 0"),
        ('[policy]\nkind = "mix"\n[weights]\ntwin = 1', "names several: mine/twin, yours/twin; choose one"),
        (
            '[policy]\nkind = "static"\n[tasks]\nfix_bug = "cheep"',
            "unknown tier 'cheep'; did you mean 'cheap'?",
        ),
        ('[policy]\nkind = "static"\n[tiers]\ncheep = ["large"]', "unknown key 'cheep' in [tiers]"),
        ('[policy]\nkind = "static"\n[tiers]\ncheap = ["larg"]', "unknown model 'larg'; did you mean"),
        ('[policy]\nkind = "best"\n[tiers]\ncheap = ["large"]\ncapable = ["large"]', "keep it in one"),
        ("kind =", "this is not valid TOML"),
    ],
)
def test_a_mistake_in_a_policy_file_is_one_line_with_the_place_and_the_nearest_name(
    attune, policy, text, says
):
    twin = MODEL.format("twin", "cheap", 1, 1)
    yours = '[providers.yours]\nkind = "openai"\nbase_url = "http://127.0.0.1:9/v1"\n'
    models = "".join(MODEL.format(*model) for model in MODELS)
    attune.configure(CONFIGURATION + yours + models + twin + twin.replace('"mine"', '"yours"'))
    assert attune("policy", "diff", "--to", policy(text))[0] == 3
    assert says in attune.err
    assert attune.err.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (
            ("--max-cost-increase", "5"),
            "--max-cost-increase is a percentage such as 5%, up to 1000%, not '5'",
        ),
        (("--max-cost-increase", "x%"), "is a percentage such as 5%"),
        (("--max-success-drop", "-5%"), "--max-success-drop is a percentage"),
        (("--max-success-drop", "nan%"), "is a percentage"),
        (("--days", "0"), "--days must be from 1 to 3650, not 0"),
    ],
)
def test_limits_that_make_no_sense_are_refused(attune, policy, args, says):
    file = policy('[policy]\nkind = "static"\n')
    assert attune("policy", "diff", f"--to={file}", f"{args[0]}={args[1]}")[0] == 2
    assert says in attune.err


# -- for people ------------------------------------------------------------------------------------------


def test_a_person_reads_a_small_table_and_one_plain_sentence(attune, ledger, policy):
    mixed(ledger)
    ledger.store.close()
    code, out = attune("policy", "diff", "--to", policy(ALWAYS_OTHER), "--max-success-drop", "10%")
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "600 calls within 7 days, at today's prices; 95 % intervals"
    assert lines[1].split() == ["current", "(as", "logged)", "static", "(policy.toml)", "difference"]
    assert [line.split("  ")[0] for line in lines[3:9]] == [
        *("success", "cost a call", "cost of all", "effective calls", "largest weight", "without support"),
    ]
    assert "-$0.00" in next(line for line in lines if line.startswith("cost a call"))
    assert lines[-1].startswith("proven within the limits: at most 5 % more cost and 10 points less success")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[policy]\nkind = "static"\n', "proven beyond the limits"),
        ('[policy]\nkind = "static"\n[tasks]\n"*" = "cheap"\n', "undecided: these calls do not show"),
    ],
)
def test_a_person_is_told_what_is_not_shown(attune, ledger, policy, text, says):
    for number in range(200):
        names = ["large", "other", "small"] if number % 2 else ["other", "large", "small"]
        ledger.call([scored(name, 0.0 if name == "small" else 0.5) for name in names])
    ledger.store.close()
    _, out = attune("policy", "diff", "--to", policy(text))
    assert out.splitlines()[-1].startswith(says)


def test_unknown_costs_are_shown_as_such(attune, ledger, policy):
    unknown = {"usage": None, "cost_nanos": None, "cost_status": CostStatus.UNKNOWN}
    for _ in range(50):
        ledger.call([scored("large", 1.0)], attempts=[unknown])
    ledger.store.close()
    _, out = attune("policy", "diff", "--to", policy('[policy]\nkind = "static"\n'))
    assert out.count("unknown") >= 6
