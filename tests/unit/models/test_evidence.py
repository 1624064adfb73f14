"""Hierarchical evidence: what is believed of a model at a key."""

from __future__ import annotations

import math
import random
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attune.models.evidence import HALF_LIFE_S, Evidence
from attune.models.shrinkage import PRIOR_MEAN

if TYPE_CHECKING:
    from types import FrameType

ALL = ("all",)


def taught(calls: list[tuple[str, str, float, float]], ranks: dict[str, int] | None = None) -> Evidence:
    evidence = Evidence(ranks)
    for i, (key, model, reward, cost) in enumerate(calls):
        evidence.observe(("all", key), model, reward, cost, float(i))
    return evidence


def test_nothing_known_is_the_prior_without_a_cost():
    [belief] = Evidence().beliefs(("all", "k"), ["m"])
    assert belief.mean == pytest.approx(PRIOR_MEAN)
    assert (belief.calls, belief.cost) == (0.0, None)
    assert belief.sd > 0.1


def test_evidence_wins_over_the_prior():
    evidence = taught([("k", "m", 0.1, 1.0)] * 60)
    [belief] = evidence.beliefs(("all", "k"), ["m"])
    assert belief.mean == pytest.approx(0.1, abs=0.03)
    assert belief.cost == pytest.approx(1.0)


def test_a_key_that_is_hard_for_one_model_is_expected_to_be_hard_for_another():
    generator = random.Random(1)
    calls = [
        (key, model, float(generator.random() < p), 1.0)
        for _ in range(60)
        for key, ease in (("easy", 0.2), ("hard", -0.3), ("usual", 0.0))
        for model, p in (("a", 0.7 + ease), ("b", 0.75 + ease))
        if (key, model) != ("hard", "b")
    ]
    evidence = taught(calls)
    hard, usual = (evidence.beliefs(("all", key), ["b"])[0].mean for key in ("hard", "usual"))
    assert hard < usual - 0.1


def test_a_new_model_starts_at_the_mean_of_its_tier():
    calls = [("k", "weak", 0.2, 1.0), ("k", "strong", 0.95, 1.0)] * 40
    evidence = taught(calls, {"weak": 0, "strong": 2, "new": 2, "newer": 0})
    new, newer = evidence.beliefs(ALL, ["new", "newer"])
    assert new.mean > newer.mean + 0.3
    assert new.sd > 0.1


def test_a_key_never_seen_is_less_sure_than_its_parent():
    evidence = taught([("k", "m", r, 1.0) for r in (1.0, 0.0) * 30])
    parent, child = evidence.beliefs(ALL, ["m"])[0], evidence.beliefs(("all", "other"), ["m"])[0]
    assert child.mean == pytest.approx(parent.mean)
    assert child.sd > parent.sd
    assert child.calls == 0


def test_evidence_decays_with_time_and_not_with_calls():
    evidence = Evidence()
    for _ in range(40):
        evidence.observe(ALL, "m", 1.0, 1.0, 0.0)
    assert evidence.beliefs(ALL, ["m"])[0].calls == pytest.approx(40)
    evidence.observe(ALL, "m", 0.0, 1.0, HALF_LIFE_S)
    assert evidence.beliefs(ALL, ["m"])[0].calls == pytest.approx(21)


def test_a_cost_is_the_mean_of_the_model_times_the_size_of_the_key():
    calls = [("small", "a", 1.0, 1.0), ("large", "a", 1.0, 10.0), ("small", "b", 1.0, 2.0)] * 30
    evidence = taught(calls)
    assert evidence.beliefs(("all", "large"), ["a"])[0].cost == pytest.approx(10, rel=0.15)
    guessed = evidence.beliefs(("all", "large"), ["b"])[0].cost
    assert guessed is not None
    assert guessed > 3.0


def test_costs_of_zero_are_costs():
    evidence = taught([("k", "free", 1.0, 0.0)] * 5)
    assert evidence.beliefs(("all", "k"), ["free"])[0].cost == 0.0


def test_forgetting_a_model_keeps_its_mean_and_its_cost_and_reopens_its_doubt():
    evidence = taught([("k", "m", 0.9, 3.0)] * 100)
    before = evidence.beliefs(("all", "k"), ["m"])[0]
    evidence.forget("m", 5.0)
    after = evidence.beliefs(("all", "k"), ["m"])[0]
    assert after.calls == pytest.approx(5.0)
    assert after.sd > before.sd
    assert after.cost == pytest.approx(3.0)
    evidence.forget("unknown", 5.0)


def test_forgetting_is_known_at_every_key_and_to_whatever_comes_after():
    evidence = taught([(f"k{i % 3}", "ab"[i % 2], float(i % 3 > 0), 1.0) for i in range(120)])
    evidence.forget("a", 5.0)
    evidence.forget("a", 2.5)
    for key in ("k0", "k1", "k2"):
        a, b = evidence.beliefs(("all", key), ["a", "b"])
        assert a.calls == pytest.approx(2.5 / 3, rel=1e-3)
        assert b.calls == pytest.approx(20, rel=1e-3)
    evidence.observe(("all", "k3"), "a", 1.0, 1.0, 120.0)
    evidence.observe(("all", "k0"), "a", 1.0, 1.0, 120.0)
    assert evidence.beliefs(("all", "k3"), ["a"])[0].calls == pytest.approx(1)
    assert evidence.beliefs(("all", "k0"), ["a"])[0].calls == pytest.approx(1 + 2.5 / 3, rel=1e-3)
    assert evidence.beliefs(ALL, ["a"])[0].calls == pytest.approx(4.5, rel=1e-3)


def test_merging_takes_from_both_what_they_have_forgotten():
    first, second = (taught([("k", "m", 1.0, 1.0)] * 40) for _ in range(2))
    first.forget("m", 10.0)
    second.forget("m", 4.0)
    first.merge(second)
    assert first.beliefs(("all", "k"), ["m"])[0].calls == pytest.approx(14, rel=1e-3)


def test_beliefs_are_finite_however_much_was_forgotten():
    for rate in (20.0, 715.0, 740.0, 1e6):
        evidence = taught([(f"k{i % 3}", "ab"[i % 2], float(i % 3 > 0), 1.0) for i in range(60)])
        evidence.fade("a", rate)
        for i in range(60):
            evidence.observe(("all", f"k{i % 3}"), "b", 1.0, 1.0, 60.0)
        for key in ("k0", "k1", "k2", "new"):
            assert all(math.isfinite(b.mean + b.sd) for b in evidence.beliefs(("all", key), ["a", "b", "c"]))


def test_forgetting_takes_the_same_time_however_many_keys_there_are():
    """Counted in calls of functions, which no other work of the machine changes."""

    def calls(keys: int) -> int:
        evidence = taught([(f"k{i}", "m", 1.0, 1.0) for i in range(keys)])
        made = 0

        def count(frame: FrameType, event: str, arg: object) -> None:
            nonlocal made
            made += event in {"call", "c_call"}

        before = sys.getprofile()
        sys.setprofile(count)
        try:
            evidence.forget("m", 5.0)
        finally:
            sys.setprofile(before)
        return made

    assert calls(2000) == calls(40)


def test_what_two_processes_learned_merges_into_what_one_would_have():
    calls = [(f"k{i % 3}", "ab"[i % 2], float(i % 5 > 1), 1.0 + i % 4) for i in range(120)]
    whole, first, second = Evidence(), Evidence(), Evidence()
    for i, (key, model, reward, cost) in enumerate(calls):
        for each in (whole, first if i < 60 else second):
            each.observe(("all", key), model, reward, cost, float(i))
    first.merge(second)
    for key in ("k0", "k1", "k2"):
        for mine, theirs in zip(
            first.beliefs(("all", key), ["a", "b"]), whole.beliefs(("all", key), ["a", "b"]), strict=True
        ):
            assert mine.calls == pytest.approx(theirs.calls, rel=1e-3)
            assert mine.mean == pytest.approx(theirs.mean, abs=0.03)


def test_memory_is_bounded_and_the_root_stays():
    evidence = Evidence(max_nodes=20)
    for i in range(200):
        evidence.observe(("all", f"w{i % 7}", f"k{i}"), "m", 1.0, 1.0, float(i))
    assert len(evidence) <= 20
    assert evidence.beliefs(ALL, ["m"])[0].calls == pytest.approx(200, rel=0.01)


def test_a_call_nobody_judged_says_nothing_of_the_quality():
    evidence = Evidence()
    for i in range(50):
        evidence.observe(ALL, "m", None, 2.0, float(i))
    [belief] = evidence.beliefs(ALL, ["m"])
    assert belief.calls == 0
    assert belief.mean == pytest.approx(PRIOR_MEAN)
    assert belief.cost == pytest.approx(2.0)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["k", "l"]),
            st.sampled_from(["a", "b"]),
            st.none() | st.floats(0, 1),
            st.none() | st.floats(0, 1e6),
        ),
        max_size=60,
    )
)
def test_beliefs_are_finite_whatever_came(calls: list[tuple[str, str, float | None, float | None]]):
    evidence = Evidence()
    for i, (key, model, reward, cost) in enumerate(calls):
        evidence.observe(("all", key), model, reward, cost, i * 3600.0)
    for key in ("k", "l", "never"):
        for belief in evidence.beliefs(("all", key), ["a", "b", "c"]):
            assert 0 <= belief.mean <= 1
            assert math.isfinite(belief.sd)
            assert belief.sd > 0
            assert belief.cost is None or belief.cost >= 0


def test_what_is_restored_from_sums_is_what_was_observed_call_by_call():
    calls = [(f"k{i % 3}", "ab"[i % 2], float(i % 5 > 1)) for i in range(240)]
    observed, restored = Evidence(), Evidence(max_nodes=4)
    sums = {}
    for key, model, reward in [*calls, ("long ago", "a", 0.0)]:
        if key != "long ago":
            observed.observe(("all", key), model, reward, None, 0.0)
        count, total = sums.get((key, model), (0, 0.0))
        sums[key, model] = (count + 1, total + reward)
    for (key, model), (count, total) in reversed(sums.items()):
        restored.restore(("all", key), model, 0.0, (count, total, total))
    restored.restored()
    assert len(restored) == 4
    for key in ("k0", "k1", "k2"):
        pairs = zip(*(each.beliefs(("all", key), ["a", "b"]) for each in (observed, restored)), strict=True)
        for was, now in pairs:
            assert now.calls == was.calls
            assert now.mean == pytest.approx(was.mean, abs=0.02)


def test_a_reward_that_is_corrected_counts_as_if_it_had_been_so_from_the_start():
    early, late = (taught([("k", "m", first, 1.0), ("k", "m", 0.5, 1.0)]) for first in (0.0, 1.0))
    late.correct(("all", "k"), "m", 0.0, 1.0, 0.0)
    late.correct(("all", "never seen"), "unknown", 0.0, 1.0, 0.0)
    [was], [now] = (each.beliefs(("all", "k"), ["m"]) for each in (early, late))
    assert (now.mean, now.sd) == (pytest.approx(was.mean), pytest.approx(was.sd, rel=1e-3))


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b"]),
            st.sampled_from(["add", "forget", "correct"]),
            st.floats(0, 1),
            st.floats(0, 1),
        ),
        max_size=60,
    )
)
def test_whatever_is_observed_forgotten_and_corrected_beliefs_stay_possible(steps):
    evidence = Evidence()
    path = ("*", "w", "s", "t")
    for number, (model, what, reward, previous) in enumerate(steps):
        if what == "add":
            evidence.observe(path, model, reward, None, float(number))
        elif what == "forget":
            evidence.forget(model, 2.0)
        else:
            evidence.correct(path, model, 0.0, previous, reward)
        for belief in evidence.beliefs(path, ["a", "b"]):
            assert 0.0 <= belief.mean <= 1.0
            assert 0.0 < belief.sd < 10.0
