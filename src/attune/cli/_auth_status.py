"""``attune auth status``."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from attune.cli._exit import ExitCode
from attune.cli._overflow import overflow_as_json, overflow_line, overflow_now
from attune.cli._payment import (
    SET_A_KEY,
    credentials_off,
    paying,
    plan_windows,
    strategy_flags,
)
from attune.cli._quota import prospect, quota_as_json
from attune.cli._terminal import folded, load_config, print_json, print_table, utc
from attune.cli._who_pays import WhoPays, work_sizes
from attune.errors import StoreError
from attune.models.moments import span

if TYPE_CHECKING:
    from collections.abc import Mapping

    from attune.cli._overflow import OverflowNow
    from attune.config import Config
    from attune.models.state import Fact


def show_status(args: Any) -> int:
    """Show the strategy, the credentials and what would pay; returns the exit code."""
    config = load_config(args, strategy_flags(args))
    now = time.time()
    off = credentials_off(config, now)
    windows = plan_windows(config, now)
    strategy, credentials = _strategy(config), _credentials(config, off)
    overflow = _overflow(config, now)
    work = _work(config)
    if getattr(args, "json", False):
        paths = {
            "auth_file": str(config.paths.auth_file),
            "config_file": str(config.paths.config_file),
        }
        plan = {
            "quota": [quota_as_json(each) for each in windows],
            "overflow": None if overflow is None else overflow_as_json(overflow),
        }
        print_json({"strategy": strategy, "credentials": credentials, **plan, "pays": work, **paths})
        return ExitCode.OK
    print_table(
        ("field", "value", "from"),
        [(name, _shown(field["value"]), field["source"]) for name, field in strategy.items()],
        lead=2,
    )
    print("\ncredentials")
    for each in credentials:
        state = "" if each["off_until"] is None else f"; off until {utc(each['off_until'])}: {each['reason']}"
        source = f"{each['provider']} {paying(each['credential'])} ({each['source']})"
        print(folded(f"{source}{state}", "  "))
    if not credentials:
        print(folded(f"none: {SET_A_KEY}", "  "))
    if windows:
        print("\nquota")
    for known in windows:
        used, resets_at = known.window.utilization, known.window.resets_at
        share = "use unknown" if used is None else f"{used:.0%} used"
        word = "expires" if known.end == "expiry" else "resets"
        reset = f", {word} in {span(resets_at - now)}" if resets_at is not None and resets_at > now else ""
        print(
            folded(
                f"{known.provider} {known.window.name}: {share}{reset}; {prospect(known, now)}".rstrip("; "),
                "  ",
            )
        )
    if overflow is not None:
        print("\n" + folded(overflow_line(overflow)))
    a_line = f"{config.auth.loc_to_tokens_multiplier:g} tokens a line"
    print("\n" + folded(f"what would pay now, by the size of the work (lines by the strategy's {a_line})"))
    for size, each in zip(work_sizes(config.auth), work, strict=True):
        print(folded(f"{size.name}, {size.span}: {each['summary']}", "  "))
    if not config.auth.setup_completed and strategy["subscription_tier"]["source"] == "default":
        print("\nrun `attune auth setup` to say which plan you have")
    return ExitCode.OK


def _overflow(config: Config, now: float) -> OverflowNow | None:
    """What happens to calls whose plan is used up; ``None`` without a plan, or a ledger that can be read:
    ``credentials_off`` points that out.
    """
    try:
        return overflow_now(config, now) if config.plans else None
    except StoreError:
        return None


def _strategy(config: Config) -> dict[str, dict[str, Any]]:
    return {
        name: {"value": value, "source": config.auth_sources[name]}
        for name, value in config.auth.to_dict().items()
    }


def _shown(value: object) -> str:
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)


def _credentials(config: Config, off: Mapping[str, Fact]) -> list[dict[str, Any]]:
    found = []
    for provider in config.providers:
        for credential in provider.credentials:
            fact = off.get(f"{provider.name}#{credential}")
            found.append(
                {
                    "provider": provider.name,
                    "credential": credential,
                    "reference": provider.keys.get(credential),
                    "source": provider.source,
                    "off_until": fact.until if fact else None,
                    "reason": fact.detail if fact else "",
                }
            )
    return found


def _work(config: Config) -> list[dict[str, Any]]:
    """What would pay for each size of work; the last line of a size stands for it."""
    who, rows = WhoPays(config), []
    for size in work_sizes(config.auth):
        found = who.pays(config.auth.estimate_tokens(size.within))
        rows.append(
            {
                "work": size.name,
                "tokens": size.tokens,
                "lines": size.lines,
                "recommended": found.mode.value,
                "provider": found.payer.model.provider if found.payer else None,
                "model": found.payer.model.id if found.payer else None,
                "credential": found.payer.credential if found.payer else None,
                "reason": found.reason,
                "summary": found.summary,
            }
        )
    return rows
