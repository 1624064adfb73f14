"""What a process that attune starts is given of its environment."""

from __future__ import annotations

import os

import pytest

from attune.providers.secret import without_secrets


def test_no_key_is_passed_on_whatever_it_is_called() -> None:
    names = (
        "ANTHROPIC_API_KEY",
        "MINE_KEY",
        "KEY_first",
        "mine",
        "OPENAI_BASE_URL",
        "AWS_PROFILE",
        "PATHS",
        "key",
    )
    assert without_secrets(dict.fromkeys((*names, "GITHUB_TOKEN", "PG_URL", "ATTUNE_HOME"), "x")) == {}


@pytest.mark.parametrize(
    "name", ["PATH", "HOME", "LANG", "LC_ALL", "PYTHONPATH", "LD_LIBRARY_PATH", "TMPDIR"]
)
def test_what_a_program_needs_to_run_is_passed_on(name: str) -> None:
    assert without_secrets({name: "x", "OTHER": "y"}) == {name: "x"}


def test_the_environment_itself_stays_as_it_is() -> None:
    before = dict(os.environ)
    without_secrets(os.environ)
    assert dict(os.environ) == before
