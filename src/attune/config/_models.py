"""``[[models]]`` and ``[tiers]``: the user's own models on top of the catalog."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attune.config._document import shown
from attune.errors import InvalidRequestError, UnknownNameError
from attune.models.prices import FREE, MAX_USD_PER_MILLION, PriceSchedule
from attune.models.registry import ABILITIES, EMBEDDINGS, ModelInfo, ModelRegistry, ModelTier

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from attune.config._document import Table

__all__ = ["read_registry"]

_PRICES = ("input_price", "output_price", "cache_read_price", "cache_write_price", "cache_write_1h_price")
_KEYS = (
    *("id", "provider", "tier", "context_window", "max_output_tokens", "abilities", "local"),
    *_PRICES,
)
_MAX_TOKENS = 1_000_000_000
_USUAL_OUTPUT_TOKENS = 8192
"""The limit of an answer where none is given, if the window is not smaller."""


_IN_A_PLAN = frozenset({"vision", "thinking"})
"""The abilities that a model keeps behind the ``claude`` program, which knows no tools but its own."""


def read_registry(
    root: Table,
    providers: Collection[str],
    over_chat: Collection[str] = (),
    subscriptions: Collection[str] = (),
) -> ModelRegistry:
    """The catalog with the file's models and tiers; ``providers`` are the names that exist.

    Models of the providers ``over_chat`` lack what only Responses gives. The providers ``subscriptions``
    have the models of a Claude plan, behind the others of each tier. Raises ``ConfigError``.
    """
    registry = ModelRegistry.default()
    if subscriptions:
        plan, rest = [m for name in subscriptions for m in _of_plan(name, registry)], registry.models
        registry = ModelRegistry([*rest, *plan])
    catalog = {model.label: model for model in registry.models}
    own: dict[str, ModelInfo] = {}
    for table in root.tables("models"):
        model = _model(table, catalog, providers)
        if model.label in own:
            raise table.error("id", f"the model {shown(model.label)!r} is there twice")
        own[model.label] = model
    if own:
        registry = registry.with_models(own.values())
    lesser = [m.without_responses() for m in registry.models if m.responses_only and m.provider in over_chat]
    return _with_tiers(registry.with_models(lesser) if lesser else registry, root.table("tiers"))


def _of_plan(provider: str, registry: ModelRegistry) -> Iterator[ModelInfo]:
    """Anthropic's models as a plan has them: one more call costs nothing.

    Without those that bill credits beside the plan.
    """
    for model in registry.models:
        if model.provider == "anthropic" and "fable" not in model.id:
            abilities = model.abilities & _IN_A_PLAN
            yield model._replace(
                provider=provider, abilities=abilities, prices=FREE, list_prices=model.prices
            )


def _with_tiers(registry: ModelRegistry, table: Table) -> ModelRegistry:
    if not table.values:
        return registry
    table.check_keys([tier.value for tier in ModelTier])
    tiers = {ModelTier(name): table.texts(name) for name in table.values}
    for tier, refs in tiers.items():
        for ref in refs:
            try:
                registry.find(ref)
            except UnknownNameError:
                names = [name for model in registry.models for name in (model.label, model.id)]
                raise table.unknown("model", ref, names, tier.value) from None
    try:
        return registry.with_tiers(tiers)
    except InvalidRequestError as error:
        raise table.error(None, str(error)) from None


def _model(table: Table, catalog: dict[str, ModelInfo], providers: Collection[str]) -> ModelInfo:
    table.check_keys(_KEYS)
    model_id, provider = table.text("id"), table.text("provider")
    if provider not in providers:
        raise table.unknown("provider", provider, providers, "provider")
    if not model_id.isprintable():
        raise table.error("id", "must be one line of printable text")
    base = catalog.get(f"{provider}/{model_id}")
    abilities = _abilities(table, base)
    embeds = EMBEDDINGS in abilities
    window = table.whole("context_window", base.context_window if base else None, 1, _MAX_TOKENS)
    usual = 1 if embeds else base.max_output_tokens if base else _USUAL_OUTPUT_TOKENS
    local = table.flag("local", default=base.local if base else False)
    prices = _prices(table, embeds=embeds)
    if prices is None:
        prices = base.prices if base else FREE if local else None
    return ModelInfo(
        id=model_id,
        provider=provider,
        tier=_tier(table, base.tier if base else ModelTier.CHEAP if embeds else None),
        context_window=window,
        max_output_tokens=table.whole("max_output_tokens", min(usual, window), 1, window),
        abilities=abilities,
        prices=prices,
        local=local,
        responses_only=base.responses_only if base and "abilities" not in table.values else frozenset(),
        list_prices=base.list_prices if base else None,
    )


def _tier(table: Table, usual: ModelTier | None) -> ModelTier:
    name = table.text("tier", usual)
    try:
        return ModelTier.parse(name)
    except UnknownNameError:
        raise table.unknown("tier", name, [tier.value for tier in ModelTier], "tier") from None


def _abilities(table: Table, base: ModelInfo | None) -> frozenset[str]:
    if "abilities" not in table.values:
        return base.abilities if base else frozenset()
    if table.values["abilities"] == []:
        return frozenset()
    abilities = frozenset(table.texts("abilities"))
    for ability in sorted(abilities - ABILITIES):
        raise table.unknown("ability", ability, ABILITIES, "abilities")
    if EMBEDDINGS in abilities and len(abilities) > 1:
        raise table.error("abilities", f"{EMBEDDINGS!r} stands alone: such a model answers no conversation")
    return abilities


def _prices(table: Table, *, embeds: bool) -> PriceSchedule | None:
    """The user's prices; ``None`` where there are none. Input and output belong together; embeddings have no
    output.
    """
    given = {key: table.number(key, None, 0, MAX_USD_PER_MILLION) for key in _PRICES if key in table.values}
    if not given:
        return None
    cost_in, cost_out = given.pop("input_price", None), given.pop("output_price", 0 if embeds else None)
    if cost_in is None or cost_out is None:
        raise table.error(None, "prices need both input_price and output_price, in USD per million tokens")
    return PriceSchedule.flat(cost_in, cost_out, **given)
