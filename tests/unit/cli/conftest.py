"""The command line in this process, with a home of its own."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from attune.cli import main
from attune.providers import local_server
from attune.stores.sqlite import SqliteStore

if TYPE_CHECKING:
    from attune.models.state import Fact


class Line:
    """Runs ``attune ...`` and keeps what it printed."""

    def __init__(self, home, capsys) -> None:
        self.home = home
        self._capsys = capsys
        self.err = ""

    def __call__(self, *args: str) -> tuple[int, str]:
        """The exit code and standard output."""
        code = main(args)
        captured = self._capsys.readouterr()
        self.err = captured.err
        return code, captured.out

    def json(self, *args: str) -> Any:
        """What ``--json`` printed, of a command that worked."""
        code, out = self(*args, "--json")
        assert code == 0, self.err
        return json.loads(out)

    def configure(self, text: str) -> None:
        (self.home / "config.toml").write_text(text)

    def keep(self, *facts: Fact) -> None:
        """Put facts into the ledger, as another process does."""
        store = SqliteStore.open(self.home / "data" / "ledger.db")
        for fact in facts:
            store.put_fact(fact)
        store.close()


@pytest.fixture
def attune(tmp_path, capsys, monkeypatch) -> Line:
    """A clean environment: no keys, no claude program, no embedded model."""
    for name in ("ANTHROPIC_API_KEY", "OPENAI_API_KEY", "GEMINI_API_KEY", "GOOGLE_API_KEY", "ATTUNE_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ATTUNE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(
        "attune.providers._claude_process.find_program", lambda env: shutil.which("claude", path=env["PATH"])
    )  # never the one that a package brings, which is real
    monkeypatch.setattr(local_server, "missing_packages", lambda: ("pip install xllamacpp",))
    return Line(tmp_path, capsys)
