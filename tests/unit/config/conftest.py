"""A configuration out of a text."""

from __future__ import annotations

import pytest

from attune.config import Config, load
from attune.errors import ConfigError
from attune.providers import local_server

CANARY = "canary-value-of-a-key"  # not-a-secret


@pytest.fixture(autouse=True)
def no_embedded_model(monkeypatch):
    """Whether its packages are installed differs from machine to machine."""
    monkeypatch.setattr(local_server, "missing_packages", lambda: ("pip install xllamacpp",))


@pytest.fixture
def configured(tmp_path):
    """Load this text as ``$ATTUNE_HOME/config.toml``, with these variables and flags."""

    def load_text(text: str = "", flags: dict | None = None, **environ: str) -> Config:
        (tmp_path / "config.toml").write_text(text)
        return load(environ={"ATTUNE_HOME": str(tmp_path), **environ}, flags=flags)

    return load_text


@pytest.fixture
def mistake(configured):
    """The one line that this text is refused with."""

    def refused(text: str, **environ: str) -> str:
        with pytest.raises(ConfigError) as caught:
            configured(text, **environ)
        line = str(caught.value)
        assert "\n" not in line
        assert CANARY not in line
        return line

    return refused
