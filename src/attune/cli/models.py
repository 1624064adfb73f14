"""``attune models``."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from attune.cli._exit import ExitCode, guarded
from attune.cli._parser import add_shared_options
from attune.cli._payment import SET_A_KEY, paying
from attune.cli._terminal import load_config, print_json, print_table

if TYPE_CHECKING:
    import argparse

    from attune.cli._parser import CommandParser
    from attune.config import Config
    from attune.models.registry import ModelInfo

__all__ = ["cmd_models", "configure"]


def configure(parser: CommandParser) -> None:
    """Add the options of ``attune models``."""
    parser.description = (
        "Lists every model in the order of preference within its tier, with today's prices in USD per\n"
        "million tokens, and whether a credential for its provider is enrolled."
    )
    parser.epilog = "example:\n  attune models --json"
    add_shared_options(parser)
    parser.set_defaults(run=cmd_models)


@guarded
def cmd_models(args: argparse.Namespace) -> int:
    """List the models; returns the exit code."""
    config = load_config(args)
    rows = [_row(model, config, time.time()) for model in _in_order(config)]
    if args.json:
        print_json({"models": rows, "providers": _providers(config)})
        return ExitCode.OK
    print_table(
        ("model", "tier", "credentials", ">window", ">in $/M", ">out $/M", "abilities"),
        [
            (
                row["model"],
                row["tier"] if row["listed"] else f"{row['tier']} (not listed)",
                ", ".join(map(paying, row["credentials"])) or "not enrolled",
                f"{row['context_window']:,}",
                _price(row["input_price"]),
                _price(row["output_price"]),
                ", ".join(row["abilities"]),
            )
            for row in rows
        ],
        lead=3,
    )
    for provider in config.providers:
        print(f"{provider.name}: enrolled by {provider.source}")
    if not config.providers:
        print(f"no provider is enrolled: {SET_A_KEY}")
    return ExitCode.OK


def _in_order(config: Config) -> list[ModelInfo]:
    from attune.models.registry import ModelTier

    listed = [model for tier in ModelTier for model in config.registry.in_tier(tier)]
    return list(dict.fromkeys([*listed, *config.registry.models]))


def _row(model: ModelInfo, config: Config, now: float) -> dict[str, Any]:
    return {
        "model": model.label,
        "provider": model.provider,
        "id": model.id,
        "tier": model.recorded_tier,
        "listed": model.embeds or model in config.registry.in_tier(model.tier),
        "context_window": model.context_window,
        "max_output_tokens": model.max_output_tokens,
        "abilities": sorted(model.abilities),
        "input_price": model.input_price(now),
        "output_price": model.output_price(now),
        "local": model.local,
        "enrolled": model.provider in config.enrolled,
        "credentials": list(config.enrolled.get(model.provider, ())),
    }


def _providers(config: Config) -> list[dict[str, Any]]:
    return [
        {"name": p.name, "kind": p.kind, "credentials": list(p.credentials), "source": p.source}
        for p in config.providers
    ]


def _price(price: float | None) -> str:
    return "unknown" if price is None else f"{price:.2f}"
