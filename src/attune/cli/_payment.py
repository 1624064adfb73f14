"""What would pay, and why."""

from __future__ import annotations

import os
from dataclasses import fields
from typing import TYPE_CHECKING, Any, NamedTuple

from attune.cli._exit import note
from attune.cli._ledger import open_ledger
from attune.cli._quota import known_windows
from attune.config.settings import NO_CREDENTIAL
from attune.errors import ConfigError, InvalidRequestError, NoCandidateError, StoreError
from attune.models.auth_strategy import AuthStrategy
from attune.models.state import FactKind
from attune.providers.catalogue import KNOWN_PROVIDERS
from attune.providers.secret import resolve_secret
from attune.wire.redaction import one_line

if TYPE_CHECKING:
    from attune.cli._quota import KnownWindow
    from attune.config import Config
    from attune.models.registry import ModelInfo
    from attune.models.state import Fact

__all__ = [
    "ENROL_A_PLAN",
    "NO_PLAN",
    "SET_A_KEY",
    "Payer",
    "check_enrolled",
    "credentials_off",
    "is_replaced",
    "paying",
    "plan_windows",
    "strategy_flags",
]

ENROL_A_PLAN = (
    'add [providers.claude] with kind = "claude_subscription" to the configuration, or let '
    "`attune auth setup --enrol-plan` do it"
)
NO_PLAN = "no plan is enrolled, so none pays; `attune auth setup --enrol-plan` lets yours answer"
"""What is missing where the strategy counts on a plan."""

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

    Raises ``UnknownNameError`` for a model that does not exist, ``InvalidRequestError`` for one that a plan
    leaves out.
    """
    if not config.providers:
        raise NoCandidateError(f"no credential is there: {SET_A_KEY}")
    if model is None:
        return
    _check_left_out(config, model)
    providers = [found.provider for found in config.registry.find(model)]
    if any(provider in config.enrolled for provider in providers):
        return
    ways = " or ".join(dict.fromkeys(map(_way_to_enrol, providers)))
    raise NoCandidateError(f"{one_line(model)} has no credential that could pay: {ways}")


def _check_left_out(config: Config, model: str) -> None:
    """Refuse a model that a plan does not answer with: the nearest name would be the one that a key pays."""
    provider, _, model_id = model.partition("/")
    billed = f"anthropic/{model_id}"
    named = any(each.name == provider for each in config.plans)
    if named and "fable" in model_id and any(each.label == billed for each in config.registry.models):
        raise InvalidRequestError(
            f"{model}: a plan leaves this model out, since it may bill credits without asking; "
            f"{billed} is billed to an API key"
        )


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


def plan_windows(config: Config, now: float) -> list[KnownWindow]:
    """``known_windows``, and none of a ledger that cannot be read: ``credentials_off`` points that out."""
    try:
        return known_windows(config, now)
    except StoreError:
        return []
