"""Which candidates come after the chosen one fails, and in which order."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from attune.errors import InvalidRequestError, UnknownNameError
from attune.models.registry import ModelTier

if TYPE_CHECKING:
    from collections.abc import Callable

    from attune.models.telemetry import ScoredCandidate

__all__ = ["FallbackPolicy", "FallbackStrategy"]


class FallbackStrategy(StrEnum):
    """One way to find the next candidate, seen from the one that was chosen."""

    OTHER_CREDENTIAL = "other_credential"
    SAME_TIER_OTHER_PROVIDER = "same_tier_other_provider"
    SAME_TIER_SAME_PROVIDER = "same_tier_same_provider"
    CHEAPER_TIER_SAME_PROVIDER = "cheaper_tier_same_provider"
    ANY_TIER_OTHER_PROVIDER = "any_tier_other_provider"
    UPGRADE_TIER = "upgrade_tier"
    CUSTOM = "custom"

    @classmethod
    def parse(cls, text: str) -> FallbackStrategy:
        """The strategy of that name. Raises ``UnknownNameError``."""
        try:
            return cls(text.strip().lower())
        except ValueError:
            raise UnknownNameError("fallback strategy", text, [s.value for s in cls]) from None


_RANK: dict[str, int] = {tier.value: tier.rank for tier in ModelTier}

_DEFAULT = (
    FallbackStrategy.OTHER_CREDENTIAL,
    FallbackStrategy.SAME_TIER_OTHER_PROVIDER,
    FallbackStrategy.SAME_TIER_SAME_PROVIDER,
    FallbackStrategy.UPGRADE_TIER,
    FallbackStrategy.ANY_TIER_OTHER_PROVIDER,
    FallbackStrategy.CHEAPER_TIER_SAME_PROVIDER,
)


@dataclass(frozen=True)
class FallbackPolicy:
    """The chain of a call: the chosen candidate, then what each strategy finds, in order.

    ``chain`` holds the references ("provider/model") of the ``CUSTOM`` strategy. Candidates that
    no strategy finds are not tried, but for a prompt that
    did not fit: any larger window will do for that. Within a strategy the router's order is kept.
    The default tries the same model with another credential, then the same tier (other providers
    first), then one tier up, then any other provider, then cheaper models.
    """

    strategies: tuple[FallbackStrategy, ...] = _DEFAULT
    chain: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        parsed = tuple(FallbackStrategy.parse(strategy) for strategy in self.strategies)
        object.__setattr__(self, "strategies", parsed)
        if (FallbackStrategy.CUSTOM in self.strategies) != bool(self.chain):
            raise InvalidRequestError("the custom fallback strategy and a chain of models go together")

    def order(self, ranked: tuple[ScoredCandidate, ...]) -> tuple[ScoredCandidate, ...]:
        """The candidates to try, the chosen one first, from a decision's ranking."""
        first, *rest = ranked
        found = [first]
        for strategy in self.strategies:
            matching: list[ScoredCandidate] = []
            others: list[ScoredCandidate] = []
            for each in rest:
                (matching if self._matches(strategy, first, each) else others).append(each)
            if strategy is FallbackStrategy.CUSTOM:
                matching.sort(key=lambda each: self.chain.index(f"{each.provider}/{each.model_id}"))
            found += matching
            rest = others
        return tuple(found)

    def _matches(self, strategy: FallbackStrategy, first: ScoredCandidate, each: ScoredCandidate) -> bool:
        if strategy is FallbackStrategy.CUSTOM:
            return f"{each.provider}/{each.model_id}" in self.chain
        step = _RANK[each.tier] - _RANK[first.tier]
        return _FINDS[strategy](each.provider == first.provider, each.model_id == first.model_id, step)


_FINDS: dict[FallbackStrategy, Callable[[bool, bool, int], bool]] = {
    FallbackStrategy.OTHER_CREDENTIAL: lambda same_provider, same_model, _: same_provider and same_model,
    FallbackStrategy.SAME_TIER_OTHER_PROVIDER: lambda same_provider, _, step: step == 0 and not same_provider,
    FallbackStrategy.SAME_TIER_SAME_PROVIDER: lambda same_provider, _, step: step == 0 and same_provider,
    FallbackStrategy.CHEAPER_TIER_SAME_PROVIDER: lambda same_provider, _, step: step < 0 and same_provider,
    FallbackStrategy.ANY_TIER_OTHER_PROVIDER: lambda same_provider, *_: not same_provider,
    FallbackStrategy.UPGRADE_TIER: lambda *relation: relation[-1] == 1,
}
"""Whether a strategy finds a candidate: by whether its provider and its model are the chosen one's, and how
many tiers it lies above that. Looked up, because every call asks for each strategy and candidate.
"""
