"""``attune up``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from attune.cli._exit import ExitCode, guarded, note
from attune.cli._parser import add_shared_options
from attune.cli._terminal import print_json
from attune.errors import InvalidRequestError

if TYPE_CHECKING:
    import argparse

    from attune.cli._parser import CommandParser
    from attune.config import Config

__all__ = ["cmd_up", "configure"]


def configure(parser: CommandParser) -> None:
    """Add the options of ``attune up``."""
    parser.description = (
        "Starts the gateway: one address for any client of OpenAI or Anthropic. Their calls are routed,\n"
        "carried through failures and recorded, by changing a base URL. Ends on Ctrl-C, after the answers\n"
        "under way."
    )
    parser.epilog = "example:\n  attune up --port 4141"
    parser.add_argument("--host", help="where to listen; beyond this machine only with keys (127.0.0.1)")
    parser.add_argument("--port", type=int, help="the port (4141)")
    parser.add_argument(
        "--workers", type=int, default=1, help="processes; only 1 until they share their state"
    )
    parser.add_argument("--check", action="store_true", help="check the configuration and the keys, and end")
    add_shared_options(parser)
    parser.set_defaults(run=cmd_up)


@guarded
def cmd_up(args: argparse.Namespace) -> int:
    """Serve until asked to end; returns the exit code."""
    import asyncio

    from attune import runtime
    from attune.config import load
    from attune.gateway.http import is_loopback
    from attune.gateway.log import log_step, log_to_stderr
    from attune.gateway.naming import Names
    from attune.gateway.server import listen, serve

    if args.workers != 1:
        raise InvalidRequestError(
            "one process serves all: several would each count breakers, rates and telemetry for themselves; "
            "leave --workers out"
        )
    config = load(args.config).for_clients()
    host = args.host or config.gateway.host
    port = config.gateway.port if args.port is None else args.port
    if not 1 <= port <= 65_535:
        raise InvalidRequestError(f"--port must be between 1 and 65535, not {port}")
    Names(config.registry, config.gateway.aliases, config.gateway.rules, config.enrolled).check()
    opened = runtime.build(config, on_step=log_step)
    try:
        keys = bool(opened.store.all_keys())  # once there was one, callers need one
        if not is_loopback(host) and not keys:
            raise InvalidRequestError(
                f"{host} can be reached from other machines, and there is no key; make one with "
                "`attune keys create NAME`, or listen on 127.0.0.1"
            )
        for notice in opened.notices:
            note(notice)
        if args.check:
            _say_ready(config, host, port, keys=keys, as_json=args.json)
            return ExitCode.OK if config.providers else ExitCode.CREDENTIALS
        listening = listen(host, port)
        log_to_stderr()
        asyncio.run(
            serve(
                opened,
                listening,
                on_ready=lambda: _say_ready(config, host, port, keys=keys, as_json=args.json),
            )
        )
    finally:
        opened.close()
    return ExitCode.OK


def _say_ready(config: Config, host: str, port: int, *, keys: bool, as_json: bool) -> None:
    shown = f"[{host}]" if ":" in host else host
    url = f"http://{shown}:{port}"
    allowed = config.routing.allow_providers
    providers = [each.name for each in config.providers if allowed is None or each.name in allowed]
    if as_json:
        print_json({"url": url, "providers": providers, "keys": keys})
        sys.stdout.flush()
        return
    key = "a key of `attune keys`" if keys else "anything: only this machine is answered"
    lines = [
        f"attune gateway: {url}",
        f"  providers: {', '.join(providers) or 'none; set a key such as ANTHROPIC_API_KEY'}",
        f"  OpenAI clients:     OPENAI_BASE_URL={url}/v1   OPENAI_API_KEY={key}",
        f"  Anthropic clients:  ANTHROPIC_BASE_URL={url}   ANTHROPIC_API_KEY={key}",
        f"  Claude Code:        ANTHROPIC_BASE_URL={url} ANTHROPIC_AUTH_TOKEN=... claude",
        "                      it is then billed to the keys of these providers, not to your Claude plan",
        "  Codex, opencode, llm, LangChain, SDKs, curl: see docs/how-to/clients",
        "  model: a model's name, auto, attune/cheap, attune/capable, attune/premium, attune/TASK",
    ]
    if not keys:
        lines.append(
            "  no keys yet: `attune keys create NAME` makes one; from then on every caller needs one"
        )
    print("\n".join(lines), flush=True)
