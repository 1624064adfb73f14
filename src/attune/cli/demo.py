"""The demo: a small real workflow on a real model, with one provider that is really down for a while.

Everything is the product's own path: a configuration file, the router, the executor, the breakers
and the ledger. Two processes serve the same embedded model: ``local``, and ``house`` at an address of
its own, where nothing listens until the demo starts it.
"""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from attune.cli._exit import ExitCode
from attune.cli._terminal import dollars, print_json, print_table
from attune.errors import ConfigError
from attune.models.circuit_breaker import CircuitState
from attune.models.executor import EventKind, TextDelta
from attune.models.request import ExecutionContext, LLMRequest
from attune.models.telemetry import NANOS_PER_USD

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from attune.models.executor import LLMResponse
    from attune.providers.local import LocalModel
    from attune.runtime import Runtime

__all__ = ["run_demo"]

RECOVERY_SECONDS = 3
SNIPPET_CHARS = 900
WORKFLOW = "demo"

CONFIGURATION = """\
# The demo's own configuration: two providers with the same small model.
[providers.house]
kind = "openai"
base_url = "http://127.0.0.1:{port}/v1"

[providers.local]

[[models]]
id = "smollm2-135m-instruct"
provider = "house"
tier = "capable"
context_window = 8192
max_output_tokens = 1024
input_price = 0.02   # invented, so that the ledger has something to add up
output_price = 0.06

[breaker]
recovery_timeout_seconds = {recovery}
"""


class Step(NamedTuple):
    """One stage of the workflow."""

    stage: str
    task: str
    instruction: str
    max_output_tokens: int


STEPS = (
    Step("triage", "classify", "Answer with one word, code or prose. What is this?", 4),
    Step("summary", "summarize", "Say in one short sentence what this Python module is for.", 40),
    Step(
        "review", "review_security", "Name one thing to check in a review of this code, in one sentence.", 40
    ),
)

MODULES = ("clock.py", "models/retry.py", "models/tasks.py", "wire/sse.py")


def run_demo(*, json: bool = False) -> int:
    """Run the demo; ``json`` prints only its result. Returns the exit code; at most a minute.

    Raises ``ConfigError`` naming what to install when the embedded model's packages are missing.
    """
    from attune.providers.local_server import missing_packages

    if missing := missing_packages():
        raise ConfigError(f"the demo needs the embedded model; install it with: {' && '.join(missing)}")
    with tempfile.TemporaryDirectory(prefix="attune-demo-") as folder:
        result = asyncio.run(_Demo(Path(folder), quiet=json).run())
    if json:
        print_json(result)
    return ExitCode.OK if result["circuit_closed_again"] else ExitCode.UNEXPECTED


class _Demo:
    """One run, in a folder of its own."""

    def __init__(self, home: Path, *, quiet: bool) -> None:
        from rich.console import Console

        self._home = home
        self._console: Console = Console(quiet=quiet, highlight=False)
        self._port = _free_port()
        self._started = time.monotonic()
        self._calls: list[dict[str, Any]] = []
        self._house: LocalModel | None = None
        self._opened = False

    async def run(self) -> dict[str, Any]:
        from attune.config import load
        from attune.runtime import build

        config_file = self._home / "config.toml"
        config_file.write_text(CONFIGURATION.format(port=self._port, recovery=RECOVERY_SECONDS))
        config = load(environ={"ATTUNE_HOME": str(self._home), "PATH": os.environ.get("PATH", "")})
        self._print(
            "[bold]attune demo[/]  a real model on this machine, no key, no network",
            f"  providers  local (starts when needed) and house (127.0.0.1:{self._port}, [red]down[/])",
            f"  breaker    opens after {config.breaker.failure_threshold} failures in a row; for the demo it "
            f"probes after {RECOVERY_SECONDS} s (60 s is the default)",
            "",
        )
        async with build(config, on_step=self._step) as runtime:
            try:
                await self._workflow(runtime)
                closed = await self._recover(runtime)
                return await self._report(runtime, closed=closed)
            finally:
                if self._house is not None:
                    await self._house.stop()

    # -- the workflow ----------------------------------------------------------------------------

    async def _workflow(self, runtime: Runtime) -> None:
        """Triage, summarise and review some files of attune itself."""
        for name, text in _sources():
            self._print(f"[bold]{name}[/]")
            for step in STEPS:
                await self._ask(runtime, step, f"{step.instruction}\n\n{text}")
            self._note_opening(runtime)

    async def _recover(self, runtime: Runtime) -> bool:
        """Start what was down, wait for the breaker's probe, and see the circuit close."""
        from attune.providers.local import LocalModel

        self._print("", f"[bold]house is started now, on port {self._port}[/]")
        self._house = LocalModel(port=self._port)
        await self._house.start()
        waits = [breaker.retry_after for breaker in runtime.domains.snapshot()]
        wait = max(waits, default=0.0)
        self._print(f"  [dim]the breaker allows a probe in {wait:.1f} s[/]")
        await asyncio.sleep(wait)
        name, text = next(_sources())
        self._print(f"[bold]{name}[/], once more")
        await self._ask(runtime, STEPS[-1], f"{STEPS[-1].instruction}\n\n{text}")
        closed = all(each.state is CircuitState.CLOSED for each in runtime.domains.snapshot())
        state = "[green]closed[/]" if closed else "[red]still not closed[/]"
        self._print(f"  the probe answered: the circuit of house is {state}")
        return closed and self._opened

    async def _ask(self, runtime: Runtime, step: Step, prompt: str) -> None:
        """One call: the decision in a line, the answer as it comes."""
        request = LLMRequest.from_prompt(
            prompt, max_output_tokens=step.max_output_tokens, temperature=0.0, stream=True
        )
        context = ExecutionContext(workflow=WORKFLOW, stage=step.stage, task_type=step.task)
        decision = runtime.decide(request, context)
        self._print(f"  [cyan]{step.stage:8}[/] [dim]{decision.reason}[/]")
        with self._console.status(f"  {step.stage} ...") as status:
            answer = ""
            async with runtime.stream(request, context) as events:
                async for event in events:
                    if event.kind is EventKind.CONTENT and isinstance(event.parsed, TextDelta):
                        answer += event.parsed.text
                        status.update(f"  {step.stage}: {_line(answer)}")
        response = events.response
        if response is not None:
            self._answered(step, response)

    def _answered(self, step: Step, response: LLMResponse) -> None:
        by = f"{response.provider} in {response.latency_ms:.0f} ms"
        if response.fallback_used:
            by += f", attempt {len(response.attempts)}"
        self._console.print(f"           {_line(response.text)}", markup=False)
        self._print(f"           [dim]by {by}, {dollars(response.cost_usd)}[/]")
        self._calls.append(
            {
                "stage": step.stage,
                "provider": response.provider,
                "model": response.model_id,
                "attempts": [attempt._asdict() for attempt in response.attempts],
                "cost_usd": response.cost_usd,
                "text": response.text,
            }
        )

    def _note_opening(self, runtime: Runtime) -> None:
        for breaker in runtime.domains.snapshot():
            if breaker.state is CircuitState.OPEN and not self._opened:
                self._opened = True
                self._print(
                    f"  [red]the circuit of {breaker.name} is open[/] after {breaker.consecutive_failures} "
                    "failures in a row: it is not even tried until a probe is allowed"
                )

    # -- the report ------------------------------------------------------------------------------

    async def _report(self, runtime: Runtime, *, closed: bool) -> dict[str, Any]:
        await runtime.store.flush()
        stats = runtime.router.get_routing_stats(WORKFLOW)
        totals = await asyncio.to_thread(runtime.store.totals)
        breakers = runtime.domains.snapshot()
        seconds = time.monotonic() - self._started
        if not self._console.quiet:
            self._print("", "[bold]What the router knows now[/]")
            print_table(
                ("candidate", "tier", ">calls", ">success", ">p50 ms", ">cost"),
                [
                    (
                        f"{model.provider}/{model.model_id}",
                        model.tier,
                        str(model.calls),
                        f"{model.success_rate:.0%}",
                        "-" if model.p50_latency_ms is None else f"{model.p50_latency_ms:.0f}",
                        dollars(model.cost_usd),
                    )
                    for model in stats.models
                ],
            )
            self._print("[bold]Breakers[/]")
            print_table(("domain", "state"), [(each.name, each.state) for each in breakers])
            unknown = f", {totals.unknown_cost_attempts} of unknown cost" * bool(totals.unknown_cost_attempts)
            self._print(
                f"[bold]Ledger[/]  {totals.calls} calls, {totals.attempts} attempts "
                f"({totals.failed_attempts} failed{unknown}), {totals.input_tokens} tokens in, "
                f"{totals.output_tokens} out, {dollars(totals.cost_nanos / NANOS_PER_USD)}; {seconds:.0f} s"
            )
        return {
            "calls": self._calls,
            "breakers": [each._asdict() for each in breakers],
            "ledger": totals._asdict(),
            "circuit_opened": self._opened,
            "circuit_closed_again": closed,
            "seconds": seconds,
        }

    def _step(self, line: str) -> None:
        self._print(f"           [yellow]{_line(line)}[/]")

    def _print(self, *lines: str) -> None:
        for line in lines:
            self._console.print(line, soft_wrap=True)


def _sources() -> Iterator[tuple[str, str]]:
    """The beginnings of some modules of attune, as something real to work on."""
    import attune

    root = Path(attune.__file__).parent
    for name in MODULES:
        with suppress(OSError):
            yield f"attune/{name}", (root / name).read_text(encoding="utf-8")[:SNIPPET_CHARS]


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _line(text: str) -> str:
    """A text on one line of at most 100 characters."""
    line = " ".join(text.split())
    return line if len(line) <= 100 else line[:99] + "…"
