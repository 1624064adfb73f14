"""What would pay, and why."""

from __future__ import annotations

import os
from dataclasses import fields
from typing import TYPE_CHECKING, Any, NamedTuple

from attune.cli._exit import note
from attune.cli._ledger import open_ledger
from attune.cli._quota import known_windows
from attune.cli._terminal import utc
from attune.config.settings import NO_CREDENTIAL
from attune.errors import ConfigError, NoCandidateError, StoreError
from attune.models.auth_strategy import AuthFacts, AuthMode, AuthStrategy, SubscriptionTier
from attune.models.registry import ModelTier
from attune.models.state import FactKind
from attune.providers.catalogue import KNOWN_PROVIDERS, SUBSCRIPTION
from attune.providers.secret import resolve_secret
from attune.wire.redaction import one_line

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from attune.cli._quota import KnownWindow
    from attune.config import Config
    from attune.models.registry import ModelInfo
    from attune.models.state import Fact

__all__ = [
    "ENROL_A_PLAN",
    "SET_A_KEY",
    "Payer",
    "check_enrolled",
    "credentials_off",
    "find_payer",
    "is_replaced",
    "paying",
    "plan_facts",
    "plan_windows",
    "strategy_flags",
    "why_mode",
    "why_not_the_key",
    "why_not_the_plan",
]

ENROL_A_PLAN = (
    'add [providers.claude] with kind = "claude_subscription" to the configuration, or let '
    "`attune auth setup --enrol-plan` do it"
)
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
    off = (fact for fact in facts if fact.kind is FactKind.CREDENTIAL_OFF and fact.until > now)
    return {fact.key: fact for fact in off if not is_replaced(fact, config)}


def is_replaced(fact: Fact, config: Config) -> bool:
    """Whether a fact is of a credential whose key is another one now: every process then tries it at once."""
    if fact.kind is not FactKind.CREDENTIAL_OFF or not fact.data:
        return False
    name, _, credential = fact.key.rpartition("#")
    references = (each.keys.get(credential) for each in config.providers if each.name == name)
    try:
        keys = [resolve_secret(each, os.environ, where=name) for each in references if each is not None]
    except ConfigError:
        return False
    return any(fact.data != key.fingerprint for key in keys)


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


def why_not_the_plan(config: Config, payer: Payer | None, off: Mapping[str, Fact]) -> str:
    """Why not the subscription would pay that is recommended; empty if it would."""
    if not config.plans:
        return f"no plan is enrolled: {ENROL_A_PLAN}"
    if payer is not None and payer.credential == SUBSCRIPTION:
        return ""
    facts = [off.get(f"{each.name}#{SUBSCRIPTION}") for each in config.plans]
    if known := [fact for fact in facts if fact is not None]:
        return f"{known[0].key} is off until {utc(known[0].until)}: {known[0].detail}"
    return 'other models come first: the mode "subscription" changes that, and so does [tiers]'


def why_not_the_key(config: Config, payer: Payer | None) -> str:
    """Why the subscription would pay where an API key is recommended; empty if it would not."""
    if payer is None or payer.credential != SUBSCRIPTION:
        return ""
    others = len(config.providers) > len(config.plans)
    return "the plan's models come first" if others else "no API key is there"


def plan_windows(config: Config, now: float) -> list[KnownWindow]:
    """``known_windows``, and none of a ledger that cannot be read: ``credentials_off`` points that out."""
    try:
        return known_windows(config, now)
    except StoreError:
        return []


def plan_facts(config: Config, off: Collection[str], windows: Sequence[KnownWindow]) -> AuthFacts:
    """What is known of the plans' quota that may beat the size of the work."""
    keys = {f"{each.name}#{SUBSCRIPTION}" for each in config.plans}
    spent = bool(keys) and keys.issubset(off)
    known = [each for each in windows if each.runs_out is not None]
    expires = all(each.would_expire for each in known) if known else None
    return AuthFacts(window_exhausted=spent or None, quota_would_expire=None if spent else expires)


def why_mode(strategy: AuthStrategy, lines: int, facts: AuthFacts | None = None) -> str:
    """Why ``get_recommended_mode`` says what it says, in a few words."""
    if strategy.default_mode is not AuthMode.AUTO:
        return f"the mode is set to {strategy.default_mode}"
    if strategy.subscription_tier is SubscriptionTier.NONE:
        return "the strategy names no plan"
    if not strategy.prefer_subscription:
        return "the subscription is not preferred"
    known = facts if facts is not None and strategy.cost_optimization else AuthFacts()
    if known.window_exhausted:
        return "the subscription is off: its quota is used up, or it was refused"
    if known.context_fits is False:
        return "it does not fit the context window that the subscription serves"
    size = strategy.get_module_size_category(lines)
    if size != "small":
        return f"{size} work goes to the {strategy.subscription_tier} plan"
    return "quota would expire unused" if known.quota_would_expire else "small work goes to the API"
