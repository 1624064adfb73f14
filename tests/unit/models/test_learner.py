"""The learner: evidence, features and changes together."""

from __future__ import annotations

import math
import random

from attune.models.learner import Learner

PATH = ("all", "k")


def test_prompts_sharpen_a_prediction_and_its_cost_where_there_is_no_key():
    generator = random.Random(0)
    learner = Learner()
    for i in range(700):
        long = generator.random() < 0.5
        prompt = "word " * (200 if long else 5)
        prediction = learner.predict(("all",), ["m"], prompt)
        reward = float(generator.random() < (0.4 if long else 0.95))
        learner.observe(prediction, 0, reward, 10.0 if long else 1.0, float(i))
    long_one, short_one = (learner.predict(("all",), ["m"], "word " * n).prospects[0] for n in (200, 5))
    assert long_one.mean < short_one.mean - 0.3
    assert long_one.cost is not None
    assert short_one.cost is not None
    assert long_one.cost > 2 * short_one.cost


def test_a_new_price_changes_the_predicted_cost_at_once():
    learner = Learner({"m": 1})
    for i in range(20):
        learner.observe(learner.predict(PATH, ["m"]), 0, 1.0, 2.0, float(i), price=2.0)
    [prospect] = learner.predict(PATH, ["m"], prices={"m": 5.0}).prospects
    assert prospect.cost is not None
    assert math.isclose(prospect.cost, 5.0)
    assert prospect.rank == 1


def test_a_fall_marks_the_model_as_changed_and_a_rise_clears_it():
    learner = Learner()

    def feed(reward: float, first: int) -> int:
        for i in range(300):
            prediction = learner.predict(PATH, ["m"])
            if learner.observe(prediction, 0, reward, None, float(first + i)):
                return i
        return -1

    assert feed(0.9, 0) == -1
    assert 0 <= feed(0.2, 1000) < 60
    assert learner.predict(PATH, ["m"]).prospects[0].changed
    feed(0.2, 2000)
    assert 0 <= feed(0.95, 3000) < 60
    assert not learner.predict(PATH, ["m"]).prospects[0].changed


def test_a_call_nobody_judged_teaches_only_its_cost():
    learner = Learner()
    prediction = learner.predict(PATH, ["m"], "prompt")
    assert not learner.observe(prediction, 0, None, 1.0, 0.0)
    after = learner.predict(PATH, ["m"], "prompt").prospects[0]
    assert after.mean == prediction.prospects[0].mean
    assert after.cost == 1.0


def test_a_model_that_fell_is_believed_again_after_a_few_of_its_calls_once_it_recovers():
    learner = Learner()

    def feed(model: str, reward: float, count: int) -> None:
        for _ in range(count):
            prediction = learner.predict(PATH, ["m", "other"])
            learner.observe(prediction, ["m", "other"].index(model), reward, None, 0.0)

    feed("m", 0.9, 100)
    feed("m", 0.5, 60)
    assert learner.predict(PATH, ["m"]).prospects[0].changed
    feed("other", 0.7, 1500)
    assert learner.predict(PATH, ["m"]).prospects[0].mean < 0.6
    for _ in range(5):
        feed("m", 0.9, 1)
        feed("other", 0.7, 30)
    assert learner.predict(PATH, ["m"]).prospects[0].mean > 0.7
    assert learner.predict(PATH, ["other"]).prospects[0].calls > 1500


def test_features_learn_nothing_of_a_cost_that_is_not_known():
    learner = Learner()
    for i in range(60):
        prompt = "word " * (100 if i % 2 else 5)
        prediction = learner.predict(PATH, ["m"], prompt)
        learner.observe(prediction, 0, 1.0, 2.0 if i % 2 else 1.0, 0.0)
    for i in range(400):
        prediction = learner.predict(PATH, ["m"], "word " * (100 if i % 2 else 5))
        learner.observe(prediction, 0, 1.0, None, 0.0)
    long_one, short_one = (learner.predict(PATH, ["m"], "word " * n).prospects[0].cost for n in (100, 5))
    assert long_one is not None
    assert short_one is not None
    assert long_one > 1.5 * short_one


def test_a_model_that_is_still_asked_as_often_is_not_held_for_fallen_for_long():
    learner = Learner()
    generator = random.Random(0)
    for i in range(100):
        learner.observe(learner.predict(PATH, ["m"]), 0, 1.0, None, float(i))
    while not learner.observe(learner.predict(PATH, ["m"]), 0, 0.0, None, 100.0):
        pass
    assert learner.predict(PATH, ["m"]).prospects[0].changed
    for i in range(2000):  # as before it all, or a little worse: nothing has risen
        learner.observe(learner.predict(PATH, ["m"]), 0, float(generator.random() < 0.5), None, 101.0 + i)
    [prospect] = learner.predict(PATH, ["m"]).prospects
    assert not prospect.changed
    assert prospect.calls > 1500


def test_a_model_that_is_asked_little_since_it_fell_stays_fallen():
    learner = Learner()
    for i in range(100):
        learner.observe(learner.predict(PATH, ["m", "other"]), 0, 1.0, None, float(i))
    while not learner.observe(learner.predict(PATH, ["m", "other"]), 0, 0.0, None, 100.0):
        pass
    for i in range(3000):
        place = 0 if i < 30 or i % 30 == 0 else 1
        learner.observe(learner.predict(PATH, ["m", "other"]), place, 0.5, None, 101.0 + i)
    [prospect, _] = learner.predict(PATH, ["m", "other"]).prospects
    assert prospect.changed
    assert prospect.calls < 25
