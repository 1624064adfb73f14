"""``attune auth status``."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from attune.cli._exit import ExitCode
from attune.cli._payment import (
    SET_A_KEY,
    credentials_off,
    find_payer,
    paying,
    plan_facts,
    plan_windows,
    strategy_flags,
    why_mode,
    why_not_the_key,
    why_not_the_plan,
)
from attune.cli._quota import prospect, quota_as_json, span
from attune.cli._terminal import folded, load_config, print_json, print_table, utc
from attune.models.auth_strategy import AuthMode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from attune.config import Config
    from attune.models.auth_strategy import AuthFacts, AuthStrategy
    from attune.models.state import Fact


def show_status(args: Any) -> int:
    """Show the strategy, the credentials and what would pay; returns the exit code."""
    config = load_config(args, strategy_flags(args))
    now = time.time()
    off = credentials_off(config, now)
    windows = plan_windows(config, now)
    strategy, credentials = _strategy(config), _credentials(config, off)
    work = _work(config, off, plan_facts(config, off, windows))
    if getattr(args, "json", False):
        paths = {
            "auth_file": str(config.paths.auth_file),
            "config_file": str(config.paths.config_file),
        }
        quota = [quota_as_json(each) for each in windows]
        print_json({"strategy": strategy, "credentials": credentials, "quota": quota, "pays": work, **paths})
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
        reset = "" if resets_at is None else f", resets in {span(resets_at - now)}"
        print(
            folded(
                f"{known.provider} {known.window.name}: {share}{reset}; {prospect(known, now)}".rstrip("; "),
                "  ",
            )
        )
    print("\nwhat would pay now")
    for each in work:
        print(folded(f"{each['work']} ({each['lines']} lines): {each['summary']}", "  "))
    if not config.auth.setup_completed:
        print("\nrun `attune auth setup` to say which plan you have")
    return ExitCode.OK


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


def _work(config: Config, off: Mapping[str, Fact], facts: AuthFacts) -> list[dict[str, Any]]:
    """What would pay for each size of work; the last line of a size stands for it."""
    payer = find_payer(config, off)
    rows = []
    for size, lines_of_size, lines in _sizes(config.auth):
        mode = config.auth.get_recommended_mode(lines, facts)
        why = why_mode(config.auth, lines, facts)
        uses = f"{payer} would pay" if payer else "nothing can pay; no credential is there that works"
        by_plan = mode is AuthMode.SUBSCRIPTION
        obstacle = why_not_the_plan(config, payer, off) if by_plan else why_not_the_key(config, payer)
        summary = f"{mode} recommended ({why}), but {obstacle}; {uses}" if obstacle else f"{uses} ({why})"
        rows.append(
            {
                "work": size,
                "lines": lines_of_size,
                "recommended": mode.value,
                "provider": payer.model.provider if payer else None,
                "model": payer.model.id if payer else None,
                "credential": payer.credential if payer else None,
                "reason": why,
                "summary": summary,
            }
        )
    return rows


def _sizes(strategy: AuthStrategy) -> list[tuple[str, str, int]]:
    """The sizes of work that the thresholds leave: name, span, a number of lines within it."""
    small, large = strategy.small_module_threshold, strategy.large_module_threshold
    sizes = [("small", f"below {small}", small - 1)] if small > 0 else []
    return [*sizes, ("medium", f"{small} to {large}", large), ("large", f"above {large}", large + 1)]
