"""``attune run``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from attune.cli._call_options import add_call_options, context_of, read_prompt
from attune.cli._exit import ExitCode, guarded, note
from attune.cli._parser import add_shared_options
from attune.cli._payment import check_enrolled
from attune.cli._terminal import dollars, print_json
from attune.config.settings import NO_CREDENTIAL
from attune.errors import InvalidRequestError, NoCandidateError
from attune.models.executor import TextDelta
from attune.models.request import LLMRequest

if TYPE_CHECKING:
    import argparse

    from attune.cli._parser import CommandParser
    from attune.models.executor import LLMResponse
    from attune.models.request import ExecutionContext
    from attune.runtime import Runtime

__all__ = ["cmd_run", "configure"]


def configure(parser: CommandParser) -> None:
    """Add the options of ``attune run``."""
    parser.description = (
        "Asks, and prints the answer on standard output; who was chosen, why and what it cost is said on\n"
        "standard error. Failures are carried to the next candidate."
    )
    parser.epilog = (
        "examples:\n  attune run --task summarize 'In one line: ...'\n  git diff | attune run --task "
        "review_security --max-cost 0.05 -"
    )
    parser.add_argument("prompt", metavar="PROMPT", help="what to ask; - reads it from standard input")
    parser.add_argument(
        "--stream", action="store_true", help="print the answer as it comes (not with --json)"
    )
    add_call_options(parser)
    add_shared_options(parser)
    parser.set_defaults(run=cmd_run)


@guarded
def cmd_run(args: argparse.Namespace) -> int:
    """Ask and print the answer; returns the exit code."""
    import asyncio

    from attune import runtime

    if args.stream and args.json:
        raise InvalidRequestError("--json prints a whole answer: leave --stream out")
    request, context = LLMRequest.from_prompt(read_prompt(args.prompt)), context_of(args)
    opened = runtime.open(args.config, on_step=note)
    for notice in opened.notices:
        note(notice)
    return asyncio.run(_answer(opened, request, context, stream=args.stream, wants_json=args.json))


async def _answer(
    runtime: Runtime, request: LLMRequest, context: ExecutionContext, *, stream: bool, wants_json: bool
) -> int:
    async with runtime:
        check_enrolled(runtime.config, context.model)
        _announce(runtime, request, context)
        if stream:
            response = await _streamed(runtime, request, context)
        else:
            response = await runtime.run(request, context)
            print_json(_as_json(response)) if wants_json else _print_text(response.text)
    _summarize(response)
    return ExitCode.OK


def _announce(runtime: Runtime, request: LLMRequest, context: ExecutionContext) -> None:
    """Say who will be asked, before it takes its time; that nobody can be, the call itself says."""
    try:
        decision = runtime.decide(request, context)
    except NoCandidateError:
        return
    note(decision.reason)
    for remark in decision.notes:
        note(remark)


async def _streamed(runtime: Runtime, request: LLMRequest, context: ExecutionContext) -> LLMResponse:
    last = ""
    try:
        async with runtime.stream(request, context) as events:
            async for event in events:
                if isinstance(event.parsed, TextDelta) and event.parsed.text:
                    last = _printable(event.parsed.text)
                    sys.stdout.write(last)
                    sys.stdout.flush()
    finally:
        if last and not last.endswith("\n"):
            print(flush=True)
    assert events.response is not None  # it ended with its terminal event
    return events.response


def _print_text(text: str) -> None:
    print(_printable(text), end="" if text.endswith("\n") else "\n")


def _printable(text: str) -> str:
    """An answer as a terminal may get it: without the sequences that would control it."""
    if not sys.stdout.isatty():
        return text
    return "".join(c for c in text if c.isprintable() or c in "\n\t")


def _summarize(response: LLMResponse) -> None:
    cut = {"length": "; cut at its limit", "refusal": "; refused", "context_window": "; its window is full"}
    paid = "(no key needed)" if response.credential == NO_CREDENTIAL else f"({response.credential})"
    note(
        f"call {response.call_id}: {response.provider}/{response.model_id} {paid} in "
        f"{response.latency_ms:.0f} ms, {dollars(response.cost_usd)}{cut.get(response.stop_reason, '')}"
    )


def _as_json(response: LLMResponse) -> dict[str, Any]:
    decision = response.decision
    return {
        "call_id": response.call_id,
        "text": response.text,
        "stop_reason": response.stop_reason,
        "provider": response.provider,
        "model": response.model_id,
        "tier": response.tier,
        "credential": response.credential,
        "usage": None if response.usage is None else response.usage._asdict(),
        "cost_usd": response.cost_usd,
        "cost_status": response.cost_status.value,
        "latency_ms": response.latency_ms,
        "ttft_ms": response.ttft_ms,
        "attempts": [attempt._asdict() for attempt in response.attempts],
        "reason": None if decision is None else decision.reason,
        "notes": [] if decision is None else list(decision.notes),
    }
