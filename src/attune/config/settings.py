"""What a configuration is, once it has been read: frozen values with their defaults."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, NamedTuple

from attune.models.budget import CallLimits
from attune.models.candidate import NO_CREDENTIAL
from attune.providers.catalogue import SUBSCRIPTION

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from attune.models.auth_strategy import AuthStrategy
    from attune.models.credits import Grant
    from attune.models.registry import ModelRegistry

__all__ = [
    "NO_CREDENTIAL",
    "BreakerConfig",
    "CallConfig",
    "Config",
    "GatewayConfig",
    "GatewayRule",
    "LedgerConfig",
    "Paths",
    "ProviderConfig",
    "RoutingConfig",
]


class ProviderConfig(NamedTuple):
    """One enrolled provider.

    ``kind`` is one of ``attune.providers.KINDS``. ``keys`` maps the name of each credential to a
    reference, ``env:NAME`` or ``file:PATH``, never to a key; it is empty where none is needed.
    ``source`` says what enrolled it: "environment OPENAI_API_KEY", "config.toml line 3" ...
    ``protocol`` is one of ``attune.providers.catalogue.PROTOCOLS`` for the kind ``openai``, else empty.
    ``credits`` are what was granted to credentials in advance.
    """

    name: str
    kind: str
    base_url: str
    keys: Mapping[str, str]
    source: str
    protocol: str = ""
    credits: Mapping[str, Grant] = MappingProxyType({})

    @property
    def speaks(self) -> tuple[str, ...]:
        """What the provider speaks of ``chat``, ``responses``, ``embeddings`` and ``messages``; the first by
        preference.
        """
        if self.kind in {"anthropic", "claude_subscription"}:
            return ("messages",)
        spoken = ("responses", "chat") if self.protocol == "both" else (self.protocol or "chat",)
        return spoken if self.kind == "local" else (*spoken, "embeddings")

    @property
    def credentials(self) -> tuple[str, ...]:
        """The names of what can pay, in order of preference; ``none`` without a key."""
        if self.kind == "claude_subscription":
            return (SUBSCRIPTION,)
        return tuple(self.keys) or (NO_CREDENTIAL,)


class RoutingConfig(NamedTuple):
    """``[routing]``: the telemetry window in days, which providers may be used, spend limits in USD.

    ``allow_providers`` of ``None`` allows all; ``workflows`` narrows it for the workflows named.
    ``local_only`` allows only models on the user's own machine. ``policy`` decides unless a call names
    another, ``explore`` false keeps it from trying what it does not believe to be best. ``margin`` is how
    much worse (0..1) the policy "guarded" lets a cheaper model be, ``budget_usd`` what "budget" may spend per
    ``budget_per``. ``min_success_rate`` (0..1) is preferred where a call asks for none.
    """

    window_days: int = 7
    allow_providers: frozenset[str] | None = None
    workflows: Mapping[str, frozenset[str]] = MappingProxyType({})
    local_only: bool = False
    max_usd_per_day: float | None = None
    max_usd_per_month: float | None = None
    policy: str = "guarded"
    explore: bool = True
    margin: float = 0.05
    budget_usd: float | None = None
    budget_per: str = "call"
    min_success_rate: float = 0.8


class BreakerConfig(NamedTuple):
    """``[breaker]``: consecutive failures that open a circuit, seconds until a probe, probes at a time,
    and the most seconds until a probe when it opens again and again.
    """

    failure_threshold: int = 5
    recovery_timeout_seconds: float = 60.0
    half_open_calls: int = 1
    max_recovery_timeout_seconds: float = 600.0


class CallConfig(NamedTuple):
    """``[call]``: the limits of one call, how often the same candidate is repeated, and when a second one
    is started beside a slow one ("off", or a quantile such as "p95").
    """

    limits: CallLimits = CallLimits()
    retries: int = 1
    hedge: str = "off"


class LedgerConfig(NamedTuple):
    """``[ledger]``: whether an answer waits for its record ("call") or not, and days it is kept."""

    durability: Literal["batch", "call"] = "batch"
    retention_days: int = 90


class GatewayRule(NamedTuple):
    """``[[gateway.rules]]``: what a call is for, by where it comes from.

    It fits a request whose ``path`` it is, whose ``user_agent`` holds the text, and whose ``model`` (as the
    client names it) is the one; what is empty fits everything. ``sets`` has workflow, stage and task_type.
    """

    path: str = ""
    user_agent: str = ""
    model: str = ""
    sets: Mapping[str, str] = MappingProxyType({})

    def fits(self, path: str, user_agent: str, model: str) -> bool:
        """Whether it says what this request is for."""
        return (
            self.path in {"", path}
            and self.user_agent.lower() in user_agent.lower()
            and self.model in {"", model}
        )


class GatewayConfig(NamedTuple):
    """``[gateway]``: where it listens, clients' names for models, rules, and limits: the largest body that it
    reads, all bodies that it holds together, how long a client may keep it waiting, and how many connections.
    """

    host: str = "127.0.0.1"
    port: int = 4141
    max_body_mib: int = 32
    aliases: Mapping[str, str] = MappingProxyType({})
    rules: tuple[GatewayRule, ...] = ()
    max_bodies_mib: int = 128
    client_timeout_seconds: float = 60.0
    max_connections: int = 1000


class Paths(NamedTuple):
    """Where things are kept. ``config_file`` need not exist."""

    config_file: Path
    auth_file: Path
    ledger_file: Path


class Config(NamedTuple):
    """Everything that is configured.

    ``providers`` are the enrolled ones, in order of preference. ``registry`` holds every model,
    also of providers that are not enrolled. ``auth_sources`` says of each field of ``auth`` where
    its value is from: ``flag``, ``PATH line N``, ``auth.json`` or ``default``. ``notices`` are lines
    that every surface should show.
    """

    providers: tuple[ProviderConfig, ...]
    registry: ModelRegistry
    routing: RoutingConfig
    breaker: BreakerConfig
    call: CallConfig
    ledger: LedgerConfig
    auth: AuthStrategy
    auth_sources: Mapping[str, str]
    paths: Paths
    notices: tuple[str, ...] = ()
    gateway: GatewayConfig = GatewayConfig()

    @property
    def enrolled(self) -> Mapping[str, tuple[str, ...]]:
        """Each enrolled provider with the names of its credentials."""
        return {provider.name: provider.credentials for provider in self.providers}

    @property
    def grants(self) -> Mapping[tuple[str, str], Grant]:
        """The prepaid credits of the enrolled providers, by provider and credential."""
        return {(each.name, name): grant for each in self.providers for name, grant in each.credits.items()}

    @property
    def plans(self) -> tuple[ProviderConfig, ...]:
        """The enrolled providers that are the user's own Claude plan."""
        return tuple(each for each in self.providers if each.kind == "claude_subscription")

    def for_clients(self) -> Config:
        """What may be served to clients: without the plans, which are for their own user alone."""
        if not self.plans:
            return self
        names = ", ".join(each.name for each in self.plans)
        left = tuple(each for each in self.providers if each not in self.plans)
        notice = f"the gateway leaves {names} out: a Claude plan answers its own user, no clients"
        if not left:
            notice += "; set the key of another provider, such as ANTHROPIC_API_KEY"
        return self._replace(providers=left, notices=(*self.notices, notice))
