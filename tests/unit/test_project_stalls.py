"""A test that is tried again after a stall: ``support.stalls``."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from support import stalls
from support.stalls import STALL_SECONDS, TRIES, anew_after_a_stall

if TYPE_CHECKING:
    from pathlib import Path


async def test_a_failure_beside_a_stall_is_tried_again_in_another_folder(tmp_path: Path) -> None:
    folders: list[Path] = []

    @anew_after_a_stall
    async def tried(tmp_path: Path) -> None:
        folders.append(tmp_path)
        if len(folders) < 3:
            time.sleep(2 * STALL_SECONDS)  # which is a stall
            pytest.fail("too late")

    await tried(tmp_path=tmp_path)
    assert folders == [tmp_path / f"try-{number}" for number in (1, 2, 3)]
    assert all(folder.is_dir() for folder in folders)


async def test_a_failure_that_no_stall_goes_with_is_a_failure_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stalls, "STALL_SECONDS", 60.0)  # whatever this machine does now, it is none
    tries: list[int] = []

    @anew_after_a_stall
    async def tried() -> None:
        tries.append(1)
        assert not tries

    with pytest.raises(AssertionError):
        await tried()
    assert len(tries) == 1


async def test_what_fails_every_time_fails_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stalls, "STALL_SECONDS", 0.0)
    tries: list[int] = []

    @anew_after_a_stall
    async def tried() -> None:
        tries.append(1)
        raise ValueError("always")

    with pytest.raises(ValueError, match="always"):
        await tried()
    assert len(tries) == TRIES
