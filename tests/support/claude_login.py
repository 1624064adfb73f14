"""A login of the ``claude`` program as it lies on a user's disk, made up, with all it may see of a machine.

    async with logged_in(tmp_path, upstream.url) as desk:
        provider = desk.provider()
        ...

The program is the real one. What it would send to any other machine than ``upstream`` goes to a proxy that
answers nobody: see ``Desk.asked_of``.
"""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from attune.providers._claude_process import find_program
from attune.providers.claude_subscription import ClaudeSubscriptionProvider

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from attune.models.quota import QuotaWindow

TOKEN = "sk-ant-oat01-not-a-secret-canary-1f9c"
PLAN = {
    "accessToken": TOKEN,
    "refreshToken": "sk-ant-ort01-not-a-secret-canary-2e8d",
    "scopes": ["user:inference", "user:profile"],
    "subscriptionType": "max",
}
HAS_PROGRAM = find_program({}) is not None


class Desk:
    """The home of a user who is logged in; ``additions`` is what the tests put into the environment."""

    def __init__(self, home: Path, url: str) -> None:
        self.config = home / "config"
        self.config.mkdir(parents=True)
        self.environ = {"PATH": "/usr/bin:/bin", "HOME": str(home), "CLAUDE_CONFIG_DIR": str(self.config)}
        self.environ |= {"NO_PROXY": "127.0.0.1"}
        self.additions = {"ANTHROPIC_BASE_URL": url}
        self.windows: list[QuotaWindow] = []
        self.asked_of: set[str] = set()
        self._built: list[ClaudeSubscriptionProvider] = []
        self.log_in()

    def log_in(self) -> None:
        """Write the login as the program does."""
        login = {"claudeAiOauth": PLAN | {"expiresAt": int((time.time() + 86_400) * 1000)}}
        (self.config / ".credentials.json").write_text(json.dumps(login))

    def log_out(self) -> None:
        (self.config / ".credentials.json").unlink()

    def provider(self, **options: Any) -> ClaudeSubscriptionProvider:
        """A provider that is closed at the end; it keeps no process ready unless the test wants that."""
        provider = ClaudeSubscriptionProvider(
            on_windows=self.windows.extend,
            **{"environ": self.environ, "additions": self.additions, "idle_s": 0, **options},
        )
        self._built.append(provider)
        return provider

    async def aclose(self) -> None:
        for provider in self._built:
            await provider.aclose()

    async def turn_away(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Refuse a connection that was meant for another machine, and note which."""
        words = (await reader.readline()).decode("latin-1").split()
        self.asked_of.update(words[1:2])
        writer.close()


@asynccontextmanager
async def logged_in(folder: Path, url: str) -> AsyncIterator[Desk]:
    """A user who is logged in, with everything in ``folder``; the program finds Anthropic at ``url``."""
    desk = Desk(folder / "home", url)
    async with await asyncio.start_server(desk.turn_away, "127.0.0.1", 0) as proxy:
        address = f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}"
        desk.environ |= {"HTTP_PROXY": address, "HTTPS_PROXY": address}
        try:
            yield desk
        finally:
            await desk.aclose()
