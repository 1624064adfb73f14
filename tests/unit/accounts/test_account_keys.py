"""Keys: random, named, shown once."""

from __future__ import annotations

import hashlib
import pickle

import pytest

from attune.accounts import NewKey, looks_like_a_key
from attune.errors import InvalidRequestError
from attune.models.state import KeyLimits
from unit.accounts.gateway_accounts import NOW, a_key


def test_a_key_is_32_random_bytes_behind_a_prefix_and_only_its_digest_is_in_the_record():
    made = a_key()
    assert made.reveal().startswith("attune-")
    assert len(made.reveal()) == 50
    assert looks_like_a_key(made.reveal().encode())
    assert made.record.digest == hashlib.sha256(made.reveal().encode()).digest()
    assert made.record.id == made.record.digest.hex()[:12]
    assert made.reveal() not in repr(made.record)


def test_no_two_keys_are_the_same():
    assert len({a_key().reveal() for _ in range(100)}) == 100


def test_no_text_of_a_key_shows_it():
    made = a_key()
    texts = [repr(made), str(made), f"{made}", f"{made:>99}", f"{made!r}", repr([made])]
    assert all("ci" in text and made.reveal() not in text for text in texts)
    with pytest.raises(TypeError, match="pickled"):
        pickle.dumps(made)


@pytest.mark.parametrize(
    "text", ["", "attune-", "attune-" + "x" * 42, "sk-" + "x" * 47, "attune-" + "x" * 44]
)
def test_what_is_not_of_the_form_of_a_key_does_not_look_like_one(text):
    assert not looks_like_a_key(text.encode())


@pytest.mark.parametrize("name", ["", "two words", "-dash", "x" * 65, "naïve", "a\nb", "0123456789ab", "a/b"])
def test_a_name_that_could_be_misread_is_refused_in_one_line(name):
    with pytest.raises(InvalidRequestError, match="a key's name is 1 to 64 letters") as caught:
        NewKey.make(name, now=NOW)
    assert "\n" not in str(caught.value)


def test_a_key_given_as_a_name_is_refused_and_not_repeated():
    key = a_key().reveal()
    with pytest.raises(InvalidRequestError, match="is a key, not a name") as caught:
        NewKey.make(key, now=NOW)
    assert key not in str(caught.value)


@pytest.mark.parametrize(
    ("limit", "value"),
    [
        ("requests_per_minute", 0),
        ("tokens_per_minute", -1),
        ("tokens_per_minute", 10**13),
        ("usd_per_day", -0.01),
        ("usd_per_month", float("nan")),
        ("usd_per_month", float("inf")),
    ],
)
def test_a_limit_that_makes_no_sense_is_refused_by_name(limit, value):
    with pytest.raises(InvalidRequestError, match=limit):
        NewKey.make("ci", now=NOW, limits=KeyLimits(**{limit: value}))


def test_a_key_that_is_expired_before_it_is_made_is_refused():
    with pytest.raises(InvalidRequestError, match="already expired"):
        NewKey.make("ci", now=NOW, expires=NOW)
