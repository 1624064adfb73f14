import copy
import pickle
from pathlib import Path

import pytest

from attune.errors import ConfigError
from attune.providers import Secret, resolve_secret

KEY = "correct-horse-battery-staple"


@pytest.fixture
def secret() -> Secret:
    return resolve_secret("env:MINE", {"MINE": f" {KEY}\n"})


def test_the_key_is_given_only_when_revealed(secret: Secret) -> None:
    assert secret.reveal() == KEY


def test_every_text_shows_where_the_key_is_from_and_not_the_key(secret: Secret) -> None:
    for text in (repr(secret), str(secret), f"{secret}", f"{secret:>40}", f"{secret!r}", repr([secret])):
        assert "env:MINE" in text
        assert KEY not in text
    assert not hasattr(secret, "__dict__")


def test_a_secret_cannot_be_pickled_but_may_be_copied(secret: Secret) -> None:
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(secret)
    assert copy.copy(secret) is secret
    assert copy.deepcopy({"key": secret})["key"] is secret


def test_secrets_are_equal_when_their_keys_are(secret: Secret) -> None:
    assert secret == Secret(KEY, "file:/other")
    assert hash(secret) == hash(Secret(KEY, "file:/other"))
    assert secret != Secret("other", "env:MINE")
    assert secret != KEY


def test_a_file_holds_a_key(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text(f"{KEY}\n")
    assert resolve_secret(f"file:{path}", {}).reveal() == KEY


def test_a_file_may_be_named_from_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "key").write_text(KEY)
    assert resolve_secret("file:~/key", {}).reveal() == KEY


@pytest.mark.parametrize(
    "reference",
    [
        "sk-proj-1234567890abcdef",  # not-a-secret
        "env:sk-proj-1234567890abcdef",  # not-a-secret
        "",
        "env:",
        "file:",
        "vault:secret/mine",
        KEY,
    ],
)
def test_a_key_in_place_of_a_reference_is_refused_without_repeating_it(reference: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_secret(reference, {}, where="providers.mine.api_key")
    assert str(caught.value) == (
        'providers.mine.api_key must refer to a key, as "env:NAME" or "file:PATH"; it must not be one'
    )


@pytest.mark.parametrize("environ", [{}, {"MINE": ""}, {"MINE": "  "}])
def test_a_variable_that_is_not_set_is_named(environ: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"^api_key: the environment variable MINE is not set$"):
        resolve_secret("env:MINE", environ)


def test_a_key_that_looks_like_a_variable_is_not_repeated() -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_secret("env:AIzaSyD0123456789abcdef", {})
    assert "AIza" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=rf"^api_key: cannot read {tmp_path}/no: No such file or directory$"
    ):
        resolve_secret(f"file:{tmp_path}/no", {})
    (tmp_path / "empty").touch()
    with pytest.raises(ConfigError, match=r"empty is empty$"):
        resolve_secret(f"file:{tmp_path}/empty", {})
    (tmp_path / "big").write_bytes(b"x" * 20_000)
    with pytest.raises(ConfigError, match="too large to be a key"):
        resolve_secret(f"file:{tmp_path}/big", {})


@pytest.mark.parametrize("value", ["two words", "line\nbreak", "na\u00efve", "nul\x00"])
def test_what_cannot_be_in_a_header_is_no_key_and_is_not_repeated(value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_secret("env:MINE", {"MINE": value})
    assert str(caught.value).startswith("api_key: what env:MINE holds is not a key")
    assert value not in str(caught.value)
