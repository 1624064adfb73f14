"""``attune auth setup`` and ``attune auth reset``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attune.cli._auth_recommend import as_json, describe, read_text, recommend
from attune.cli._claude import ClaudeLogin, find_claude_login
from attune.cli._exit import INTERRUPTED, ExitCode, note
from attune.cli._payment import NO_PLAN, SET_A_KEY, paying, strategy_flags
from attune.cli._terminal import load_config, print_json
from attune.cli._who_pays import WhoPays
from attune.config import load_auth, reset_auth, save_auth, saved_files
from attune.config._paths import find_paths
from attune.config.enrolment import PLAN, enrol_plan
from attune.errors import InvalidRequestError
from attune.models.auth_strategy import (
    PLAN_USD_A_MONTH,
    AuthMode,
    AuthStrategy,
    Overflow,
    SubscriptionTier,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from attune.cli._auth_recommend import Recommendation
    from attune.config import Config

__all__ = ["reset", "setup"]

_NO_TERMINAL = (
    "there is no terminal to ask on; give the answers as options (--plan, --mode, "
    "--prefer-subscription ...), or --yes to take what is found"
)


def setup(args: Any) -> int:
    """Find out what is there, ask or take the options, save; returns the exit code."""
    flags, wants_json = strategy_flags(args), getattr(args, "json", False)
    enrols = bool(getattr(args, "enrol_plan", False))
    asks = not (flags or enrols or getattr(args, "yes", False))
    if asks and (wants_json or not _is_interactive()):
        raise InvalidRequestError(_NO_TERMINAL)
    file = getattr(args, "file", None)
    text = read_text(file) if file else None
    config = load_config(args)
    login = find_claude_login()
    strategy: AuthStrategy | None = _changed(_start(config, login), flags)
    if not wants_json:
        _show_found(config, login)
    if asks:
        strategy, enrols = _answered(config, login, file)
    if strategy is None:
        note("nothing was saved")
        return INTERRUPTED
    compared = None if text is None or asks else _compared(str(file), text, strategy, config, enrols)
    save_auth(config.paths.auth_file, strategy)
    remarks = [_enrol(config, login)] if enrols else []
    if wants_json:
        _report_json(config, strategy, compared)
    else:
        _report(config, strategy, compared)
    for remark in (*remarks, *_remarks(config, strategy, login, enrols)):
        note(remark)
    return ExitCode.OK


def reset(args: Any) -> int:
    """Remove what was saved, once that is confirmed; returns the exit code."""
    paths, _ = find_paths(getattr(args, "config", None), os.environ)  # whatever is wrong in the files
    file = paths.auth_file
    if (files := saved_files(file)) and not getattr(args, "yes", False):
        names = " and ".join(map(str, files))
        if getattr(args, "json", False) or not _is_interactive():
            raise InvalidRequestError(f"this would remove {names}; give --yes to do it without asking")
        import questionary

        if not questionary.confirm(f"Remove {names}?", default=False).ask():
            note("nothing was removed")
            return INTERRUPTED
    removed = reset_auth(file)
    if getattr(args, "json", False):
        print_json({"removed": removed, "auth_file": str(file)})
    else:
        print(f"removed {file}" if removed else f"there is nothing saved at {file}")
    return ExitCode.OK


def _is_interactive() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def _start(config: Config, login: ClaudeLogin) -> AuthStrategy:
    """What was saved before, else the defaults with the plan that is logged in."""
    saved, _ = load_auth(config.paths.auth_file)
    return saved or AuthStrategy(subscription_tier=login.plan)


def _changed(start: AuthStrategy, changes: dict[str, Any]) -> AuthStrategy:
    values = {**start.to_dict(), **changes, "setup_completed": True}
    return AuthStrategy.from_dict(values, "the command line")


def _show_found(config: Config, login: ClaudeLogin) -> None:
    for provider in config.providers:
        names = ", ".join(map(paying, provider.credentials))
        print(f"found {provider.name} {names} ({provider.source})")
    if not config.providers:
        print(f"found no API key: {SET_A_KEY}")
    print(login.line)


def _answered(config: Config, login: ClaudeLogin, file: str | None) -> tuple[AuthStrategy | None, bool]:
    """What the user chose on the terminal, ``None`` when they left or did not confirm; and whether the plan
    is to be enrolled. A login whose plan may not answer is no plan to make a strategy for.
    """
    import questionary

    try:
        enrols = _asks_to_enrol(config, login)
        strategy = _asked(_start(config, login if enrols or config.plans else ClaudeLogin("")))
        name = (
            file
            or questionary.text(
                "A file of yours to compare the costs on (empty to skip):", validate=_is_readable
            ).unsafe_ask()
        )
        if name.strip():
            print(describe(_compared(name.strip(), read_text(name.strip()), strategy, config, enrols)))
        saves = questionary.confirm("Save this?", default=True).unsafe_ask()
    except (KeyboardInterrupt, EOFError):
        return None, False
    return (strategy, enrols) if saves else (None, False)


def _compared(file: str, text: str, strategy: AuthStrategy, config: Config, enrols: bool) -> Recommendation:
    """What should pay for a file by a strategy that is not saved yet."""
    changed = config._replace(auth=strategy)
    found = recommend(Path(file), text, changed, WhoPays(changed))
    if enrols and not config.plans and found.pays.mode is AuthMode.SUBSCRIPTION:
        return found._replace(pays=found.pays._replace(obstacle=""))  # that there is no plan yet
    return found


def _asked(start: AuthStrategy) -> AuthStrategy:
    import questionary

    plan = questionary.select(
        "Which subscription do you have?",
        choices=[questionary.Choice(_plan_title(plan), plan.value) for plan in SubscriptionTier],
        default=start.subscription_tier.value,
    ).unsafe_ask()
    mode = questionary.select(
        "What should pay?",
        choices=[questionary.Choice(title, mode.value) for mode, title in _MODE_TITLES.items()],
        default=start.default_mode.value,
    ).unsafe_ask()
    answers = {"subscription_tier": plan, "default_mode": mode}
    if plan != SubscriptionTier.NONE and mode == AuthMode.AUTO:
        answers["prefer_subscription"] = questionary.confirm(
            "Prefer the subscription for medium and large work?", default=start.prefer_subscription
        ).unsafe_ask()
    if plan != SubscriptionTier.NONE and mode != AuthMode.API:
        answers |= _asked_of_overflow(start)
    return _changed(start, answers)


def _asked_of_overflow(start: AuthStrategy) -> dict[str, Any]:
    import questionary

    overflow = questionary.select(
        "Once the plan is used up, until its reset:",
        choices=[questionary.Choice(title, each.value) for each, title in _OVERFLOW_TITLES.items()],
        default=start.overflow.value,
    ).unsafe_ask()
    if overflow != Overflow.API:
        return {"overflow": overflow}
    usd = questionary.text(
        "At most how many dollars a day, in all?",
        default=f"{start.overflow_usd_per_day:g}",
        validate=_is_amount,
    ).unsafe_ask()
    return {"overflow": overflow, "overflow_usd_per_day": float(usd)}


def _is_amount(answer: str) -> bool | str:
    try:
        AuthStrategy(overflow_usd_per_day=float(answer))
    except InvalidRequestError as error:
        return str(error)
    except ValueError:
        return f"{answer.strip()[:40]!r} is no number"
    return True


def _asks_to_enrol(config: Config, login: ClaudeLogin) -> bool:
    """Whether the user wants the plan that is logged in to answer."""
    if config.plans or not login.logged_in:
        return False
    import questionary

    what = f"Let the plan answer attune's own calls, too? It is then named in {config.paths.config_file}."
    return bool(questionary.confirm(what, default=False).unsafe_ask())


def _enrol(config: Config, login: ClaudeLogin) -> str:
    """Enrol the plan; what came of it and what comes next, for people."""
    if config.plans:
        enrolled = f"the plan is enrolled already, as {config.plans[0].name}"
    else:
        enrol_plan(config.paths.config_file)
        enrolled = f"enrolled the plan as {PLAN} in {config.paths.config_file}"
    if login.logged_in:
        return enrolled
    return f"{enrolled}; it cannot pay until there is a login: {login.summary}; {login.next_step}"


def _remarks(config: Config, strategy: AuthStrategy, login: ClaudeLogin, enrols: bool) -> Iterator[str]:
    """What the saved strategy lacks, or says otherwise than the login."""
    if strategy.counts_on_plan and not enrols and not config.plans:
        yield NO_PLAN
    saved = strategy.subscription_tier
    if saved is not login.plan and SubscriptionTier.NONE not in {saved, login.plan}:
        yield (
            f"the login is of a {login.plan} plan, but {saved} is saved; "
            f"`attune auth setup --plan {login.plan}` changes that"
        )


def _is_readable(answer: str) -> bool | str:
    if not answer.strip():
        return True
    try:
        read_text(answer.strip())
    except InvalidRequestError as error:
        return str(error)
    return True


_MODE_TITLES = {
    AuthMode.AUTO: "auto: by the size of the work and what is known of the quota",
    AuthMode.SUBSCRIPTION: "subscription: always the plan",
    AuthMode.API: "api: always API keys",
}

_OVERFLOW_TITLES = {
    Overflow.FAIL: "fail: calls that it would pay for end with an error",
    Overflow.WAIT: "wait: they wait for the reset, if it comes within their time",
    Overflow.API: "api: API keys pay for them, up to an amount a day",
}


def _plan_title(plan: SubscriptionTier) -> str:
    price = PLAN_USD_A_MONTH.get(plan)
    once = ", once called Max 20x" if plan is SubscriptionTier.ULTRA else ""
    return f"{plan} (${price} a month{once})" if price else str(plan)


def _report(config: Config, strategy: AuthStrategy, compared: Recommendation | None) -> None:
    if compared is not None:
        print(describe(compared))
    print(f"saved to {config.paths.auth_file}")
    for name, source in _shadowed(config, strategy).items():
        print(f"but {source} sets {name} = {config.auth.to_dict()[name]}, which wins over what was saved")


def _report_json(config: Config, strategy: AuthStrategy, compared: Recommendation | None) -> None:
    print_json(
        {
            "auth_file": str(config.paths.auth_file),
            "strategy": strategy.to_dict(),
            "shadowed": _shadowed(config, strategy),
            "recommendation": None if compared is None else as_json(compared),
        }
    )


def _shadowed(config: Config, strategy: AuthStrategy) -> dict[str, str]:
    """The fields that the configuration sets otherwise, and where."""
    there, saved = config.auth.to_dict(), strategy.to_dict()
    return {
        name: source
        for name, source in config.auth_sources.items()
        if source not in {"default", "auth.json"} and there[name] != saved[name]
    }
