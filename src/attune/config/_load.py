"""The reading of everything: flags, file, ``auth.json`` and environment, in that order of precedence."""

from __future__ import annotations

import os
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, cast

from attune.config._document import Document
from attune.config._gateway import read_gateway
from attune.config._models import read_registry
from attune.config._paths import find_paths
from attune.config._providers import EMBEDDED, read_providers
from attune.config.auth_file import load_auth
from attune.config.settings import BreakerConfig, CallConfig, Config, LedgerConfig, RoutingConfig
from attune.errors import ConfigError, InvalidRequestError, UnknownNameError
from attune.models.auth_strategy import MAX_LINES, AuthStrategy
from attune.models.budget import DEFAULT_TIME_LIMITS, CallLimits, TimeLimits
from attune.models.hedging import parse_hedge
from attune.models.policy_names import BUDGET_PERIODS, POLICIES
from attune.models.registry import ModelRegistry
from attune.providers.catalogue import KNOWN_PROVIDERS
from attune.wire.redaction import one_line

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from attune.config._document import Table
    from attune.config.settings import ProviderConfig

__all__ = ["load"]

_TABLES = ("providers", "models", "tiers", "routing", "breaker", "call", "ledger", "auth", "gateway")

_DAY_SECONDS = 86_400.0
_MAX_USD = 1_000_000_000.0
_MAX_WINDOW_DAYS = 90


def load(
    path: str | os.PathLike[str] | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
    flags: Mapping[str, Any] | None = None,
) -> Config:
    """Read the configuration.

    ``path`` names the file instead of ``ATTUNE_CONFIG`` and the usual place; only a file that was
    named has to exist. ``environ`` holds the variables that are looked at; without ``ATTUNE_HOME``
    the folders are those of the platform, found in the process's own environment. ``flags`` are fields
    of ``AuthStrategy`` that the command line gave.

    Raises ``ConfigError`` for a mistake in a file, ``InvalidRequestError`` for one in ``flags``.
    """
    paths, named = find_paths(path, environ)
    root = _root(paths.config_file, named=named)
    root.check_keys(_TABLES)
    providers, notices = read_providers(root.table("providers"), environ)
    if len(providers) > 1 and not _names_the_embedded(root.values):
        providers = [each for each in providers if each.source != EMBEDDED]
    names = {*KNOWN_PROVIDERS, *root.table("providers").values, *ModelRegistry.default().providers}
    saved, auth_notices = load_auth(paths.auth_file)
    auth, auth_sources = _auth(saved, root.table("auth"), flags or {})
    registry = read_registry(
        root,
        names,
        over_chat={each.name for each in providers if each.protocol == "chat"},
        subscriptions=[each.name for each in providers if each.kind == "claude_subscription"],
    )
    return Config(
        providers=tuple(providers),
        registry=registry,
        routing=_routing(root.table("routing"), names),
        breaker=_breaker(root.table("breaker")),
        call=_call(root.table("call")),
        ledger=_ledger(root.table("ledger")),
        auth=auth,
        auth_sources=MappingProxyType(auth_sources),
        paths=paths,
        notices=(*notices, *_without_models(providers, registry), *auth_notices),
        gateway=read_gateway(root.table("gateway")),
    )


def _root(file: Path, *, named: bool) -> Table:
    if not named and not os.path.lexists(file):
        return Document(file, "").root
    return Document.read(file).root


def _without_models(providers: Collection[ProviderConfig], registry: ModelRegistry) -> list[str]:
    served = set(registry.providers)
    return [
        f'{provider.source}: provider {provider.name} has no models; add [[models]] with provider = "'
        f'{provider.name}"'
        for provider in providers
        if provider.name not in served
    ]


def _routing(table: Table, providers: Collection[str]) -> RoutingConfig:
    table.check_keys(RoutingConfig._fields)
    defaults = RoutingConfig()
    workflows = {}
    for name, workflow in table.table("workflows").named_tables():
        workflow.check_keys(["allow_providers"])
        allowed = _allow_providers(workflow, providers)
        if allowed is None:
            raise workflow.error(None, "allow_providers is missing")
        workflows[name] = allowed
    return RoutingConfig(
        window_days=table.whole("window_days", defaults.window_days, 1, _MAX_WINDOW_DAYS),
        allow_providers=_allow_providers(table, providers),
        workflows=MappingProxyType(workflows),
        local_only=table.flag("local_only", defaults.local_only),
        max_usd_per_day=table.number("max_usd_per_day", None, 0, _MAX_USD),
        max_usd_per_month=table.number("max_usd_per_month", None, 0, _MAX_USD),
        policy=_policy(table, defaults.policy),
        explore=table.flag("explore", defaults.explore),
        margin=table.number("margin", defaults.margin, 0.001, 0.999) or defaults.margin,
        budget_usd=table.number("budget_usd", None, 1e-9, _MAX_USD),
        budget_per=_one_of(table, "budget_per", defaults.budget_per, BUDGET_PERIODS),
        min_success_rate=table.number("min_success_rate", defaults.min_success_rate, 0, 1) or 0.0,
    )


def _policy(table: Table, default: str) -> str:
    policy = _one_of(table, "policy", default, POLICIES)
    if policy == "budget" and "budget_usd" not in table.values:
        raise table.error("policy", 'the policy "budget" needs budget_usd, the dollars that it may spend')
    return policy


def _one_of(table: Table, key: str, default: str, known: Collection[str]) -> str:
    found = table.text(key, default)
    if found not in known:
        raise table.unknown(key, found, known, key)
    return found


def _allow_providers(table: Table, providers: Collection[str]) -> frozenset[str] | None:
    if "allow_providers" not in table.values:
        return None
    allowed = table.texts("allow_providers")
    for name in allowed:
        if name not in providers:
            raise table.unknown("provider", name, providers, "allow_providers")
    return frozenset(allowed)


def _breaker(table: Table) -> BreakerConfig:
    table.check_keys(BreakerConfig._fields)
    defaults = BreakerConfig()
    return BreakerConfig(
        failure_threshold=table.whole("failure_threshold", defaults.failure_threshold, 1, 1_000_000),
        recovery_timeout_seconds=_seconds(
            table, "recovery_timeout_seconds", defaults.recovery_timeout_seconds
        ),
        half_open_calls=table.whole("half_open_calls", defaults.half_open_calls, 1, 1000),
        max_recovery_timeout_seconds=_seconds(
            table, "max_recovery_timeout_seconds", defaults.max_recovery_timeout_seconds
        ),
    )


def _call(table: Table) -> CallConfig:
    table.check_keys(_CALL_KEYS)
    defaults = CallLimits()
    per_tier = table.table("tiers")
    for tier in per_tier.values:
        if tier not in DEFAULT_TIME_LIMITS:
            raise per_tier.unknown("tier", tier, DEFAULT_TIME_LIMITS, tier)
    return CallConfig(
        CallLimits(
            max_attempts=table.whole("max_attempts", defaults.max_attempts, 1, 100),
            deadline_s=_seconds(table, "deadline_seconds", defaults.deadline_s),
            connect_s=_seconds(table, "connect_seconds", defaults.connect_s),
            tiers=MappingProxyType(
                {
                    tier: _time_limits(per_tier.table(tier), _time_limits(table, usual))
                    for tier, usual in DEFAULT_TIME_LIMITS.items()
                }
            ),
        ),
        retries=table.whole("retries", CallConfig().retries, 0, 100),
        hedge=_hedge(table),
    )


_TIME_KEYS = ("first_content_seconds", "idle_seconds", "attempt_seconds")
_CALL_KEYS = ("max_attempts", "retries", "deadline_seconds", "connect_seconds", *_TIME_KEYS, "hedge", "tiers")


def _time_limits(table: Table, usual: TimeLimits) -> TimeLimits:
    """What ``[call]`` or ``[call.tiers.NAME]`` says, and the usual for the rest."""
    if table.path[-1] != "call":
        table.check_keys(_TIME_KEYS)
    return TimeLimits(*(_seconds(table, key, each) for key, each in zip(_TIME_KEYS, usual, strict=True)))


def _hedge(table: Table) -> str:
    hedge = table.text("hedge", CallConfig().hedge)
    try:
        parse_hedge(hedge)
    except UnknownNameError as error:
        raise table.error("hedge", str(error)) from None
    return hedge


def _seconds(table: Table, key: str, default: float) -> float:
    seconds = table.number(key, default, 0.001, _DAY_SECONDS)
    assert seconds is not None  # there is a default
    return float(seconds)


def _ledger(table: Table) -> LedgerConfig:
    table.check_keys(LedgerConfig._fields)
    defaults = LedgerConfig()
    durability = table.text("durability", defaults.durability)
    if durability not in ("batch", "call"):
        raise table.unknown("durability", durability, ("batch", "call"), "durability")
    return LedgerConfig(
        durability=cast("Literal['batch', 'call']", durability),
        retention_days=table.whole("retention_days", defaults.retention_days, 1, 36_500),
    )


def _auth(
    saved: AuthStrategy | None, table: Table, flags: Mapping[str, Any]
) -> tuple[AuthStrategy, dict[str, str]]:
    """The strategy and where each field is from: flags over ``[auth]`` over ``auth.json`` over defaults."""
    values = (saved or AuthStrategy()).to_dict()
    sources = dict.fromkeys(values, "auth.json" if saved else "default")
    table.check_keys(values)
    for key, value in table.values.items():
        sources[key] = where = table.where(key)
        try:
            values[key] = _checked(key, value, table.label)
        except InvalidRequestError as error:
            raise ConfigError(f"{where}: {one_line(str(error))}") from None
    for key, value in flags.items():
        sources[key] = "flag"
        values[key] = _checked(key, value, "the command line")
    small, large = "small_module_threshold", "large_module_threshold"
    if values[small] > values[large]:
        raise (InvalidRequestError if flags else ConfigError)(
            f"{small} is {values[small]} ({sources[small]}) and {large} is {values[large]} "
            f"({sources[large]}); small must not be above large"
        )
    return AuthStrategy.from_dict(values, "the strategy"), sources


def _checked(key: str, value: Any, where: str) -> Any:
    """One field's value, if it is of its type and range; thresholds are compared when all are known."""
    wide = {"small_module_threshold": 0, "large_module_threshold": MAX_LINES}
    return AuthStrategy.from_dict({**wide, key: value}, where).to_dict()[key]


def _names_the_embedded(value: object) -> bool:
    """Whether a file speaks of the embedded model, which else stands in only where nobody is enrolled: it is
    too small to answer in the place of another.
    """
    if isinstance(value, dict):
        return any(key == "local" or _names_the_embedded(each) for key, each in value.items())
    if isinstance(value, list):
        return any(map(_names_the_embedded, value))
    return isinstance(value, str) and (value == "local" or value.startswith("local/"))
