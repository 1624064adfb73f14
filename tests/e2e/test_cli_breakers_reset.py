"""``attune breakers --reset`` while another process goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from attune.cli import main
from attune.config import load
from attune.errors import AllProvidersFailedError
from attune.runtime import build
from support.program import MINE
from support.upstream import Answer, FakeUpstream

if TYPE_CHECKING:
    from pathlib import Path


async def test_a_running_process_asks_a_refused_credential_again_after_a_reset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environ = {"ATTUNE_HOME": str(tmp_path), "MINE_KEY": "k"}
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    async with FakeUpstream() as upstream:
        upstream.then(Answer(status=401))
        (tmp_path / "config.toml").write_text(MINE.format(url=upstream.chat_url))
        async with build(load(environ=environ), environ=environ) as ai:
            for _ in range(2):
                with pytest.raises(AllProvidersFailedError):
                    await ai.run("hi")
            assert len(upstream.received) == 1, "the second call found it off"
            await ai.store.flush()
            assert main(["breakers", "--reset", "mine#api_key"]) == 0
            cleared = "cleared: mine#api_key (credential off: it was refused (401 or 403))\n"
            assert capsys.readouterr().out == cleared
            await ai.sharing.catch_up()
            assert (await ai.run("hi")).provider == "mine"
