"""Claude Code: the real program, as the wheel of ``claude-agent-sdk`` bundles it.

    async with claude_code(folder, gate.url, key) as claude:
        ended = await claude("-p", "hi")

It has a home, a configuration and a working folder of its own, and no account. What it would send to any
other machine goes to a proxy that answers nobody and counts: see ``Claude.strays``.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LIMIT_SECONDS = 300


def bundled_program() -> str:
    """Where the program is; the package is not imported, since that takes a second."""
    spec = find_spec("claude_agent_sdk")
    assert spec is not None
    assert spec.origin is not None
    return str(Path(spec.origin).parent / "_bundled" / "claude")


class Ended(NamedTuple):
    """How a run of the program ended."""

    code: int
    out: str
    err: str

    @property
    def events(self) -> list[dict[str, Any]]:
        """The lines of ``--output-format stream-json``."""
        return [json.loads(line) for line in self.out.splitlines()]


class Claude:
    """Runs the program with ``environ`` in ``folder``; ``strays`` counts what it asked of other machines."""

    def __init__(self, home: Path, environ: dict[str, str]) -> None:
        self.folder = home / "work"
        self.folder.mkdir(parents=True)
        self.environ = environ
        self.strays = 0

    async def __call__(self, *args: str) -> Ended:
        """Run it to its end."""
        process = await asyncio.create_subprocess_exec(
            bundled_program(),
            *args,
            env=self.environ,
            cwd=self.folder,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(LIMIT_SECONDS):
                out, err = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode is not None
        return Ended(process.returncode, out.decode(), err.decode())

    def count(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Refuse a connection that was meant for another machine."""
        self.strays += 1
        writer.close()


@asynccontextmanager
async def claude_code(folder: Path, url: str, key: str) -> AsyncIterator[Claude]:
    """The program as a user of the gateway at ``url`` sets it up, with everything in ``folder``."""
    home = folder / "claude"
    environ = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(home),
        "CLAUDE_CONFIG_DIR": str(home / "config"),
        "ANTHROPIC_BASE_URL": url,
        "ANTHROPIC_AUTH_TOKEN": key,
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_AUTOUPDATER": "1",
        "DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
    }
    claude = Claude(home, environ)
    async with await asyncio.start_server(claude.count, "127.0.0.1", 0) as proxy:
        address = f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}"
        claude.environ |= {"HTTP_PROXY": address, "HTTPS_PROXY": address}
        yield claude
