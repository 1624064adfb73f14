"""Who calls: a valid key, and what it may use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attune.accounts.errors import ScopeError
from attune.wire.redaction import one_line

if TYPE_CHECKING:
    from collections.abc import Iterable

    from attune.models.registry import ModelInfo
    from attune.models.state import KeyLimits, KeyRecord

__all__ = ["DEFAULT_ROUTES", "ROUTES", "Account"]

ROUTES = (
    "/v1/chat/completions",
    "/v1/responses",
    "/v1/embeddings",
    "/v1/models",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1/attune/decisions",
    "/v1/attune/outcomes",
    "/metrics",
)
"""What a key may be limited to; a route includes the paths below it."""

DEFAULT_ROUTES = frozenset({"/v1"})
"""What a key allows that names no routes: what shows other callers' traffic has to be named."""

_SHOWN = 12


class Account:
    """One key as the gateway meets it. A query says what it allows; ``check`` raises what to answer."""

    __slots__ = ("_record", "_routes", "digest", "expires", "id", "limits", "name", "revoked")

    def __init__(self, record: KeyRecord) -> None:
        self.id = record.id
        self.name = record.name
        self.digest = record.digest
        self.expires = record.expires
        self.revoked = record.revoked
        self.limits: KeyLimits = record.limits
        self._record = record
        routes = record.scopes.routes
        self._routes = DEFAULT_ROUTES if routes is None else routes

    def __repr__(self) -> str:
        return f"Account({self.name!r}, id={self.id!r})"

    @property
    def allowed_providers(self) -> frozenset[str] | None:
        """The only providers that the key allows, to be a call's ``allow_providers``; ``None`` for all."""
        return self._record.scopes.providers

    @property
    def allows_every_model(self) -> bool:
        """Whether the key is limited in none of models, tiers and providers."""
        scopes = self._record.scopes
        return scopes.models is None and scopes.tiers is None and scopes.providers is None

    @property
    def allows_realtime(self) -> bool:
        """Whether realtime tasks may be asked for."""
        return self._record.scopes.realtime

    def allows_route(self, path: str) -> bool:
        """Whether a path (without its query) is an allowed route or lies below one."""
        return any(path == route or path.startswith(f"{route}/") for route in self._routes)

    def allows_provider(self, provider: str) -> bool:
        """Whether this provider may be used."""
        return _allows(self._record.scopes.providers, provider)

    def allows_tier(self, tier: str) -> bool:
        """Whether models of this tier may be used."""
        return _allows(self._record.scopes.tiers, tier)

    def allows_model(self, model: ModelInfo) -> bool:
        """Whether this model may be used: it, its tier and its provider."""
        named = self._record.scopes.models
        return (
            (named is None or model.label in named or model.id in named)
            and self.allows_tier(model.tier)
            and self.allows_provider(model.provider)
        )

    def check(
        self,
        *,
        route: str | None = None,
        provider: str | None = None,
        tier: str | None = None,
        model: ModelInfo | None = None,
        realtime: bool = False,
    ) -> None:
        """Raise ``ScopeError`` for the first of these that the key does not allow."""
        scopes = self._record.scopes
        if route is not None and not self.allows_route(route):
            raise self._refused("route", route, self._routes)
        if provider is not None and not self.allows_provider(provider):
            raise self._refused("provider", provider, scopes.providers)
        if tier is not None and not self.allows_tier(tier):
            raise self._refused("tier", tier, scopes.tiers)
        if realtime and not self.allows_realtime:
            raise ScopeError(
                f"the key {self.name!r} may not ask for a realtime task; it may ask for every other, "
                "and a key made with --realtime for those too"
            )
        if model is not None and not self.allows_model(model):
            self.check(provider=model.provider, tier=model.tier)
            raise self._refused("model", model.label, scopes.models)

    def _refused(self, what: str, name: str, allowed: Iterable[str] | None) -> ScopeError:
        names = sorted(allowed or ())
        shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
        return ScopeError(
            f"the key {self.name!r} may not use the {what} {one_line(name[:100])!r}; it may use {shown}"
        )


def _allows(allowed: frozenset[str] | None, name: str) -> bool:
    return allowed is None or name in allowed
