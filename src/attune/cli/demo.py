"""The demo: a small real workflow on a real model, with one provider that is really down for a while.

Everything is the product's own path: a configuration file, the router, the executor, the breakers
and the ledger. Two processes serve the same embedded model: ``local``, and ``house`` at an address of
its own, where nothing listens until the demo starts it.
"""

from __future__ import annotations

import ast
import asyncio
import os
import socket
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard

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
SNIPPET_CHARS = 700
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
    Step("triage", "classify", "In one word, what is this text about?", 5),
    Step("summary", "summarize", "Summarise this text in one short sentence.", 40),
    Step("review", "review_security", "In one sentence, what should a reviewer check here?", 40),
    Step("suggest", "suggest_fix", "In one sentence, how could this text be clearer?", 40),
)

MODULES = ("clock.py", "models/retry.py", "models/performance.py")
START_HOUSE_BEFORE = 2


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
        self._closed = False

    async def run(self) -> dict[str, Any]:
        from attune.config import load
        from attune.runtime import build

        config_file = self._home / "config.toml"
        config_file.write_text(CONFIGURATION.format(port=self._port, recovery=RECOVERY_SECONDS))
        config = load(environ={"ATTUNE_HOME": str(self._home), "PATH": os.environ.get("PATH", "")})
        self._print(
            "[bold]attune demo[/]  a real model on this machine, no key, no network",
            f"  providers  local (starts when needed) and house (127.0.0.1:{self._port}, [red]down[/])",
            f"  breaker    opens after {config.breaker.failure_threshold} failures in a row; "
            f"probes after {RECOVERY_SECONDS} s here, 60 s by default",
            "",
        )
        async with build(config, on_step=self._step) as runtime:
            try:
                await self._workflow(runtime)
                return await self._report(runtime)
            finally:
                if self._house is not None:
                    await self._house.stop()

    # -- the workflow ----------------------------------------------------------------------------

    async def _workflow(self, runtime: Runtime) -> None:
        """Triage, summarise and review what some modules of attune say of themselves."""
        for place, (name, text) in enumerate(_sources()):
            if place == START_HOUSE_BEFORE:
                await self._start_house(runtime)
            self._print(f"[bold]{name}[/]")
            for step in STEPS:
                await self._ask(runtime, step, f"{step.instruction}\n\n{text}")
                self._note_changes(runtime)

    async def _start_house(self, runtime: Runtime) -> None:
        """Really start what was down, and wait until the breaker allows a probe."""
        from attune.providers.local import LocalModel

        self._house = LocalModel(port=self._port)
        await self._house.start()
        wait = max((breaker.retry_after for breaker in runtime.domains.snapshot()), default=0.0)
        self._print(
            "",
            f"[bold]house is started now[/], on port {self._port}; its breaker allows a probe "
            + (f"in {wait:.1f} s" if wait else "now"),
            "",
        )
        await asyncio.sleep(wait)

    async def _ask(self, runtime: Runtime, step: Step, prompt: str) -> None:
        """One call: the decision in a line, the answer as it comes."""
        request = LLMRequest.from_prompt(
            prompt, max_output_tokens=step.max_output_tokens, temperature=0.0, stream=True
        )
        context = ExecutionContext(workflow=WORKFLOW, stage=step.stage, task_type=step.task)
        decision = runtime.decide(request, context)
        self._print(f"  [cyan]{step.stage:8}[/] [dim]{decision.reason}[/]")
        for each in decision.dropped:
            self._print(f"           [yellow]not {each.provider}/{each.model_id}: {each.reason}[/]")
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
        self._console.print(f"           {_line(response.text)}", markup=False, soft_wrap=True)
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

    def _note_changes(self, runtime: Runtime) -> None:
        """Say when the circuit of house opened or closed."""
        house = [breaker for breaker in runtime.domains.snapshot() if breaker.name == "house"]
        is_open = any(breaker.state is not CircuitState.CLOSED for breaker in house)
        if is_open and not self._opened:
            self._opened = True
            self._print("  [red]the circuit of house is open[/]: it is not tried until a probe is allowed")
        elif self._opened and not is_open and not self._closed:
            self._closed = True
            self._print("  [green]the probe answered: the circuit of house is closed again[/]")

    # -- the report ------------------------------------------------------------------------------

    async def _report(self, runtime: Runtime) -> dict[str, Any]:
        await runtime.store.flush()
        stats = runtime.router.get_routing_stats(WORKFLOW)
        totals = await asyncio.to_thread(runtime.store.totals)
        breakers = runtime.domains.snapshot()
        seconds = time.monotonic() - self._started
        if not self._console.quiet:
            self._print("", "[bold]What the router knows now[/]")
            print_table(
                ("candidate", "tier", ">attempts", ">success", ">p50 ms", ">cost"),
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
            "circuit_closed_again": self._closed,
            "seconds": seconds,
        }

    def _step(self, line: str) -> None:
        self._print(f"           [yellow]{_line(line)}[/]")

    def _print(self, *lines: str) -> None:
        for line in lines:
            self._console.print(line, soft_wrap=True)


def _sources() -> Iterator[tuple[str, str]]:
    """What some modules of attune say of themselves, as something real to work on."""
    import attune

    root = Path(attune.__file__).parent
    for name in MODULES:
        module = ast.parse((root / name).read_text(encoding="utf-8"))
        texts = [ast.get_docstring(node) or "" for node in (module, *module.body) if _documented(node)]
        yield f"attune/{name}", "\n".join(texts)[:SNIPPET_CHARS]


def _documented(node: ast.AST) -> TypeGuard[ast.Module | ast.ClassDef | ast.FunctionDef]:
    return isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _line(text: str) -> str:
    """A text on one line of at most 120 characters."""
    line = " ".join(text.split())
    return line if len(line) <= 120 else line[:119] + "…"
