"""What is said of another policy: which questions are answered, which are refused, and that it is true."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attune.errors import InvalidRequestError
from attune.models import logged_calls
from attune.models.bootstrap import Interval, ratio_intervals, standard_error
from attune.models.estimators import Comparison, Limits, LoggedCall, Verdict, compare
from support.logged_calls import CHEAP, COSTS, DEAR, EVEN, KEYS, MODELS, RATES, drawn, made, truth
from support.scale import scaled

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PAGE = Path(__file__).parents[3] / "docs" / "explanation" / "counterfactuals.md"


def alternating(calls: int, **fields: object) -> list[LoggedCall]:
    """Calls that drew each model in turn; "cheap" fails 1 of 10 and so does "dear"."""
    return [
        made(n, chosen=n % 2, success=float(n % 20 > 1), **fields)  # type: ignore[arg-type]
        for n in range(calls)
    ]


def rarely(calls: int, one_in: int, **fields: object) -> list[LoggedCall]:
    """Calls of a policy that takes "dear" but for one in so many."""
    logged = (1 / one_in, 1 - 1 / one_in)
    return [
        made(n, logged=logged, chosen=int(n % one_in > 0), success=float(n % 7 > 0), **fields)  # type: ignore[arg-type]
        for n in range(calls)
    ]


# -- the questions that docs/explanation/counterfactuals.md lists ----------------------------------------


class Question(NamedTuple):
    """A question in the page's words, the logs it is asked of, and whether a point or only bounds follow."""

    words: str
    calls: Sequence[LoggedCall]
    answered: bool
    verdict: Verdict
    says: str = ""
    limits: Limits = Limits()


SURE_OF_DEAR = {"logged": DEAR, "chosen": 1}
THREE = (*MODELS, "p/new")

QUESTIONS = [
    Question(
        "Logs of an even mix; the target always takes the cheaper model.",
        alternating(1000),
        answered=True,
        verdict=Verdict.WITHIN,
    ),
    Question(
        "3 % of the calls explore, 5,000 calls; the target always takes the explored model.",
        rarely(5000, 33),
        answered=True,
        verdict=Verdict.UNDECIDED,
    ),
    Question(
        "One task was mixed, all others had no choice; the target changes that task alone.",
        [
            *alternating(200, key="hard"),
            *(made(n, target=DEAR, **SURE_OF_DEAR) for n in range(200, 1000)),  # type: ignore[arg-type]
        ],
        answered=True,
        verdict=Verdict.WITHIN,
    ),
    Question(
        "The target takes a model that was never drawn on 1 call in 200.",
        [
            made(n, chosen=n % 2, models=THREE, logged=(0.5, 0.5, 0.0), target=target)
            for n in range(1000)
            for target in [(0.0, 0.0, 1.0) if n % 200 == 0 else (1.0, 0.0, 0.0)]
        ],
        answered=True,
        verdict=Verdict.WITHIN,
    ),
    Question(
        "A deterministic log; the target is the policy that made it.",
        [made(n, target=DEAR, **SURE_OF_DEAR) for n in range(200)],  # type: ignore[arg-type]
        answered=True,
        verdict=Verdict.WITHIN,
        says="the logging policy was deterministic",
    ),
    Question(
        "Every call had one candidate.",
        [made(n, models=("p/cheap",), logged=(1.0,), target=(1.0,)) for n in range(100)],
        answered=True,
        verdict=Verdict.WITHIN,
        says="every call had a single candidate: no policy could have chosen another",
    ),
    Question(
        "A deterministic log; 3 % of the calls go to another model: bounds, which decide.",
        [
            made(n, target=CHEAP if n % 33 == 0 else DEAR, **SURE_OF_DEAR)  # type: ignore[arg-type]
            for n in range(1000)
        ],
        answered=False,
        verdict=Verdict.WITHIN,
        says="3.1% of the target policy's choices are ones that the logging policy never made",
        limits=Limits(cost_increase=0.2, success_drop=0.05),
    ),
    Question(
        "A deterministic log; the target takes another model.",
        [made(n, **SURE_OF_DEAR) for n in range(1000)],  # type: ignore[arg-type]
        answered=False,
        verdict=Verdict.UNDECIDED,
        says="its logs say nothing of any model that it did not choose",
    ),
    Question(
        "1 % of the calls explore, 1,000 calls; the target always takes the explored model.",
        rarely(1000, 100),
        answered=False,
        verdict=Verdict.UNDECIDED,
        says="the worth of 10 calls",
    ),
    Question(
        "The target gives 5 % of its choices to a model that was never drawn.",
        [
            made(n, chosen=n % 2, models=THREE, logged=(0.5, 0.5, 0.0), target=(0.95, 0.0, 0.05))
            for n in range(1000)
        ],
        answered=False,
        verdict=Verdict.UNDECIDED,
        says="5.0% of the target policy's choices",
        limits=Limits(success_drop=0.02),
    ),
    Question(
        "12 long runs, whatever the number of their calls.",
        [call._replace(run=f"run-{n % 12}") for n, call in enumerate(alternating(3000))],
        answered=False,
        verdict=Verdict.UNDECIDED,
        says="fewer than 20 independent workflow runs",
    ),
    Question(
        "The logged probabilities are not those with which the models were drawn.",
        [made(n, chosen=int(n % 5 > 0), success=float(n % 20 > 1)) for n in range(1000)],
        answered=True,
        verdict=Verdict.UNDECIDED,
        says="more or less often than the logged probabilities say",
    ),
    Question(
        "The costs of 1 call in 10 are unknown.",
        [call._replace(cost=None) if n % 10 == 0 else call for n, call in enumerate(alternating(1000))],
        answered=True,
        verdict=Verdict.UNDECIDED,
        says="100 calls are of unknown cost",
    ),
]


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.words)
def test_the_questions_of_the_page_are_answered_or_refused_as_it_says(question):
    found = compare(question.calls, question.limits)
    assert (found.target.success.value is not None) is question.answered
    assert found.verdict is question.verdict
    assert any(question.says in note for note in found.notes) or not question.says
    assert finite(found)
    section = "refuses" if not question.answered or question.verdict is Verdict.UNDECIDED else "answers"
    assert question.words in " ".join(PAGE.read_text().split()), section


def finite(found: Comparison) -> bool:
    """Whether every number is one, and every interval goes upwards and holds its value."""
    intervals = [found.success_difference, found.cost_difference]
    for estimate in (found.current, found.target):
        intervals += [estimate.success, estimate.cost]
        assert all(math.isfinite(number) for number in estimate.support)
    known = [interval for interval in intervals if interval is not None]
    assert all(i.low <= (i.low if i.value is None else i.value) <= i.high for i in known), known
    return all(math.isfinite(end) for interval in known for end in (interval.low, interval.high))


# -- what the numbers are --------------------------------------------------------------------------------


def test_estimates_are_those_of_the_model_that_the_target_takes():
    calls = [made(n, chosen=n % 2, success=1.0 if n % 2 else float(n % 4 > 0)) for n in range(800)]
    found = compare(calls)
    assert found.target.success.value == pytest.approx(0.5, abs=0.01)
    assert found.target.cost == pytest.approx(Interval(COSTS[0], COSTS[0], COSTS[0]))
    assert found.current.cost.value == pytest.approx(sum(COSTS) / 2)
    assert found.current.success.value == pytest.approx(0.75, abs=0.01)
    assert found.success_difference.value == pytest.approx(-0.25, abs=0.01)
    assert found.verdict is Verdict.BEYOND
    assert found.target.success_check == pytest.approx(0.5, abs=0.01)
    assert found.target.cost_check == pytest.approx(COSTS[0])


def test_support_is_kishs_effective_number_the_largest_weight_and_the_share_never_drawn():
    three = {"models": THREE, "logged": (0.2, 0.8, 0.0)}
    calls = [made(n, chosen=int(n % 5 > 0), target=(0.9, 0.0, 0.1), **three) for n in range(1000)]  # type: ignore[arg-type]
    support = compare(calls).target.support
    assert support.effective == pytest.approx(200)
    assert support.largest_weight == pytest.approx(0.9 / 0.2)
    assert support.unsupported == pytest.approx(0.1)
    assert support.departing == 1.0
    current = compare(calls).current.support
    assert (current.departing, current.effective, current.largest_weight) == (0.0, 1000, 1.0)


def test_a_policy_has_the_effective_calls_of_where_it_departs():
    explored = rarely(100, 10, key="hard")
    followed = [made(n, target=DEAR, **SURE_OF_DEAR) for n in range(100, 5000)]  # type: ignore[arg-type]
    support = compare([*explored, *followed]).target.support
    assert support.departing == 0.02
    assert support.effective_departing == pytest.approx(10)
    assert not support.enough


def test_equal_policies_differ_by_nothing_even_where_nothing_is_known_of_either():
    calls = [made(n, target=CHEAP, current=CHEAP, **SURE_OF_DEAR) for n in range(100)]  # type: ignore[arg-type]
    found = compare(calls, Limits(0.0, 0.0))
    assert found.success_difference == (0.0, 0.0, 0.0)
    assert found.cost_difference == (0.0, 0.0, 0.0)
    assert found.current.success == (None, 0.0, 1.0)
    assert found.verdict is Verdict.WITHIN


def test_calls_of_a_run_are_not_independent_of_each_other():
    alone = compare(drawn(1200, 3))
    together = compare(drawn(1200, 3, run_length=20))
    assert width(together.target.cost) > 1.5 * width(alone.target.cost)


def width(interval: Interval) -> float:
    return interval.high - interval.low


def test_what_happened_to_no_call_may_still_happen():
    found = compare([made(n, chosen=n % 2) for n in range(200)])
    assert found.target.success == (1.0, pytest.approx(1 - 3 / 100), 1.0)
    assert found.success_difference.low == pytest.approx(-0.03)


def test_the_same_calls_and_seed_give_the_same_result():
    assert compare(drawn(300), seed=5) == compare(drawn(300), seed=5)
    assert compare(drawn(300), seed=5).target.success != compare(drawn(300), seed=6).target.success


def test_success_and_cost_beyond_their_limits_each_prove_it():
    dearer = [made(n, target=DEAR, chosen=n % 2) for n in range(400)]
    assert compare(dearer).verdict is Verdict.BEYOND
    assert compare(dearer, Limits(cost_increase=1.0)).verdict is Verdict.WITHIN
    worse = [made(n, chosen=n % 2, success=float(n % 2)) for n in range(400)]
    assert compare(worse).verdict is Verdict.BEYOND
    assert compare(worse, Limits(success_drop=0.6)).verdict is Verdict.WITHIN


def test_what_could_be_of_any_cost_leaves_the_costs_unknown():
    calls = [made(n, most=None, **SURE_OF_DEAR) for n in range(100)]  # type: ignore[arg-type]
    found = compare(calls)
    assert found.target.cost is None
    assert found.cost_difference is None
    assert found.verdict is Verdict.UNDECIDED
    assert any("have no bound" in note for note in found.notes)


def test_a_small_share_without_support_has_a_value_and_an_interval_that_holds_its_bounds():
    three = {"models": THREE, "logged": (0.5, 0.5, 0.0)}
    never, cheap = (0.0, 0.0, 1.0), (1.0, 0.0, 0.0)
    calls = [
        made(n, chosen=n % 2, target=never if n % 125 == 0 else cheap, most=1.0, **three)  # type: ignore[arg-type]
        for n in range(1000)
    ]
    found = compare(calls)
    assert found.target.success.value == pytest.approx(1.0, abs=0.001)
    assert found.target.success.low < 1 - 0.008
    assert found.target.cost.value == pytest.approx(COSTS[0], rel=0.1)
    assert found.target.cost.high > 0.008
    assert found.verdict is Verdict.UNDECIDED


def test_the_outcome_model_takes_a_key_that_it_never_saw_for_an_average_one(monkeypatch):
    calls = [made(n, chosen=n % 2, key=f"key-{n}") for n in range(400)]
    found = compare(calls)
    assert found.target.cost.value == pytest.approx(COSTS[0])
    assert found.target.cost_check == pytest.approx(COSTS[0])
    monkeypatch.setattr(logged_calls, "MAX_KEYS", 10)
    assert compare(calls).target.cost.value == pytest.approx(COSTS[0])


def test_a_model_that_one_fold_alone_has_seen_is_predicted_as_an_average_one():
    calls = [
        *alternating(400),
        *(made(n, models=("p/odd",), logged=(1.0,), target=(1.0,)) for n in (400, 401)),
    ]
    assert finite(compare(calls))


# -- bad input -------------------------------------------------------------------------------------------


def test_an_empty_window_is_an_error():
    with pytest.raises(InvalidRequestError, match="no logged calls to compare on; take a longer window"):
        compare([])


BAD = {
    "a probability of 0 of what was chosen": {"logged": (0.0, 1.0)},
    "probabilities that do not sum to 1": {"logged": (0.5, 0.4)},
    "a negative probability": {"target": (-0.5, 1.5)},
    "no number": {"target": (math.nan, 1.0)},
    "too few probabilities": {"target": (1.0,)},
    "a choice that was not there": {"chosen": 2, "cost": 0.1},
    "a success beyond 1": {"success": 1.5},
    "a success that is no number": {"success": math.nan},
    "a cost without end": {"cost": math.inf},
    "a negative cost": {"cost": -1.0},
    "no candidates": {"models": (), "logged": (), "target": ()},
}


@pytest.mark.parametrize("fields", BAD.values(), ids=BAD)
def test_a_call_that_cannot_be_is_left_out_and_counted(fields):
    found = compare([*alternating(100), made(101, **fields)])
    assert (found.calls, found.unusable) == (100, 1)
    assert found.notes[-1] == "1 calls are left out: their probabilities cannot be used"
    with pytest.raises(InvalidRequestError, match="none of the 1 logged calls can be used"):
        compare([made(0, **fields)])


vectors = st.sampled_from([CHEAP, DEAR, EVEN, (0.01, 0.99), (1e-9, 1 - 1e-9)])


@given(
    st.lists(
        st.builds(
            made,
            st.integers(0, 40),
            logged=vectors,
            target=vectors,
            current=st.none() | vectors,
            chosen=st.integers(0, 1),
            success=st.floats(0, 1),
            cost=st.sampled_from([0.0, 1e-9, 0.01, 1e4]),
            most=st.sampled_from([None, 0.0, 2e4]),
            key=st.sampled_from(KEYS),
        ),
        max_size=60,
    )
)
def test_no_log_whatever_makes_a_number_that_is_none(calls):
    usable = [call for call in calls if call.logged[call.chosen] > 0]
    if not usable:
        with pytest.raises(InvalidRequestError):
            compare(calls)
    else:
        assert finite(compare(calls))


# -- intervals -------------------------------------------------------------------------------------------


def test_one_group_and_equal_groups_have_no_width():
    assert ratio_intervals([[3.0]], [[2.0]], 0) == [(1.5, 1.5, 1.5)]
    assert ratio_intervals([[2.0] * 9], [[1.0] * 9], 0) == [(2.0, 2.0, 2.0)]
    assert standard_error([1.0], [1.0]) == 0.0


def test_skewed_values_have_the_longer_end_on_the_side_of_their_tail():
    values = [0.0] * 80 + [1.0] * 15 + [20.0] * 5
    ((mean, low, high),) = ratio_intervals([values], [[1.0] * 100], 0)
    assert high - mean > 1.3 * (mean - low)


# -- the truth -------------------------------------------------------------------------------------------


def by_key(key: str) -> Sequence[float]:
    return CHEAP if key == "easy" else DEAR


def cautious(key: str) -> Sequence[float]:
    """What logs: mostly the dear model where the cheap one does badly."""
    share = 0.2 + 0.5 * RATES[key][0] ** 4
    return share, 1 - share


@pytest.mark.parametrize("target", [by_key, lambda key: CHEAP], ids=["by key", "always cheap"])
def test_intervals_hold_the_truth_as_often_as_they_say_and_estimates_are_near_it(
    target: Callable[[str], Sequence[float]],
):
    success, cost = truth(target)
    logged = truth(cautious)
    runs = scaled(test=40, faults=500, soak=2000)
    covered: dict[str, list[bool]] = {"success": [], "cost": [], "both": []}
    errors = []
    for seed in range(runs):
        found = compare(drawn(700, seed, logged=cautious, target=target, run_length=3), seed=seed)
        covered["success"].append(found.target.success.low <= success <= found.target.success.high)
        covered["cost"].append(found.target.cost.low <= cost <= found.target.cost.high)
        less = success - logged[0]
        covered["both"].append(found.success_difference.low <= less <= found.success_difference.high)
        if found.target.support.effective >= 200:
            values = found.target.success.value, found.target.cost.value
            errors.append((abs(values[0] / success - 1), abs(values[1] / cost - 1)))
    assert len(errors) > runs / 4
    slack = 3 * math.sqrt(0.95 * 0.05 / runs)
    for share in map(statistics.fmean, covered.values()):
        assert 0.94 - slack <= share <= 0.96 + slack
    assert statistics.median(success for success, _ in errors) <= 0.03
    assert statistics.median(cost for _, cost in errors) <= 0.07


def test_calls_of_conversations_that_were_drawn_once_are_not_taken_for_as_many_draws():
    models = ("a/mid", "a/cheap")
    calls = []
    for run in range(30):
        cheap = run % 10 == 0
        for number in range(100):
            order = models[::-1] if cheap else models
            logged = [0.9 if model == "a/mid" else 0.1 for model in order]
            target = [float(model == "a/cheap") for model in order]
            calls.append(
                LoggedCall(
                    *(("w", "s", "t"), f"w\0{run}", order, logged, logged, target),
                    *(0, float(number % 10 > 0), 0.01, 0.02),
                )
            )
    found = compare(calls)
    assert found.target.support.effective > 50
    assert found.target.support.departing_runs == pytest.approx(3)
    assert found.target.success.value is None
    assert found.verdict is Verdict.UNDECIDED
