"""A Claude subscription, through the user's own login in the unmodified ``claude`` program.

The program alone knows the login: nothing here reads, keeps or sends a token. It is run for completions only,
without tools, settings, memory or hooks, and with an environment in which it finds no key.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import msgspec

from attune.errors import (
    ConnectionFailedError,
    CredentialError,
    InvalidRequestError,
    ThrottledError,
)
from attune.providers._claude_lines import asked, check_payer
from attune.providers._claude_process import (
    AT_ONCE,
    WARM_IDLE_S,
    ClaudePool,
    ClaudeProgram,
    find_program,
)
from attune.providers._claude_stream import ClaudeStream
from attune.providers.catalogue import SUBSCRIPTION
from attune.wire.errors import MALFORMED, ErrorMapper

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from attune.models.executor import AttemptBudget
    from attune.models.quota import QuotaWindow
    from attune.models.registry import ModelInfo
    from attune.models.request import LLMRequest
    from attune.providers._claude_lines import Asked
    from attune.providers._claude_process import ClaudeProcess

__all__ = ["ClaudeSubscriptionProvider"]

INSTALL = (
    "install it (https://code.claude.com) or `pip install 'attune-models[subscription]'`, and log in with it"
)


class ClaudeSubscriptionProvider:
    """Answers with the plan that is logged in to the ``claude`` program on this machine.

    ``on_windows`` is called with the quota windows whenever the plan tells of any. ``environ`` is where the
    few variables that the program may have are taken from; ``additions`` reach it as they are, and
    ``program`` is run instead of the one that is found: both are for tests. ``idle_s`` and ``at_once`` are
    those of ``ClaudePool``.
    """

    def __init__(
        self,
        name: str = "claude",
        *,
        on_windows: Callable[[Sequence[QuotaWindow]], None] | None = None,
        environ: Mapping[str, str] = os.environ,
        additions: Mapping[str, str] | None = None,
        program: str | None = None,
        idle_s: float = WARM_IDLE_S,
        at_once: int = AT_ONCE,
    ) -> None:
        self._name = name
        self._on_windows = on_windows
        self._environ = environ
        self._additions = additions or {}
        self._program = program
        self._idle_s = idle_s
        self._at_once = at_once
        self._pools: WeakKeyDictionary[asyncio.AbstractEventLoop, ClaudePool | None] = WeakKeyDictionary()

    @property
    def name(self) -> str:
        return self._name

    @property
    def credential(self) -> str:
        return SUBSCRIPTION

    async def open(self, request: LLMRequest, model: ModelInfo, budget: AttemptBudget) -> ClaudeStream:
        """Ask the program; return when the head of the answer has arrived. Raises ``ProviderError``.

        What pays is verified before anything is asked: when it is not the subscription, that is a
        ``CredentialError``, and nothing is sent. ``connect_s`` is how long a free process is waited for, and
        then how long it may take until it can be asked.
        """
        errors = ErrorMapper(self._name, model.id)
        told = asked(request, model, errors, provider=self._name)
        pool = self._pool(errors)
        try:
            stream = await self._connected(pool, told, budget, errors)
            await stream.ask(told)
        except CredentialError:
            pool.verified = False
            raise
        return stream

    async def aclose(self) -> None:
        """End every process of the running event loop, and start none there any more; idempotent."""
        loop = asyncio.get_running_loop()
        pool = self._pools.get(loop)
        self._pools[loop] = None
        if pool is not None:
            await pool.aclose()

    def _noted(self, windows: Sequence[QuotaWindow]) -> None:
        """Take in what the plan reports."""
        if windows and self._on_windows is not None:
            self._on_windows(windows)

    def _pool(self, errors: ErrorMapper) -> ClaudePool:
        loop = asyncio.get_running_loop()
        pool = self._pools.get(loop)
        if pool is None:
            if loop in self._pools:
                raise InvalidRequestError("the processes of this provider were ended; build it again")
            path = self._program or find_program(self._environ)
            if path is None:
                raise errors.raised(CredentialError, f"the claude program is not installed; {INSTALL}")
            program = ClaudeProgram.of(path, self._environ, self._additions)
            pool = self._pools[loop] = ClaudePool(program, idle_s=self._idle_s, at_once=self._at_once)
        return pool

    async def _connected(
        self, pool: ClaudePool, told: Asked, budget: AttemptBudget, errors: ErrorMapper
    ) -> ClaudeStream:
        """A process that has been told all but the last message, and that the subscription pays for."""
        try:
            process = await self._free_process(pool, budget.connect_s, errors)
            return await self._prepared(
                ClaudeStream(pool, process, errors, self._noted), told, budget, errors
            )
        except asyncio.CancelledError as stopped:
            stopped.sent = False  # type: ignore[attr-defined]
            raise

    async def _free_process(self, pool: ClaudePool, wait_s: float, errors: ErrorMapper) -> ClaudeProcess:
        try:
            await self._verify_login(pool, wait_s, errors)
            return await pool.take(wait_s)
        except TimeoutError:
            busy = errors.raised(ThrottledError, f"all {pool.at_once} claude processes are at work")
            busy.retry_after = 0.0
            raise busy from None
        except OSError as error:
            what = f"the claude program cannot be started: {error.strerror or error}; {INSTALL}"
            raise errors.raised(CredentialError, what) from None

    async def _prepared(
        self, stream: ClaudeStream, told: Asked, budget: AttemptBudget, errors: ErrorMapper
    ) -> ClaudeStream:
        try:
            async with asyncio.timeout(budget.connect_s):
                await stream.prepare(told)
        except TimeoutError:
            await stream.aclose()
            late = f"the claude program was not ready within {budget.connect_s:g} s"
            raise errors.raised(ConnectionFailedError, late) from None
        except BaseException:
            await stream.aclose()
            raise
        return stream

    async def _verify_login(self, pool: ClaudePool, limit_s: float, errors: ErrorMapper) -> None:
        if pool.verified:
            return
        try:
            async with asyncio.timeout(limit_s):
                report = msgspec.json.decode(await pool.auth_status(), type=_AuthStatus)
        except TimeoutError:
            late = f"`claude auth status` took longer than {limit_s:g} s"
            raise errors.raised(ConnectionFailedError, late) from None
        except MALFORMED:
            unknown = "`claude auth status` did not say who is logged in; update the claude program"
            raise errors.raised(CredentialError, unknown) from None
        if report.auth_method == "none":
            raise errors.raised(
                CredentialError, "nobody is logged in to the claude program; run `claude auth login`"
            )
        check_payer(report.auth_method, errors)
        pool.verified = True


class _AuthStatus(msgspec.Struct, rename="camel"):
    auth_method: str
