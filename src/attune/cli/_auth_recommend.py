"""``attune auth recommend``: what should pay for work on one file; ``_auth_recommend_folder`` for many."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from attune.cli._exit import ExitCode
from attune.cli._payment import (
    SET_A_KEY,
    credentials_off,
    find_payer,
    plan_facts,
    plan_windows,
    strategy_flags,
    why_mode,
    why_not_the_key,
    why_not_the_plan,
)
from attune.cli._terminal import counted, dollars, fitted, folded, load_config, print_json
from attune.errors import InvalidRequestError
from attune.models.auth_strategy import AuthMode, CostEstimate
from attune.models.registry import ModelTier
from attune.providers.catalogue import SUBSCRIPTION

if TYPE_CHECKING:
    from collections.abc import Mapping

    from attune.cli._payment import Payer
    from attune.config import Config
    from attune.models.auth_strategy import AuthFacts, AuthStrategy
    from attune.models.state import Fact

__all__ = [
    "Recommendation",
    "Situation",
    "as_json",
    "describe",
    "read_text",
    "recommend",
    "show_recommendation",
]

MAX_FILE_BYTES = 10 * 1024 * 1024


class Recommendation(NamedTuple):
    """What should pay for a file; ``api`` and ``subscription`` are what it costs either way. ``obstacle`` is
    why something else would pay than what is recommended.
    """

    file: Path
    lines: int
    size: str
    tokens: int
    assumed_multiplier: float
    mode: AuthMode
    reason: str
    api: CostEstimate
    subscription: CostEstimate
    payer: str | None
    obstacle: str = ""

    @property
    def tokens_per_line(self) -> float:
        """What the file really has, to compare with ``assumed_multiplier``."""
        return self.tokens / self.lines


def show_recommendation(args: Any) -> int:
    """Recommend for the file or the folder of ``args``; returns the exit code."""
    if is_folder(args.file):
        from attune.cli._auth_recommend_folder import show_folder

        return show_folder(args)
    text = read_text(args.file)
    config = load_config(args, strategy_flags(args))
    found = recommend(Path(args.file), text, config.auth, config)
    if getattr(args, "json", False):
        print_json(as_json(found))
    else:
        print(describe(found))
    return ExitCode.OK


def is_folder(name: str) -> bool:
    """Whether there is a folder of that name."""
    try:
        return Path(name).is_dir()
    except ValueError:  # a name that cannot be one
        return False


class Situation(NamedTuple):
    """What is known now beyond the work itself: what is off, who would pay, and what is left of a plan."""

    now: float
    off: Mapping[str, Fact]
    payer: Payer | None
    facts: AuthFacts

    @classmethod
    def of(cls, config: Config) -> Situation:
        """What the ledger and the configuration say."""
        now = time.time()
        off = credentials_off(config, now)
        facts = plan_facts(config, off, plan_windows(config, now))
        return cls(now, off, find_payer(config, off), facts)


def recommend(
    file: Path, text: str, strategy: AuthStrategy, config: Config, situation: Situation | None = None
) -> Recommendation:
    """Count the file and compare both modes at today's prices."""
    from attune.tokens import count_tokens

    now, off, payer, known = Situation.of(config) if situation is None else situation
    served = config.registry.get_model("anthropic", ModelTier.CAPABLE)
    with_a_key = payer is not None and not payer.model.local and payer.credential != SUBSCRIPTION
    paid = payer.model if payer is not None and with_a_key else served
    lines, tokens = len(text.splitlines()), count_tokens(text, paid.id)
    by_plan = strategy.estimate_cost(
        lines, AuthMode.SUBSCRIPTION, model=served, input_tokens=count_tokens(text, served.id), at=now
    )
    facts = known._replace(context_fits=by_plan.fits_context)
    mode = strategy.get_recommended_mode(lines, facts)
    return Recommendation(
        file=file,
        lines=lines,
        size=strategy.get_module_size_category(lines),
        tokens=tokens,
        assumed_multiplier=strategy.loc_to_tokens_multiplier,
        mode=mode,
        reason=why_mode(strategy, lines, facts),
        api=strategy.estimate_cost(lines, AuthMode.API, model=paid, input_tokens=tokens, at=now),
        subscription=by_plan,
        payer=str(payer) if payer else None,
        obstacle=(
            why_not_the_plan(config, payer, off)
            if mode is AuthMode.SUBSCRIPTION
            else why_not_the_key(config, payer)
        ),
    )


def describe(found: Recommendation) -> str:
    """The recommendation for people."""
    density = f"{found.tokens_per_line:.1f} a line; the strategy assumes {found.assumed_multiplier:g}"
    size = f"{counted(found.lines, 'line')} ({found.size}), {counted(found.tokens, 'token')} ({density})"
    parts = [
        folded(f"{found.file}: {size}"),
        folded(f"recommended: {found.mode} ({found.reason})"),
        "",
        fitted(
            ("mode", "model", ">tokens in", ">out (expected)", ">adds to the bill", "window"),
            [_row(estimate) for estimate in (found.api, found.subscription)],
            lead=2,
        ),
    ]
    if found.obstacle:
        parts += ["", folded(f"{found.obstacle}; {found.payer or 'nothing'} would pay")]
    elif found.payer is None:
        parts += ["", folded(f"no credential is there that could pay: {SET_A_KEY}")]
    return "\n".join(parts)


def read_text(name: str) -> str:
    """The text of a file of the user. Raises ``InvalidRequestError`` saying why it is no use."""
    path = Path(name)
    try:
        if path.is_dir():
            raise InvalidRequestError(f"{name} is a folder; name one file")
        if not path.is_file():
            what = "is not a regular file" if path.exists() else "does not exist"
            raise InvalidRequestError(f"{name} {what}; name a text file")
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        if isinstance(error, InvalidRequestError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise InvalidRequestError(f"cannot read {name}: {reason}") from None
    if len(content) > MAX_FILE_BYTES:
        raise InvalidRequestError(
            f"{name} is above {MAX_FILE_BYTES // 1024 // 1024} MiB; name a smaller file"
        )
    return _decoded(name, content)


def _decoded(name: str, content: bytes) -> str:
    try:
        text = content.decode()
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise InvalidRequestError(f"{name} is binary, not UTF-8 text; name a text file")
    if not text.strip():
        raise InvalidRequestError(f"{name} is empty; name a file with something in it")
    return text


def _row(estimate: CostEstimate) -> tuple[str, ...]:
    bill = dollars(estimate.cost_usd)
    return (
        estimate.mode.value,
        estimate.model,
        f"{estimate.input_tokens:,}",
        f"{estimate.output_tokens:,}",
        f"{bill} and quota" if estimate.mode is AuthMode.SUBSCRIPTION else bill,
        "fits its window" if estimate.fits_context else "above its window",
    )


def as_json(found: Recommendation) -> dict[str, Any]:
    """The recommendation for programs."""
    return {
        **found._asdict(),
        "file": str(found.file),
        "tokens_per_line": found.tokens_per_line,
        "api": found.api._asdict(),
        "subscription": found.subscription._asdict(),
    }
