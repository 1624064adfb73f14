"""``attune auth recommend``: what should pay for work on one file; ``_auth_recommend_folder`` for many."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from attune.cli._exit import ExitCode
from attune.cli._payment import strategy_flags
from attune.cli._terminal import counted, dollars, fitted, folded, load_config, print_json
from attune.cli._who_pays import Paid, WhoPays, work_sizes
from attune.errors import InvalidRequestError
from attune.models.auth_strategy import AuthMode, CostEstimate
from attune.models.registry import ModelTier

if TYPE_CHECKING:
    from attune.cli._who_pays import WorkSize
    from attune.config import Config
    from attune.models.auth_strategy import AuthStrategy

__all__ = [
    "Recommendation",
    "as_json",
    "describe",
    "ended",
    "read_text",
    "recommend",
    "show_recommendation",
]

MAX_FILE_BYTES = 10 * 1024 * 1024


class Recommendation(NamedTuple):
    """What should pay for a file, and what would; ``api`` and ``subscription`` are what it costs either way.
    ``size`` is that of its tokens, which is what the router sees of it.
    """

    file: Path
    lines: int
    size: WorkSize
    tokens: int
    assumed_multiplier: float
    pays: Paid
    api: CostEstimate
    subscription: CostEstimate

    @property
    def tokens_per_line(self) -> float:
        """What the file really has, to compare with ``assumed_multiplier``."""
        return self.tokens / self.lines

    @property
    def billed_usd(self) -> float | None:
        """What it would add to the bill as things are; ``None`` is not known."""
        return self.api.cost_usd if self.pays.by_key else 0.0


def show_recommendation(args: Any) -> int:
    """Recommend for the file or the folder of ``args``; returns the exit code."""
    if is_folder(args.file):
        from attune.cli._auth_recommend_folder import show_folder

        return show_folder(args)
    text = read_text(args.file)
    config = load_config(args, strategy_flags(args))
    found = recommend(Path(args.file), text, config, WhoPays(config))
    if getattr(args, "json", False):
        print_json(as_json(found))
    else:
        print(describe(found))
    return ended([found], config)


def ended(found: list[Recommendation], config: Config) -> ExitCode:
    """The exit code. Before anything is enrolled the costs are compared all the same, for who makes up their
    mind.
    """
    unpaid = any(each.pays.payer is None for each in found)
    return ExitCode.CREDENTIALS if unpaid and config.providers else ExitCode.OK


def is_folder(name: str) -> bool:
    """Whether there is a folder of that name."""
    try:
        return Path(name).is_dir()
    except ValueError:  # a name that cannot be one
        return False


def recommend(file: Path, text: str, config: Config, who: WhoPays) -> Recommendation:
    """Count the file and compare both modes at today's prices."""
    from attune.tokens import count_tokens

    strategy, now = config.auth, time.time()
    served = config.registry.get_model("anthropic", ModelTier.CAPABLE)
    lines, of_plan = len(text.splitlines()), count_tokens(text, served.id)
    pays = who.pays(of_plan)
    by_plan = strategy.estimate_cost(
        lines, AuthMode.SUBSCRIPTION, model=served, input_tokens=of_plan, facts=who.facts, at=now
    )
    if pays.mode is AuthMode.SUBSCRIPTION and not by_plan.fits_context:
        why = "it does not fit the context window that the plan serves"
        pays = Paid(pays.payer, AuthMode.API, why, "" if pays.payer else pays.obstacle)
    paid = pays.payer.model if pays.payer is not None and pays.by_key else served
    tokens = count_tokens(text, paid.id)
    return Recommendation(
        file=file,
        lines=lines,
        size=_size(strategy, of_plan),
        tokens=tokens,
        assumed_multiplier=strategy.loc_to_tokens_multiplier,
        pays=pays,
        api=strategy.estimate_cost(
            lines, AuthMode.API, model=paid, input_tokens=tokens, facts=who.facts, at=now
        ),
        subscription=by_plan,
    )


def _size(strategy: AuthStrategy, tokens: int) -> WorkSize:
    name = strategy.get_module_size_category(strategy.estimate_lines(tokens))
    return next(size for size in work_sizes(strategy) if size.name == name)


def describe(found: Recommendation) -> str:
    """The recommendation for people."""
    density = f"{found.tokens_per_line:.1f} a line; the strategy assumes {found.assumed_multiplier:g}"
    size = f"{counted(found.lines, 'line')}, {counted(found.tokens, 'token')} ({density})"
    pays = found.pays
    recommended = pays.summary if pays.obstacle else f"recommended: {pays.mode} ({pays.reason})"
    parts = [
        folded(f"{found.file}: {size}: {found.size.name} work, which is {found.size.span}"),
        folded(recommended),
        "",
        fitted(
            ("mode", "model", ">tokens in", ">out (expected)", ">adds to the bill", "window"),
            [_row(estimate) for estimate in (found.api, found.subscription)],
            lead=2,
        ),
    ]
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
    pays = found.pays
    return {
        "file": str(found.file),
        "lines": found.lines,
        "size": found.size.name,
        "tokens": found.tokens,
        "assumed_multiplier": found.assumed_multiplier,
        "mode": pays.mode,
        "reason": pays.reason,
        "payer": str(pays.payer) if pays.payer else None,
        "obstacle": pays.obstacle,
        "tokens_per_line": found.tokens_per_line,
        "api": found.api._asdict(),
        "subscription": found.subscription._asdict(),
    }
