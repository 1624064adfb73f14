"""Which credential pays: the subscription or an API key, and what a piece of work costs either way.

Sizes are given in lines of code, as the user knows a module before it is read. Nothing here
touches a file or a clock.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from attune.errors import InvalidRequestError, UnknownNameError
from attune.models.overflow import DEFAULT_USD_PER_DAY, Overflow, OverflowRule
from attune.models.prices import cost_nanos
from attune.models.registry import ModelTier, get_model
from attune.models.telemetry import NANOS_PER_USD, TokenUsage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from attune.models.answer_length import AnswerLength
    from attune.models.registry import ModelInfo

__all__ = [
    "AuthFacts",
    "AuthMode",
    "AuthStrategy",
    "CostEstimate",
    "Overflow",
    "SizeCategory",
    "SubscriptionTier",
    "get_module_size_category",
]

SizeCategory: TypeAlias = Literal["small", "medium", "large"]

SMALL_MODULE_THRESHOLD = 500
LARGE_MODULE_THRESHOLD = 2000
LOC_TO_TOKENS_MULTIPLIER = 4.0

OUTPUT_SHARE = 0.25
"""Expected output tokens for each input token: a review or a set of changes, not a rewrite. An
assumption, which telemetry replaces where there is some (``AuthFacts.answers``)."""

MIN_OUTPUT_TOKENS = 500
"""An answer is taken to be at least this long, however short the module."""

MAX_LINES = 1_000_000_000
MAX_MULTIPLIER = 10_000
MAX_TOKENS = MAX_LINES * MAX_MULTIPLIER
MAX_USD = 1_000_000_000


class AuthMode(StrEnum):
    """What pays: ``auto`` decides by the size of the work and by what is known of the quota."""

    AUTO = "auto"
    SUBSCRIPTION = "subscription"
    API = "api"


class SubscriptionTier(StrEnum):
    """The plan that the user has."""

    NONE = "none"
    PRO = "pro"
    MAX = "max"
    ULTRA = "ultra"
    TEAM = "team"


PLAN_USD_A_MONTH = {
    SubscriptionTier.PRO: 20,
    SubscriptionTier.MAX: 100,
    SubscriptionTier.ULTRA: 200,
    SubscriptionTier.TEAM: 25,
}
"""List prices on 2026-11-22, billed monthly; for ``team`` that of a standard seat (a premium one is 125)."""


class AuthFacts(NamedTuple):
    """What is known beyond the size of the work; ``None`` is not known.

    ``window_exhausted``: a quota window of the subscription is used up. ``quota_would_expire``:
    its remaining quota would be lost unused at the reset. ``quota_would_run_out``: it is expected
    to be used up before. ``context_fits``: the prompt fits what
    the subscription serves. ``window_tokens``: how many tokens a quota window holds, as learned
    from telemetry. ``month_tokens``: how many tokens the subscription served in the last 30 days.
    ``answers``: how long answers are, as learned from telemetry.
    """

    window_exhausted: bool | None = None
    quota_would_expire: bool | None = None
    quota_would_run_out: bool | None = None
    context_fits: bool | None = None
    window_tokens: int | None = None
    month_tokens: int | None = None
    answers: AnswerLength | None = None


class CostEstimate(NamedTuple):
    """What a piece of work would cost in a mode; ``None`` is not known, never 0.

    ``cost_usd`` is what it adds to the bill: the API price, and 0 for ``subscription``.
    ``amortized_usd`` is its part in everything that is paid: the API price again, or the plan's
    monthly price shared out by tokens, ``price x tokens / (month_tokens + tokens)``, so that it falls
    as the plan is used more. ``quota_share`` is the part (0..1, or above 1) of a quota window that it
    would use: ``tokens / window_tokens``. In both, tokens are input plus output. ``fits_context``
    is whether they fit the context window of ``model`` (a label), for which all was computed.
    """

    mode: AuthMode
    model: str
    input_tokens: int
    output_tokens: int
    cost_usd: float | None
    amortized_usd: float | None
    quota_share: float | None
    fits_context: bool


@dataclass(frozen=True)
class AuthStrategy:
    """How the user wants work to be paid for. Raises ``InvalidRequestError`` for impossible values.

    ``small_module_threshold`` and ``large_module_threshold`` are in lines: below the first a
    module is small, above the second large. ``loc_to_tokens_multiplier`` is tokens a line.
    ``cost_optimization`` lets facts about the quota beat the size. ``overflow`` says what calls do whose
    plan is used up, ``overflow_usd_per_day`` what those may cost in a UTC day that are billed instead (USD).
    ``setup_completed`` is whether the user has gone through the set-up.
    """

    default_mode: AuthMode = AuthMode.AUTO
    subscription_tier: SubscriptionTier = SubscriptionTier.NONE
    prefer_subscription: bool = True
    small_module_threshold: int = SMALL_MODULE_THRESHOLD
    large_module_threshold: int = LARGE_MODULE_THRESHOLD
    loc_to_tokens_multiplier: float = LOC_TO_TOKENS_MULTIPLIER
    cost_optimization: bool = True
    overflow: Overflow = Overflow.FAIL
    overflow_usd_per_day: float = DEFAULT_USD_PER_DAY
    setup_completed: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            value = _converted(getattr(self, field.name), type(field.default), field.name, "AuthStrategy")
            object.__setattr__(self, field.name, value)
        _check_thresholds(self.small_module_threshold, self.large_module_threshold)
        if not 0 < self.loc_to_tokens_multiplier <= MAX_MULTIPLIER:
            raise InvalidRequestError(
                f"loc_to_tokens_multiplier must be above 0 and at most {MAX_MULTIPLIER} tokens a line"
            )
        if not 0 <= self.overflow_usd_per_day <= MAX_USD:
            raise InvalidRequestError(f"overflow_usd_per_day must be from 0 to {MAX_USD} USD")

    @property
    def overflow_rule(self) -> OverflowRule:
        """What calls do that overflow."""
        return OverflowRule(self.overflow, self.overflow_usd_per_day)

    @property
    def competes(self) -> bool:
        """Whether the plan and the API keys compete for a call, by what is known of the quota."""
        return self.default_mode is AuthMode.AUTO and self.counts_on_plan and self.cost_optimization

    @property
    def counts_on_plan(self) -> bool:
        """Whether there are calls that the plan should pay for, so that they overflow once it is used up."""
        if self.default_mode is not AuthMode.AUTO:
            return self.default_mode is AuthMode.SUBSCRIPTION
        return self.prefer_subscription and self.subscription_tier is not SubscriptionTier.NONE

    def get_module_size_category(self, lines: int) -> SizeCategory:
        """``small``, ``medium`` or ``large``, by this strategy's thresholds."""
        _check_lines(lines)
        if lines < self.small_module_threshold:
            return "small"
        return "large" if lines > self.large_module_threshold else "medium"

    def get_recommended_mode(self, lines: int, facts: AuthFacts | None = None) -> AuthMode:
        """``SUBSCRIPTION`` or ``API`` for a module of so many lines.

        An explicit ``default_mode`` is obeyed. Otherwise the subscription is considered if there
        is one and it is preferred: what is known decides first (unless ``cost_optimization`` is
        off), then the size, small modules going to the API, and medium ones too while the quota
        would run out: it is kept for the large ones. Raises ``InvalidRequestError``.
        """
        size = self.get_module_size_category(lines)
        if self.default_mode != AuthMode.AUTO:
            return self.default_mode
        if not self.counts_on_plan:
            return AuthMode.API
        known = facts if facts is not None and self.cost_optimization else AuthFacts()
        if known.window_exhausted or known.context_fits is False:
            return AuthMode.API
        if size == "small":
            return AuthMode.SUBSCRIPTION if known.quota_would_expire else AuthMode.API
        kept_for_large = size == "medium" and known.quota_would_run_out
        return AuthMode.API if kept_for_large else AuthMode.SUBSCRIPTION

    def estimate_tokens(self, lines: int) -> int:
        """The tokens of so many lines: ``int(lines x loc_to_tokens_multiplier)``."""
        _check_lines(lines)
        return int(lines * self.loc_to_tokens_multiplier)

    def estimate_lines(self, tokens: float) -> int:
        """The lines that so many tokens are taken for: ``tokens / loc_to_tokens_multiplier``, rounded up."""
        return min(MAX_LINES, math.ceil(tokens / self.loc_to_tokens_multiplier))

    def estimate_cost(
        self,
        lines: int,
        mode: AuthMode | None = None,
        *,
        model: ModelInfo | None = None,
        input_tokens: int | None = None,
        facts: AuthFacts | None = None,
        at: float | None = None,
    ) -> CostEstimate:
        """What a module of so many lines would cost; see ``CostEstimate`` for the formulas.

        ``mode`` of ``None`` or ``AUTO`` is the recommended one, ``model`` Anthropic's capable
        one unless given, ``input_tokens`` a real count in place of ``estimate_tokens``. The output
        is taken to be as ``facts.answers`` says, else ``OUTPUT_SHARE`` of the input and at least
        ``MIN_OUTPUT_TOKENS``; in any case at most what the model may write. ``at`` (UTC epoch seconds)
        is the time whose prices are meant, by default the day on which the price table was made.
        Raises ``InvalidRequestError``.
        """
        if mode is None or mode == AuthMode.AUTO:
            mode = self.get_recommended_mode(lines, facts)
        prompt = self.estimate_tokens(lines) if input_tokens is None else input_tokens
        if not 0 <= prompt <= MAX_TOKENS:
            raise InvalidRequestError(f"input_tokens must be a whole number from 0 to {MAX_TOKENS}")
        model = model or get_model("anthropic", ModelTier.CAPABLE)
        answer = min(_answer_tokens(prompt, facts), model.max_output_tokens)
        fits = prompt + answer <= model.context_window
        if mode == AuthMode.SUBSCRIPTION:
            cost: float | None = 0.0
            amortized = self._share_of_plan(prompt + answer, facts)
            quota_share = _share(prompt + answer, facts.window_tokens if facts else None)
        else:
            cost = amortized = _api_usd(TokenUsage(prompt, answer), model, at)
            quota_share = None
        return CostEstimate(mode, model.label, prompt, answer, cost, amortized, quota_share, fits)

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values, for JSON or TOML."""
        return {
            name: value.value if isinstance(value, StrEnum) else value for name, value in asdict(self).items()
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str) -> AuthStrategy:
        """The strategy that ``values`` describe; a field that is not there has its default.

        ``where`` names the source in errors: ``UnknownNameError`` for a key or a choice that does
        not exist, ``InvalidRequestError`` for a value of the wrong type or range.
        """
        known = {field.name: type(field.default) for field in fields(cls)}
        for key in values:
            if key not in known:
                raise UnknownNameError("key", str(key)[:40], known, where=where)
        converted = {key: _converted(value, known[key], key, where) for key, value in values.items()}
        try:
            return cls(**converted)
        except InvalidRequestError as error:
            raise InvalidRequestError(f"{where}: {error}") from None

    def _share_of_plan(self, tokens: int, facts: AuthFacts | None) -> float | None:
        monthly = PLAN_USD_A_MONTH.get(self.subscription_tier)
        if monthly is None or facts is None or facts.month_tokens is None:
            return None
        return monthly * tokens / (max(0, facts.month_tokens) + tokens)


def get_module_size_category(lines: int) -> SizeCategory:
    """``small`` below 500 lines, ``large`` above 2000, else ``medium``. Raises ``InvalidRequestError``."""
    return AuthStrategy().get_module_size_category(lines)


def _check_lines(lines: int) -> None:
    if isinstance(lines, bool) or not isinstance(lines, int) or not 0 <= lines <= MAX_LINES:
        raise InvalidRequestError(f"lines must be a whole number from 0 to {MAX_LINES}")


def _check_thresholds(small: int, large: int) -> None:
    for name, value in (("small_module_threshold", small), ("large_module_threshold", large)):
        if not 0 <= value <= MAX_LINES:
            raise InvalidRequestError(f"{name} must be from 0 to {MAX_LINES} lines")
    if small > large:
        raise InvalidRequestError(
            f"small_module_threshold ({small}) must not be above large_module_threshold ({large})"
        )


def _answer_tokens(prompt: int, facts: AuthFacts | None) -> int:
    if facts is None or facts.answers is None:
        return max(MIN_OUTPUT_TOKENS, int(prompt * OUTPUT_SHARE))
    return facts.answers.tokens(prompt)


def _api_usd(usage: TokenUsage, model: ModelInfo, at: float | None) -> float | None:
    if model.prices is None:
        return None
    moment = model.prices.as_of if at is None else at
    return cost_nanos(usage, model.prices, moment) / NANOS_PER_USD


def _share(part: int, whole: int | None) -> float | None:
    return None if whole is None or whole <= 0 else part / whole


def _converted(value: Any, wanted: type, key: str, where: str) -> Any:
    """A value out of a file as the type of its field; an integer is fine where a number is wanted."""
    if issubclass(wanted, StrEnum):
        try:
            return wanted(value)
        except ValueError:
            choices = [choice.value for choice in wanted]
            raise UnknownNameError(key, str(value)[:40], choices, where=where) from None
    right = (int, float) if wanted is float else wanted
    if isinstance(value, right) and isinstance(value, bool) == (wanted is bool):
        return value
    names = {bool: "true or false", int: "a whole number", float: "a number"}
    raise InvalidRequestError(f"{where}: {key} must be {names[wanted]}, not {str(value)[:40]!r}")
