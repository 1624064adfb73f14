"""What would pay, and why."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any, NamedTuple

from attune.cli._exit import note
from attune.cli._ledger import open_ledger
from attune.config.settings import NO_CREDENTIAL
from attune.errors import NoCandidateError, StoreError
from attune.models.auth_strategy import AuthFacts, AuthMode, AuthStrategy, SubscriptionTier
from attune.models.registry import ModelTier
from attune.models.state import FactKind
from attune.providers.catalogue import KNOWN_PROVIDERS
from attune.wire.redaction import one_line

if TYPE_CHECKING:
    from collections.abc import Collection

    from attune.config import Config
    from attune.models.registry import ModelInfo
    from attune.models.state import Fact

__all__ = [
    "NO_SUBSCRIPTION_YET",
    "SET_A_KEY",
    "Payer",
    "check_enrolled",
    "credentials_off",
    "find_payer",
    "paying",
    "strategy_flags",
    "why_mode",
]

NO_SUBSCRIPTION_YET = "this version executes on API keys and local models, not on a subscription"
SET_A_KEY = "set ANTHROPIC_API_KEY, OPENAI_API_KEY or GEMINI_API_KEY, or add a provider"


class Payer(NamedTuple):
    """The credential that would pay, and the model that it would pay for."""

    model: ModelInfo
    credential: str

    def __str__(self) -> str:
        return f"{self.model.provider} {paying(self.credential)} for {self.model.id}"


def paying(credential: str) -> str:
    """A credential as people read it."""
    return "(no key needed)" if credential == NO_CREDENTIAL else credential


def check_enrolled(config: Config, model: str | None) -> None:
    """Raise ``NoCandidateError`` if there is no credential, or none for any provider of ``model``.

    Raises ``UnknownNameError`` for a model that does not exist.
    """
    if not config.providers:
        raise NoCandidateError(f"no credential is there: {SET_A_KEY}")
    if model is None:
        return
    providers = [found.provider for found in config.registry.find(model)]
    if any(provider in config.enrolled for provider in providers):
        return
    ways = " or ".join(dict.fromkeys(map(_way_to_enrol, providers)))
    raise NoCandidateError(f"{one_line(model)} has no credential that could pay: {ways}")


def _way_to_enrol(provider: str) -> str:
    known = KNOWN_PROVIDERS.get(provider)
    if known is not None and known.key_variables:
        return f"set {known.key_variables[0]}"
    if known is not None and known.kind == "local":
        from attune.providers.local_server import missing_packages

        if missing_packages():
            return "install the embedded model (`attune doctor` says how)"
        return (
            "add [providers.local] to the configuration: beside others it answers only if the file names it"
        )
    return f"add [providers.{provider}] to the configuration, or set the key that it names"


def strategy_flags(args: Any) -> dict[str, Any]:
    """The fields of ``AuthStrategy`` that the command line gave."""
    given = {field.name: getattr(args, field.name, None) for field in fields(AuthStrategy)}
    return {name: value for name, value in given.items() if value is not None}


def credentials_off(config: Config, now: float) -> dict[str, Fact]:
    """The credentials that are off now, as ``provider#credential``; a ledger that is not there knows none.

    One that cannot be read is pointed out, and knows none either.
    """
    try:
        ledger = open_ledger(config)
        facts = ledger.facts() if ledger else []
    except StoreError as error:
        note(str(error))
        facts = []
    return {fact.key: fact for fact in facts if fact.kind is FactKind.CREDENTIAL_OFF and fact.until > now}


def find_payer(config: Config, off: Collection[str]) -> Payer | None:
    """Who would be asked without any telemetry: the first candidate of the tier ``capable``, then others."""
    allowed = config.routing.allow_providers
    for tier in (ModelTier.CAPABLE, ModelTier.PREMIUM, ModelTier.CHEAP):
        for model in config.registry.in_tier(tier):
            if allowed is not None and model.provider not in allowed:
                continue
            if config.routing.local_only and not model.local:
                continue
            for credential in config.enrolled.get(model.provider, ()):
                if f"{model.provider}#{credential}" not in off:
                    return Payer(model, credential)
    return None


def why_mode(strategy: AuthStrategy, lines: int, facts: AuthFacts | None = None) -> str:
    """Why ``get_recommended_mode`` says what it says, in a few words."""
    if strategy.default_mode is not AuthMode.AUTO:
        return f"the mode is set to {strategy.default_mode}"
    if strategy.subscription_tier is SubscriptionTier.NONE:
        return "there is no subscription plan"
    if not strategy.prefer_subscription:
        return "the subscription is not preferred"
    known = facts if facts is not None and strategy.cost_optimization else AuthFacts()
    if known.window_exhausted:
        return "the subscription's quota window is used up"
    if known.context_fits is False:
        return "it does not fit the context window that the subscription serves"
    size = strategy.get_module_size_category(lines)
    if size != "small":
        return f"{size} work goes to the {strategy.subscription_tier} plan"
    return "quota would expire unused" if known.quota_would_expire else "small work goes to the API"
