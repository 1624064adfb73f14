"""Which candidates come after the chosen one fails, and in which order."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from attune.errors import InvalidRequestError, UnknownNameError
from attune.models.registry import ModelTier

if TYPE_CHECKING:
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
    no strategy finds are not tried. Within a strategy the router's order is kept.
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
            matching = [each for each in rest if each not in found and self._matches(strategy, first, each)]
            if strategy is FallbackStrategy.CUSTOM:
                matching.sort(key=lambda each: self.chain.index(f"{each.provider}/{each.model_id}"))
            found.extend(matching)
        return tuple(found)

    def _matches(self, strategy: FallbackStrategy, first: ScoredCandidate, each: ScoredCandidate) -> bool:
        same_provider = each.provider == first.provider
        step = ModelTier(each.tier).rank - ModelTier(first.tier).rank
        match strategy:
            case FallbackStrategy.OTHER_CREDENTIAL:
                return same_provider and each.model_id == first.model_id
            case FallbackStrategy.SAME_TIER_OTHER_PROVIDER:
                return step == 0 and not same_provider
            case FallbackStrategy.SAME_TIER_SAME_PROVIDER:
                return step == 0 and same_provider
            case FallbackStrategy.CHEAPER_TIER_SAME_PROVIDER:
                return step < 0 and same_provider
            case FallbackStrategy.ANY_TIER_OTHER_PROVIDER:
                return not same_provider
            case FallbackStrategy.UPGRADE_TIER:
                return step == 1
            case FallbackStrategy.CUSTOM:
                return f"{each.provider}/{each.model_id}" in self.chain
