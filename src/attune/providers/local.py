"""The embedded model: a small one on this machine, for trying attune without any key.

It runs in a process of its own, started when it is first needed.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from dataclasses import replace
from typing import TYPE_CHECKING

from attune.errors import ConfigError, ConnectionFailedError, ModelUnavailableError
from attune.providers.local_server import MODEL_ID, missing_packages
from attune.providers.secret import without_secrets

if TYPE_CHECKING:
    from attune.models.executor import AttemptBudget, ProviderStream
    from attune.models.registry import ModelInfo
    from attune.models.request import LLMRequest
    from attune.providers.openai import OpenAIProvider

__all__ = ["MODEL_ID", "LocalModel", "LocalProvider"]

STARTUP_S = 60.0
STOP_S = 5.0


class LocalModel:
    """The process of the embedded model; ``port`` 0 takes a free one at each start."""

    def __init__(self, *, port: int = 0, startup_s: float = STARTUP_S) -> None:
        self._wanted_port = port
        self._startup_s = startup_s
        self._process: Process | None = None
        self._port = 0
        self._lock = asyncio.Lock()

    @property
    def running(self) -> bool:
        """Whether the process is up."""
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int | None:
        """The process id, while it is up."""
        return self._process.pid if self._process is not None and self.running else None

    @property
    def base_url(self) -> str:
        """Where it speaks Chat Completions, while it is up."""
        return f"http://127.0.0.1:{self._port}/v1"

    async def start(self) -> None:
        """Return when the model is ready; at once if it already is.

        Raises ``ConfigError`` naming what to install, and ``ConnectionFailedError`` when the
        process does not come up in time.
        """
        async with self._lock:
            if self.running:
                return
            if missing := missing_packages():
                raise ConfigError(f"the embedded model is not installed; run: {' && '.join(missing)}")
            await self._start()

    async def stop(self) -> None:
        """End the process; idempotent."""
        async with self._lock:
            await self._end()

    async def _start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "attune.providers.local_server"),
            *("--port", str(self._wanted_port)),
            stdin=PIPE,
            stdout=PIPE,
            stderr=DEVNULL,
            env=without_secrets(os.environ),
            start_new_session=True,  # Ctrl-C is for us; we end it when we end
        )
        try:
            self._port = await self._ready(self._process)
        except BaseException:
            await self._end()
            raise

    async def _ready(self, process: Process) -> int:
        assert process.stdout is not None
        try:
            async with asyncio.timeout(self._startup_s):
                line = await process.stdout.readline()
        except TimeoutError as error:
            raise _not_up(f"it was not ready within {self._startup_s:g} s") from error
        if not line:
            port = f"; is port {self._wanted_port} taken?" if self._wanted_port else ""
            raise _not_up(f"its process ended at start{port}")
        return int(json.loads(line)["port"])

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode is None:
            process.terminate()
        try:
            async with asyncio.timeout(STOP_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
        if process.stdin is not None:
            process.stdin.close()


def _not_up(why: str) -> ConnectionFailedError:
    return ConnectionFailedError(
        f"local/{MODEL_ID}: the embedded model did not start: {why}", provider="local", model=MODEL_ID
    )


class LocalProvider:
    """Answers from the embedded model; starts it when it is needed, again after a crash."""

    def __init__(self, name: str = "local", *, model: LocalModel | None = None) -> None:
        self._name = name
        self._model = model or LocalModel()
        self._upstream: OpenAIProvider | None = None
        self._upstream_url = ""

    @property
    def name(self) -> str:
        return self._name

    @property
    def credential(self) -> str:
        return "none"

    async def open(self, request: LLMRequest, model: ModelInfo, budget: AttemptBudget) -> ProviderStream:
        """Start the model if it is not up, and ask it. Raises ``ProviderError``.

        A model that is not installed is a ``ModelUnavailableError`` that names what to install.
        """
        try:
            await self._model.start()
        except ConfigError as error:
            raise ModelUnavailableError(str(error), provider=self._name, model=model.id) from error
        upstream = await self._connected()
        if request.max_output_tokens is None:  # it is small enough never to find an end by itself
            request = replace(request, max_output_tokens=model.max_output_tokens)
        try:
            return await upstream.open(request, model, budget)
        except ConnectionFailedError:
            await self._model.stop()  # it is gone, or as good as gone: the next call starts it again
            raise

    async def aclose(self) -> None:
        """End the model's process; idempotent."""
        if self._upstream is not None:
            await self._upstream.aclose()
        await self._model.stop()

    async def _connected(self) -> OpenAIProvider:
        from attune.providers.openai import OpenAIProvider

        url = self._model.base_url
        if self._upstream is None or url != self._upstream_url:
            if self._upstream is not None:
                await self._upstream.aclose()
            self._upstream_url = url
            self._upstream = OpenAIProvider(self._name, base_url=url, key=None, credential="none")
        return self._upstream
