"""Prompts as numbers, and the model that learns from them."""

from __future__ import annotations

import math
import random

from hypothesis import given
from hypothesis import strategies as st

from attune.models.features import CLASSES, FEATURES, HASHED, SHAPES, FeatureModel, Scale, prompt_features


@given(st.text(st.characters(exclude_categories=()), max_size=400))
def test_any_prompt_becomes_as_many_finite_numbers(prompt: str):
    x = prompt_features(prompt)
    assert len(x) == FEATURES <= 64
    assert all(math.isfinite(v) for v in x)
    assert prompt_features(prompt) == x


def test_a_question_with_numbers_differs_from_code():
    asked = prompt_features("If 3 apples cost 12 dollars, how many dollars do 7 cost?")
    code = prompt_features("def add(a, b):\n    return a + b\n")
    assert asked != code
    assert share_of_digits(asked) > share_of_digits(code)


def share_of_digits(x: list[float]) -> float:
    return x[3]


def words_of(prompt: str) -> list[float]:
    return prompt_features(prompt)[SHAPES:]


def test_function_words_are_counted_by_class_whatever_their_case_and_order():
    assert words_of("If the cat") == words_of("the CAT if") != words_of("the cat of")
    assert words_of("if the")[CLASSES:] == [0.0] * HASHED


def test_other_words_are_counted_by_hash_wherever_they_stand():
    filler = "the " * 40
    once, twice = words_of(filler + "zebra " + filler), words_of(filler + "zebra zebra " + filler)
    assert once[:CLASSES] == twice[:CLASSES]
    assert sum(once[CLASSES:]) == math.log1p(1)
    assert sum(twice[CLASSES:]) == math.log1p(2)


def test_a_prompt_that_no_encoding_can_hold_has_features_too():
    assert len(prompt_features("broken \ud83d half \udfff of a sign")) == FEATURES


def test_a_long_prompt_is_read_at_its_ends():
    assert prompt_features("x y " * 100_000)[0] > prompt_features("x y " * 1000)[0]


def test_the_scale_centres_and_clips():
    scale = Scale()
    for i in range(50):
        scale.learn([float(i % 2)] * FEATURES)
    assert scale([0.5] * FEATURES) == [0.0] * FEATURES
    assert max(scale([1e9] * FEATURES)) == 4.0
    assert Scale()([1.0] * FEATURES) == [0.0] * FEATURES


def taught(signal: float, count: int, seed: int = 0) -> FeatureModel:
    generator = random.Random(seed)
    model = FeatureModel()
    for _ in range(count):
        x = [generator.gauss(0, 1) for _ in range(FEATURES)]
        p = 1 / (1 + math.exp(-signal * x[0]))
        model.learn(x, 0.5, float(generator.random() < p), 1.0, 1 + 0.5 * signal * x[1])
    return model


def test_a_feature_that_matters_is_found_and_used():
    model = taught(1.0, 600)
    up, down = ([sign] + [0.0] * (FEATURES - 1) for sign in (1.0, -1.0))
    assert model.reward_gain.on
    assert model.cost_gain.on
    assert model.shift(up) > 0.3 > -0.3 > model.shift(down)
    assert model.size([0.0, 1.0] + [0.0] * (FEATURES - 2)) > 1.2


def test_the_first_calls_do_not_teach_what_is_not_there():
    shifts = []
    for seed in range(20):
        model, probe = taught(0.0, 30, seed), random.Random(seed)
        shifts += [abs(model.shift([probe.gauss(0, 1) for _ in range(FEATURES)])) for _ in range(5)]
    assert sum(shifts) / len(shifts) < 0.4


def test_features_that_say_nothing_are_not_used():
    assert sum(taught(0.0, 400, seed).reward_gain.on for seed in range(8)) <= 3


def test_the_size_of_a_call_is_never_negative():
    model = taught(1.0, 300)
    assert model.size([0.0, -100.0] + [0.0] * (FEATURES - 2)) == 0.1
