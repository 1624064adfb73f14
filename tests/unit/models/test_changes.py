"""What is known of changes that were found: told to others, heard of, and used to read roll-ups of days."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attune.models.change import MAX_KEYS, Changes
from attune.models.learner import Learner
from attune.models.performance import BUCKET_SECONDS
from attune.models.policies import GuardedPolicy

if TYPE_CHECKING:
    from attune.models.learner import Labels
    from attune.models.policies.shared import Sums

DAY = BUCKET_SECONDS
KEYS = [("*", "w", stage, "") for stage in ("easy", "usual", "hard")]
EASE = {"easy": 0.1, "usual": 0.0, "hard": -0.2}


def added(totals: dict[str, Sums], told: dict[str, Sums]) -> dict[str, Sums]:
    """Everyone's sums with what one process has told, as the ledger keeps them."""
    zero = [0.0, 0.0]
    return totals | {n: [a + b for a, b in zip(totals.get(n, zero), s, strict=True)] for n, s in told.items()}


class Told:
    """A learner, and the roll-ups of days that a ledger would have of its labelled calls."""

    def __init__(self) -> None:
        self.learner = Learner()
        self.days: dict[int, Labels] = {}

    def judge(self, path: tuple[str, ...], model: str, reward: float, at: float) -> bool:
        keys = self.days.setdefault(int(at // DAY), {}).setdefault(model, {})
        calls, total = keys.get(path, (0.0, 0.0))
        keys[path] = calls + 1, total + reward
        return self.learner.judge(path, model, reward, at)

    def restarted(self) -> Learner:
        """The learner of the next process."""
        learner = Learner()
        learner.hear(added({}, self.learner.tell()))
        learner.restore(self.days)
        return learner


def lived(
    seed: int, days: float, calls: int, changes: list[tuple[float, float]], share: float = 0.04
) -> Told:
    """``calls`` of two models within ``days``; the mean of one is as given from each share of them on. After
    a fall it is asked for that ``share`` of the calls, else for half of them.
    """
    generator = random.Random(seed)
    told = Told()
    for number in range(calls):
        path = generator.choice(KEYS)
        fallen = "m" in told.learner._changes.fallen
        model = "m" if generator.random() < (share if fallen else 0.5) else "other"
        mean = [mean for since, mean in changes if number >= since * calls][-1] if model == "m" else 0.7
        reward = float(generator.random() < mean + EASE[path[2]])
        told.judge(path, model, reward, (number / calls * days + 0.3) * DAY)
    return told


def assert_alike(after: Learner, before: Learner) -> None:
    for path in KEYS:
        was, found = (each.forecast(path, ("m", "other"), (None, None), (0, 0)) for each in (before, after))
        for old, new in zip(was, found, strict=True):
            assert new.changed == old.changed
            assert new.mean == pytest.approx(old.mean, abs=0.03 + old.sd)
            chance = 1.5 * math.sqrt(old.calls)  # when in its day a fallen model's calls came
            assert new.calls == pytest.approx(old.calls, rel=0.1, abs=2.0 + (chance if old.changed else 0.0))


# -- restarts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("days", [0.5, 4.0])
@pytest.mark.parametrize(
    "changes",
    [
        pytest.param([(0, 0.75)], id="none"),
        pytest.param([(0, 0.75), (0.7, 0.3)], id="a fall"),
        pytest.param([(0, 0.75), (0.2, 0.3)], id="an old fall"),
        pytest.param([(0, 0.75), (0.2, 0.3), (0.5, 0.75)], id="a fall and a recovery"),
        pytest.param([(0, 0.3), (0.5, 0.75)], id="a rise"),
    ],
)
def test_a_restart_believes_what_was_believed(days, changes):
    for seed in range(2):
        told = lived(seed, days, 1200, changes)
        assert_alike(told.restarted(), told.learner)


@settings(max_examples=15, deadline=None)
@given(
    st.integers(0, 10_000),
    st.floats(0.01, 6.0),
    st.integers(100, 900),
    st.lists(st.tuples(st.floats(0.1, 0.9), st.floats(0.25, 0.85)), max_size=3),
)
def test_whatever_changed_a_restart_is_near_a_learner_that_never_stopped(seed, days, calls, changes):
    told = lived(seed, days, calls, [(0.0, 0.7), *sorted(changes)])
    assert_alike(told.restarted(), told.learner)


def test_a_model_that_fell_and_was_asked_little_is_tried_as_much_after_a_restart():
    told = lived(1, 0.5, 1000, [(0, 0.75), (0.3, 0.3)])
    plain = Learner()
    plain.restore(told.days)  # which is what a restart knew without the change
    [was], [found], [forgotten] = (
        each.forecast(KEYS[1], ("m",), (None,), (0,)) for each in (told.learner, told.restarted(), plain)
    )
    assert (was.changed, found.changed, forgotten.changed) == (True, True, False)
    assert found.mean == pytest.approx(was.mean, abs=0.1)
    assert forgotten.mean > was.mean + 0.15


def test_a_false_alarm_that_has_ended_is_over_after_a_restart():
    told = Told()
    for number in range(100):
        told.judge(KEYS[1], "m", 1.0, float(number))
    while not told.judge(KEYS[1], "m", 0.0, 100.0):
        pass
    for number in range(1500):
        told.judge(KEYS[1], ("m", "other")[number % 2], 0.8, 101.0 + number)
    assert_alike(told.restarted(), told.learner)
    [prospect] = told.restarted().forecast(KEYS[1], ("m",), (None,), (0,))
    assert not prospect.changed
    assert prospect.calls > 500


def test_a_fall_with_very_many_calls_since_leaves_nothing_of_the_past():
    learner = Learner()
    changes = Changes()
    changes.found("m", 0.5 * DAY, fell=True)
    learner.hear(added({}, changes.tell()))
    before = {KEYS[0]: (1000.0, 900.0)}
    after = {KEYS[0]: (4.0, 1.0)}
    learner.restore({0: {"m": before}, 1: {"other": {KEYS[1]: (1e6, 7e5)}}, 2: {"m": after}})
    [prospect] = learner.forecast(KEYS[0], ("m",), (None,), (0,))
    assert prospect.changed
    assert prospect.calls == pytest.approx(4.0, rel=0.01)


def test_what_a_ledger_lost_of_a_day_is_not_taken_from_what_it_has():
    learner = Learner()
    changes = Changes()
    changes.found("m", 0.5 * DAY, fell=True)
    for _ in range(10):
        changes.count(KEYS[0], "m", 0.6 * DAY, 1.0)
    learner.hear(added({}, changes.tell()))
    learner.restore({0: {"m": {KEYS[0]: (6.0, 4.0)}}})
    [prospect] = learner.forecast(KEYS[0], ("m",), (None,), (0,))
    assert prospect.calls == pytest.approx(6.0, rel=0.05)
    assert prospect.mean == pytest.approx(4 / 6, abs=0.1)


def test_a_correction_after_a_change_counts_after_it():
    told = Told()
    for number in range(80):
        told.judge(KEYS[1], "m", 1.0, number)
    at = 80.0
    while not told.judge(KEYS[1], "m", 0.0, at):
        at += 1
    for number in range(30):
        told.judge(KEYS[1], "m", 0.0, at + number)
    for number in range(30):
        told.learner.correct(KEYS[1], "m", at + number, 0.0, 1.0)
    calls, total = told.days[0]["m"][KEYS[1]]
    told.days[0]["m"][KEYS[1]] = calls, total + 30
    [was], [found] = (
        each.forecast(KEYS[1], ("m",), (None,), (0,)) for each in (told.learner, told.restarted())
    )
    assert was.mean > 0.8
    assert found.mean == pytest.approx(was.mean, abs=0.1)


# -- several processes ----------------------------------------------------------------------------------


def test_who_hears_of_a_change_lets_go_of_the_past_and_counts_what_comes_after():
    one, other = Changes(), Changes()
    one.found("m", 1000.0, fell=True)
    one.count(KEYS[0], "m", 1001.0, 1.0)
    one.count(KEYS[0], "other", 1002.0, 1.0)
    totals = added({}, one.tell())
    [heard] = other.hear(totals)
    assert (heard.model, heard.at, heard.fell, heard.labelled) == ("m", 1000.0, True, 2.0)
    assert heard.after(KEYS[0]) == (1.0, 1.0)
    assert other.fallen == {"m"}
    assert other.hear(totals) == []
    other.count(KEYS[0], "m", 1003.0, 0.5)
    totals = added(totals, other.tell())
    assert one.hear(totals) == []
    [change] = one.of_bucket(0)
    assert (change.labelled, change.after(KEYS[0])) == (3.0, (2.0, 1.5))
    assert one.tell() == {}
    other.hear(totals)
    assert other.tell() == {}


def test_what_was_told_in_vain_or_comes_between_is_told_again():
    changes = Changes()
    changes.found("m", 10.0, fell=False)
    changes.tell()  # which the ledger did not take
    changes.count(KEYS[0], "m", 11.0, 1.0)
    totals = added({}, changes.tell())
    changes.count(KEYS[0], "m", 12.0, 1.0)
    changes.hear(totals)
    totals = added(totals, changes.tell())
    changes.hear(totals)
    assert changes.tell() == {}
    [change] = changes.of_bucket(0)
    assert (change.labelled, change.after(KEYS[0])) == (2.0, (2.0, 2.0))


def test_the_last_change_of_a_model_says_whether_it_has_fallen_in_whatever_order_they_come():
    changes = Changes()
    changes.found("m", 20.0, fell=False)
    changes.found("m", 10.0, fell=True)
    assert changes.fallen == set()
    assert [change.at for change in changes.of_bucket(0)] == [10.0, 20.0]
    changes.found("m", 30.0, fell=True)
    assert changes.fallen == {"m"}


def test_calls_of_other_days_or_of_before_the_change_are_not_after_it():
    changes = Changes()
    changes.found("m", 1000.0, fell=True)
    changes.count(KEYS[0], "m", 999.0, 1.0)
    changes.count(KEYS[0], "m", 1000.0 + DAY, 1.0)
    assert changes.of_bucket(0)[0].labelled == 0
    assert changes.of_bucket(1) == ()


def test_the_keys_of_a_change_are_bounded():
    changes = Changes()
    changes.found("m", 0.0, fell=True)
    for number in range(MAX_KEYS + 50):
        changes.count(("*", str(number)), "m", 1.0, 1.0)
    changes.count(("*", "never counted"), "m", 1.0, -1.0, 0)
    assert len(changes.tell()) == MAX_KEYS + 1
    assert changes.of_bucket(0)[0].labelled == MAX_KEYS + 50


@pytest.mark.parametrize(
    "name",
    [
        "changed",
        "changed\t[]\tfell 1.0",
        "changed\t5\tfell 1.0",
        'changed\t["m"]\tfell',
        'changed\t["m"]\tsank 1.0',
        'changed\t["m"]\tfell nan',
        'changed\t["m"\tfell 1.0',
    ],
)
def test_a_damaged_change_is_passed_by(name):
    changes = Changes()
    assert changes.hear({name: [1.0, 1.0], "a/mid\t\t0": [1.0, 1.0]}) == []
    assert changes.fallen == set()


def test_what_is_told_of_changes_says_nothing_to_who_compares_models():
    changes = Changes()
    changes.found("m", 1.0, fell=True)
    policy = GuardedPolicy()
    policy.hear(added({}, changes.tell()))
    assert policy.tell() == {}


def test_sums_of_another_version_change_nothing():
    changes = Changes()
    changes.found("m", 1.0, fell=True)
    [name] = changes.tell()
    changes.hear({name: [5.0, 5.0, 5.0]})
    assert changes.of_bucket(0)[0].labelled == 0


def test_names_of_keys_may_hold_anything():
    one, other = Changes(), Changes()
    path = ("*", "a\tb", 'ü"\n', "")
    one.found("p/m\t1", 1.5, fell=True)
    one.count(path, "p/m\t1", 2.0, 1.0)
    [heard] = other.hear(added({}, one.tell()))
    assert heard.model == "p/m\t1"
    assert heard.after(path) == (1.0, 1.0)
