"""``auth.json``: private, replaced as a whole, never lost."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from attune.config import load_auth, reset_auth, save_auth, saved_files
from attune.errors import ConfigError
from attune.models.auth_strategy import AuthStrategy, SubscriptionTier


def test_auth_json_is_private_to_the_user_and_comes_back_as_it_was(tmp_path):
    path = tmp_path / "deep" / "home" / "auth.json"
    strategy = AuthStrategy(subscription_tier=SubscriptionTier.TEAM, setup_completed=True)
    save_auth(path, strategy)
    assert load_auth(path) == (strategy, ())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [entry.name for entry in path.parent.iterdir()] == ["auth.json"]


def test_a_save_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "auth.json"
    save_auth(path, AuthStrategy())
    before = path.read_bytes()

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match=r"cannot write .*No space left"):
        save_auth(path, AuthStrategy(setup_completed=True))
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["auth.json"]


def test_reset_removes_what_was_saved_once(tmp_path):
    path = tmp_path / "auth.json"
    save_auth(path, AuthStrategy())
    assert [reset_auth(path), reset_auth(path)] == [True, False]
    path.mkdir()
    with pytest.raises(ConfigError, match="cannot remove"):
        reset_auth(path)


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"[]",
        b"\xff\xfe",
        b"[" * 50_000,
        b'{"default_mode": "' + b"x" * 70_000 + b'"}',
    ],
)
def test_a_corrupt_auth_json_is_kept_aside_and_reported(configured, tmp_path, content):
    for _ in range(2):  # a second one within the second does not replace the first
        (tmp_path / "auth.json").write_bytes(content)
        config = configured()
        assert config.auth == AuthStrategy()
        (notice,) = config.notices
        assert "auth.json was unreadable (" in notice
        assert "attune auth setup" in notice
        assert "\n" not in notice
        assert not (tmp_path / "auth.json").exists()
    kept = list(tmp_path.glob("auth.json.corrupt-*"))
    assert [file.read_bytes() for file in kept] == [content, content]


def test_the_notice_of_a_corrupt_auth_json_comes_again_until_one_is_saved_or_all_is_reset(
    configured, tmp_path
):
    path = tmp_path / "auth.json"
    path.write_text("{")
    configured()
    (kept,) = tmp_path.glob("auth.json.corrupt-*")
    assert f"kept as {kept}; the defaults hold until" in configured().notices[0]
    save_auth(path, AuthStrategy())
    assert configured().notices == ()
    path.unlink()
    assert saved_files(path) == [kept]
    assert reset_auth(path) is True
    assert configured().notices == ()
    assert not kept.exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"default_mode": "sometimes"}', "unknown default_mode 'sometimes'"),
        ('{"prefer_subscripton": true}', "did you mean 'prefer_subscription'?"),
        ('{"small_module_threshold": 9999}', "must not be above large_module_threshold"),
        ('{"cost_optimization": "no"}', "cost_optimization must be true or false"),
    ],
)
def test_a_field_that_is_wrong_is_an_error_and_the_file_stays(configured, tmp_path, content, says):
    path = tmp_path / "auth.json"
    path.write_text(content)
    with pytest.raises(ConfigError) as raised:
        configured()
    assert says in str(raised.value)
    assert str(path) in str(raised.value)
    assert "attune auth reset" in str(raised.value)
    assert [(file.name, file.read_text()) for file in tmp_path.glob("auth.json*")] == [("auth.json", content)]


def test_a_home_below_a_file_names_that_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"file is a file, not a folder; choose another with ATTUNE_HOME"):
        load_auth(tmp_path / "file" / "home" / "auth.json")


def test_an_auth_json_that_cannot_be_read_or_kept_aside_is_an_error(configured, tmp_path, monkeypatch):
    (tmp_path / "auth.json").write_text("{")

    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "rename", denied)
    with pytest.raises(ConfigError, match="cannot be kept aside: Permission denied"):
        configured()
    (tmp_path / "auth.json").unlink()
    (tmp_path / "auth.json").mkdir()
    with pytest.raises(ConfigError, match=r"cannot read .*auth\.json: Is a directory"):
        configured()


def test_what_was_saved_is_plain_json_without_any_key(tmp_path):
    save_auth(tmp_path / "auth.json", AuthStrategy())
    assert json.loads((tmp_path / "auth.json").read_text()) == AuthStrategy().to_dict()
