"""A Claude plan in the configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from attune.config import load
from attune.errors import ConfigError
from attune.models.registry import ModelTier

if TYPE_CHECKING:
    from pathlib import Path

    from attune.config import Config

PLAN = '[providers.mine]\nkind = "claude_subscription"\n'


def configured(folder: Path, text: str) -> Config:
    (folder / "config.toml").write_text(text)
    return load(environ={"ATTUNE_HOME": str(folder)})


def test_a_plan_is_there_only_when_the_file_names_it(tmp_path: Path) -> None:
    kinds = {each.kind for each in configured(tmp_path, "").providers}
    assert "claude_subscription" not in kinds
    config = configured(tmp_path, PLAN)
    assert config.enrolled["mine"] == ("subscription",)
    assert config.notices == ()


def test_a_plan_has_the_models_of_anthropic_for_nothing_more_and_none_that_bills_credits(
    tmp_path: Path,
) -> None:
    registry = configured(tmp_path, PLAN).registry
    served = [model for model in registry.models if model.provider == "mine"]
    theirs = [m.id for m in registry.models if m.provider == "anthropic" and "fable" not in m.id]
    assert [model.id for model in served] == theirs
    assert {model.tier for model in served} == set(ModelTier)
    assert all(model.prices is not None and model.prices.free for model in served)
    assert all(model.unfit_for(frozenset({"tools"})) for model in served)
    assert not any(model.unfit_for(frozenset({"vision", "thinking"})) for model in served)


def test_a_plan_has_no_address_and_no_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"line 3.*claude_subscription kind has no address and no key"):
        configured(tmp_path, PLAN + 'api_key = "env:KEY"\n')
