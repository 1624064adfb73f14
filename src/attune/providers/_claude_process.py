"""The ``claude`` program as child processes: how one is started and ended, and a few kept ready.

A process answers one request and ends, so that no conversation ever sees another. Starting one takes half a
second, so the next one is started before it is needed.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
import signal
import tempfile
import weakref
from asyncio.subprocess import PIPE, Process
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ClaudePool", "ClaudeProcess", "ClaudeProgram", "find_program"]

AT_ONCE = 4
"""How many processes of a pool answer at a time: each takes some 200 MB."""

WARM_IDLE_S = 300.0
"""How long a process waits for a request, at 160 MB, before it is ended."""

GRACE_S = 5.0
"""How long a process may take to end by itself. It is never killed at once: it may just be writing a login
that it has renewed, and the user would be logged out.
"""

MAX_LINE_BYTES = 8 * 1024 * 1024
"""The longest line accepted from it: an answer of today's longest, as a whole, takes an eighth."""

MAX_REPORT_BYTES = 64 * 1024

_INHERITED = frozenset(
    {"PATH", "HOME", "LANG", "TMPDIR", "CLAUDE_CONFIG_DIR", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"}
    | {"http_proxy", "https_proxy", "no_proxy"}
)
"""What it gets of our environment. Everything else is left out, since nobody knows the names of all the
variables that would make it bill a key: ``ANTHROPIC_API_KEY`` alone is always preferred to the login.
"""

_NO_SETTINGS = "--setting-sources="
"""Leaves out the user's, the project's and the local settings: with them hooks, and keys that they name."""

_COMPLETION = (
    *("-p", "--verbose", "--input-format", "stream-json", "--output-format", "stream-json"),
    *("--include-partial-messages", "--no-session-persistence", "--disable-slash-commands"),
    *("--tools", "", _NO_SETTINGS, "--strict-mcp-config", "--max-turns", "1", "--permission-mode", "dontAsk"),
)
_ONE_REQUEST = {
    "CLAUDE_CODE_MAX_RETRIES": "0",  # what comes after a failure is decided here
    "CLAUDE_CODE_DISABLE_NONSTREAMING_FALLBACK": "1",
    "CLAUDE_CODE_DISABLE_MODEL_ACCESS_FALLBACK": "1",
    "CLAUDE_CODE_DISABLE_REFUSAL_FALLBACK": "1",
    "CLAUDE_CODE_DISABLE_REFUSAL_RETRY": "1",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "CLAUDE_CODE_DISABLE_CLAUDE_MDS": "1",
    "CLAUDE_CODE_DISABLE_AUTO_MEMORY": "1",
    "DISABLE_COMPACT": "1",
}
"""One request for each answer: nothing repeated, nothing beside it, no other model, nothing added to it."""


class ClaudeProgram(NamedTuple):
    """What is run, and with which environment."""

    path: str
    environ: Mapping[str, str]

    @classmethod
    def of(cls, path: str, environ: Mapping[str, str], additions: Mapping[str, str]) -> ClaudeProgram:
        """The program with what it may have of ``environ``; ``additions`` are passed on as they are."""
        inherited = {name: value for name, value in environ.items() if name in _INHERITED}
        return cls(path, {**inherited, **_ONE_REQUEST, **additions})


def find_program(environ: Mapping[str, str]) -> str | None:
    """The user's own ``claude`` on PATH, else the one that the wheel of ``claude-agent-sdk`` holds.

    The package is not imported: only its program is wanted, and that would take a second.
    """
    if own := shutil.which("claude", path=environ.get("PATH", "")):
        return own
    spec = importlib.util.find_spec("claude_agent_sdk")
    if spec is None or spec.origin is None:
        return None
    return shutil.which("claude", path=str(Path(spec.origin).parent / "_bundled"))


class ClaudeProcess:
    """One running program: lines of JSON in, lines of JSON out."""

    def __init__(self, process: Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self._process = process
        self._stdin, self._stdout, self._stderr = process.stdin, process.stdout, process.stderr

    @property
    def pid(self) -> int:
        """Its process id, which is that of its process group too."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.returncode is None

    async def send(self, message: Mapping[str, Any]) -> None:
        """Write one line. A process that has ended takes nothing: its output says so."""
        with suppress(ConnectionError):
            self._stdin.write(msgspec.json.encode(message) + b"\n")
            await self._stdin.drain()

    async def line(self) -> bytes:
        """The next line; empty at the end. Raises ``ValueError`` for one above ``MAX_LINE_BYTES``."""
        return await self._stdout.readline()

    async def report(self) -> bytes:
        """All that it prints, up to ``MAX_REPORT_BYTES``."""
        printed = b""
        while len(printed) < MAX_REPORT_BYTES and (more := await self._stdout.read(MAX_REPORT_BYTES)):
            printed += more
        return printed

    async def last_words(self) -> str:
        """How it ended, once its output has: the code or the signal, and what it said about it."""
        code = await self.ended()
        with suppress(TimeoutError, ValueError):
            async with asyncio.timeout(GRACE_S):
                said = (await self._stderr.read(MAX_REPORT_BYTES)).decode("utf-8", "replace").strip()
                return f"{_how(code)}: {said}" if said else _how(code)
        return _how(code)

    def hang_up(self) -> None:
        """Say that there is nothing more to do: it ends when it has nothing under way."""
        self._stdin.close()

    def interrupt(self) -> None:
        """Make it give up what it does, at once, and end."""
        self._signal(signal.SIGINT)
        self.hang_up()

    async def ended(self) -> int:
        """Wait until it has ended; kill it, with all that it started, when that takes too long."""
        try:
            async with asyncio.timeout(GRACE_S):
                return await self._process.wait()
        except TimeoutError:
            self._signal(signal.SIGKILL)
            return await self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        if self.running:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)


def _how(code: int) -> str:
    return f"it was ended by signal {-code}" if code < 0 else f"it ended with code {code}"


class ClaudePool:
    """The processes of one event loop, in an empty folder of their own: at most ``at_once`` at work, and one
    more that waits for the next request, for ``idle_s`` seconds at most; 0 keeps none.
    """

    def __init__(
        self, program: ClaudeProgram, *, idle_s: float = WARM_IDLE_S, at_once: int = AT_ONCE
    ) -> None:
        self._program = program
        self._idle_s = idle_s
        self.at_once = at_once
        self.folder = Path(tempfile.mkdtemp(prefix="attune-claude-"))
        self._remove_folder = weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        self._turns = asyncio.Semaphore(at_once)
        self._at_work: set[ClaudeProcess] = set()
        self._warm: ClaudeProcess | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._ending: set[asyncio.Task[None]] = set()
        self.verified = False

    @property
    def pids(self) -> frozenset[int]:
        """The process ids of all that run: at work, or ready."""
        ready = {self._warm} if self._warm is not None else set()
        return frozenset(each.pid for each in self._at_work | ready if each.running)

    async def auth_status(self) -> bytes:
        """What ``claude auth status`` prints, in the environment in which it will answer."""
        process = await self._spawn(_NO_SETTINGS, "auth", "status", "--json")
        try:
            return await process.report()
        finally:
            process.interrupt()
            await asyncio.shield(process.ended())

    async def take(self, wait_s: float) -> ClaudeProcess:
        """A process that has been asked nothing; ``give_back`` must be called for it.

        Raises ``TimeoutError`` when all are at work for ``wait_s`` seconds and ``OSError`` when the program
        cannot be started.
        """
        async with asyncio.timeout(wait_s):
            await self._turns.acquire()
        try:
            process = self._ready() or await self._spawn(*_COMPLETION)
        except BaseException:
            self._turns.release()
            raise
        self._at_work.add(process)
        if self._keeping is None and self._idle_s > 0:
            self._keeping = asyncio.create_task(self._keep_one_ready())
        return process

    def give_back(self, process: ClaudeProcess, *, finished: bool) -> None:
        """End a process; one that has not ``finished`` its answer gives it up at once. Once for each."""
        if finished:
            process.hang_up()
        else:
            process.interrupt()
        task = asyncio.get_running_loop().create_task(self._end(process))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def aclose(self) -> None:
        """End every process, reap it, and remove the folder; idempotent."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
        at_work = tuple(self._at_work)
        for process in at_work:
            process.interrupt()
        await asyncio.gather(*(each.ended() for each in at_work), *self._ending)
        self._remove_folder()

    def _ready(self) -> ClaudeProcess | None:
        """The process that waits, if it still runs."""
        process, self._warm = self._warm, None
        if process is None:
            return None
        assert self._keeping is not None
        self._keeping.cancel()
        self._keeping = None
        return process if process.running else None

    async def _keep_one_ready(self) -> None:
        with suppress(OSError):  # the next request is told, if it is still so
            process = self._warm = await self._spawn(*_COMPLETION)
            try:
                await asyncio.sleep(self._idle_s)
            finally:
                if self._warm is process:  # nobody took it
                    self._warm = None
                    process.interrupt()
                    await process.ended()
        self._keeping = None

    async def _end(self, process: ClaudeProcess) -> None:
        try:
            await process.ended()
        finally:
            self._at_work.discard(process)
            self._turns.release()

    async def _spawn(self, *arguments: str) -> ClaudeProcess:
        return ClaudeProcess(
            await asyncio.create_subprocess_exec(
                self._program.path,
                *arguments,
                env=self._program.environ,
                cwd=self.folder,
                stdin=PIPE,
                stdout=PIPE,
                stderr=PIPE,
                limit=MAX_LINE_BYTES,
                start_new_session=True,  # Ctrl-C is for us; we end it when we end
            )
        )
