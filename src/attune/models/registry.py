"""The models attune knows, their tiers, and the static choice of one.

The built-in catalog is ``catalog.toml`` beside this file, its prices ``prices.json``; both are
read when they are first needed. A registry is immutable: users' own models and tiers make a new one.
"""

from __future__ import annotations

import functools
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from attune.errors import InvalidRequestError, UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from attune.models.prices import PriceSchedule

__all__ = ["ABILITIES", "EMBEDDINGS", "ModelInfo", "ModelRegistry", "ModelTier", "get_model"]

EMBEDDINGS = "embeddings"
"""The ability of a model that makes vectors of texts, and answers no conversation. It stands also where a
record names a tier: such a model belongs to none.
"""

ABILITIES = frozenset({"tools", "vision", "json_schema", "thinking", EMBEDDINGS})
"""What a request can need of a model; see ``LLMRequest.needs``."""


class ModelTier(StrEnum):
    """How able, and how dear, a model is. Compare by ``rank``: the names sort alphabetically."""

    CHEAP = "cheap"
    CAPABLE = "capable"
    PREMIUM = "premium"

    @property
    def rank(self) -> int:
        """0 for ``cheap``, 1 for ``capable``, 2 for ``premium``."""
        return _BY_RANK.index(self)

    @property
    def up(self) -> ModelTier | None:
        """The next tier up, or ``None`` from the highest."""
        return None if self is ModelTier.PREMIUM else _BY_RANK[self.rank + 1]

    @property
    def down(self) -> ModelTier | None:
        """The next tier down, or ``None`` from the lowest."""
        return None if self is ModelTier.CHEAP else _BY_RANK[self.rank - 1]

    @classmethod
    def parse(cls, text: str) -> ModelTier:
        """The tier named by ``text``, whatever its case. Raises ``UnknownNameError``."""
        try:
            return cls(text.strip().lower())
        except ValueError:
            raise UnknownNameError("tier", text, [tier.value for tier in cls]) from None


_BY_RANK = tuple(ModelTier)


class ModelInfo(NamedTuple):
    """A model of one provider.

    ``context_window`` is in tokens, prompt and answer together; ``max_output_tokens`` the most
    that one answer may have. ``abilities`` is a subset of ``ABILITIES``. ``prices`` of ``None``
    means that the cost is unknown, not that it is 0. A ``local`` model runs on the user's own machine.
    ``responses_only`` are those of its abilities that it has through OpenAI's Responses protocol alone.
    ``list_prices`` are those of an API key where a plan pays, so that ``prices`` are ``FREE``.

    A model that ``embeds`` is a candidate of no tier: its ``tier`` only says which keys may use it and how
    long it may take. Its window is that of each input, and its answers have no tokens.
    """

    id: str
    provider: str
    tier: ModelTier
    context_window: int
    max_output_tokens: int
    abilities: frozenset[str] = frozenset()
    prices: PriceSchedule | None = None
    local: bool = False
    responses_only: frozenset[str] = frozenset()
    list_prices: PriceSchedule | None = None

    @property
    def label(self) -> str:
        """``provider/id``, which names the model uniquely."""
        return f"{self.provider}/{self.id}"

    @property
    def embeds(self) -> bool:
        """Whether it makes embeddings, and nothing else."""
        return EMBEDDINGS in self.abilities

    @property
    def recorded_tier(self) -> str:
        """What a record says of its tier."""
        return EMBEDDINGS if self.embeds else self.tier.value

    def unfit_for(self, needs: frozenset[str]) -> str:
        """Why it cannot serve a request that needs these abilities; empty if it can."""
        if self.embeds is not (EMBEDDINGS in needs):
            return "it makes embeddings only" if self.embeds else "it makes no embeddings"
        missing = needs - self.abilities
        return f"it lacks {', '.join(sorted(missing))}" if missing else ""

    def input_price(self, at: float | None = None) -> float | None:
        """USD per million input tokens of a short prompt; ``None`` if unknown.

        ``at`` is UTC epoch seconds; ``None`` is the day the price table was made.
        """
        return None if self.prices is None else self.prices.at(at).input.usd

    def output_price(self, at: float | None = None) -> float | None:
        """USD per million output tokens after a short prompt; ``at`` as in ``input_price``."""
        return None if self.prices is None else self.prices.at(at).output.usd

    def without_responses(self) -> ModelInfo:
        """The model as it is where its provider speaks Chat Completions."""
        return self._replace(abilities=self.abilities - self.responses_only, responses_only=frozenset())


class ModelRegistry:
    """An immutable set of models and, for each tier, the order in which they are preferred.

    ``tiers`` holds references to models (``provider/id``, or a bare id for every provider that has
    it) in order of preference. A tier that is listed has exactly the listed models, and these
    models then belong to that tier; a tier that is not listed has its models in the order given. Models
    that make embeddings are in no tier. Raises ``InvalidRequestError`` for a model that makes no sense, that
    is listed in two tiers or should be in none, and ``UnknownNameError`` for one that does not exist.
    """

    def __init__(
        self,
        models: Iterable[ModelInfo],
        tiers: Mapping[ModelTier, Sequence[str]] | None = None,
    ) -> None:
        self._given: dict[str, ModelInfo] = {}
        for model in models:
            _check(model)
            self._given[model.label] = model
        self._models = dict(self._given)
        self._by_id: dict[str, list[str]] = {}
        for label, model in self._models.items():
            self._by_id.setdefault(model.id, []).append(label)
        self._listed = {tier: tuple(refs) for tier, refs in (tiers or {}).items()}
        self._order = self._preferences()

    @classmethod
    def default(cls) -> ModelRegistry:
        """The built-in catalog; read once a process."""
        return _default_registry()

    def with_models(self, models: Iterable[ModelInfo]) -> ModelRegistry:
        """A registry with these models added; one of the same provider and id is replaced in place."""
        return ModelRegistry([*self._given.values(), *models], self._listed)

    def with_tiers(self, tiers: Mapping[ModelTier, Sequence[str]]) -> ModelRegistry:
        """A registry in which the given tiers are listed as the class says; the others stay."""
        return ModelRegistry(self._given.values(), {**self._listed, **tiers})

    @property
    def models(self) -> tuple[ModelInfo, ...]:
        """Every model, in the order of the catalog, the user's own last."""
        return tuple(self._models.values())

    @property
    def providers(self) -> tuple[str, ...]:
        """The names of the providers that have a model, in the order of the catalog."""
        return tuple(dict.fromkeys(model.provider for model in self._models.values()))

    def in_tier(self, tier: ModelTier | str) -> tuple[ModelInfo, ...]:
        """The candidates of a tier in order of preference. Raises ``UnknownNameError``."""
        return self._order[ModelTier.parse(tier)]

    def get_model(self, provider: str, tier: ModelTier | str) -> ModelInfo:
        """The provider's most preferred model of a tier: static, whatever telemetry says.

        A model of the tier that the user's list leaves out is found too, after the listed ones.
        Raises ``UnknownNameError`` for an unknown provider or tier, ``InvalidRequestError`` when
        the provider has no model in the tier.
        """
        wanted = ModelTier.parse(tier)
        for model in (*self._order[wanted], *self._models.values()):
            if model.provider == provider and model.tier is wanted and not model.embeds:
                return model
        if provider not in self.providers:
            raise UnknownNameError("provider", provider, self.providers)
        has = ", ".join(t for t in ModelTier if any(m.provider == provider for m in self._order[t]))
        raise InvalidRequestError(
            f"provider {provider!r} has no {wanted} model; it has: {has or 'no model in any tier'}"
        )

    def find(self, ref: str) -> tuple[ModelInfo, ...]:
        """The models that ``ref`` names, at least one.

        ``provider/id`` names one model; a bare id names it at every provider that has it. An id
        may itself contain slashes. Raises ``UnknownNameError`` with the nearest name.
        """
        if ref in self._models:
            return (self._models[ref],)
        if ref in self._by_id:
            return tuple(self._models[label] for label in self._by_id[ref])
        raise UnknownNameError("model", ref, [*self._models, *self._by_id])

    def _preferences(self) -> dict[ModelTier, tuple[ModelInfo, ...]]:
        """The candidates of each tier; gives listed models the tier in which they are listed."""
        owner: dict[str, ModelTier] = {}
        for tier, refs in self._listed.items():
            for label in (model.label for ref in refs for model in self.find(ref)):
                if owner.setdefault(label, tier) is not tier:
                    raise InvalidRequestError(
                        f"model {label!r} is listed in the tiers {owner[label]} and {tier}; keep it in one"
                    )
                if self._models[label].embeds:
                    raise InvalidRequestError(
                        f"model {label!r} makes embeddings and belongs to no tier; take it out of {tier}"
                    )
                self._models[label] = self._models[label]._replace(tier=tier)
        return {
            tier: tuple(self._models[label] for label, its_tier in owner.items() if its_tier is tier)
            if tier in self._listed
            else tuple(model for model in self._models.values() if model.tier is tier and not model.embeds)
            for tier in ModelTier
        }


def get_model(provider: str, tier: ModelTier | str) -> ModelInfo:
    """``ModelRegistry.get_model`` on the built-in catalog: ``get_model("anthropic", "capable")``."""
    return ModelRegistry.default().get_model(provider, tier)


def _check(model: ModelInfo) -> None:
    if not model.id or not model.provider or "/" in model.provider:
        raise InvalidRequestError(
            f"model {model.id!r} of provider {model.provider!r}: both need a name, the provider's without '/'"
        )
    for name in ("context_window", "max_output_tokens"):
        if getattr(model, name) < 1:
            raise InvalidRequestError(f"{name} of {model.label} must be at least 1 token")
    for ability in model.abilities - ABILITIES:
        raise UnknownNameError("ability", ability, ABILITIES, where=f"model {model.label}")


@functools.cache
def _default_registry() -> ModelRegistry:
    import pkgutil
    import tomllib

    from attune.models.prices import FREE, price_table

    known = price_table().schedules
    catalog = tomllib.loads((pkgutil.get_data("attune", "models/catalog.toml") or b"").decode())
    return ModelRegistry(
        ModelInfo(
            id=entry["id"],
            provider=entry["provider"],
            tier=ModelTier(entry["tier"]),
            context_window=entry["context_window"],
            max_output_tokens=entry["max_output_tokens"],
            abilities=frozenset(entry["abilities"]),
            prices=FREE if entry.get("local") else known.get(f"{entry['provider']}/{entry['id']}"),
            local=entry.get("local", False),
            responses_only=frozenset(entry.get("responses_only", ())),
        )
        for entry in catalog["models"]
    )
