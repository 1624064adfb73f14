"""What a client means by ``model``, and by the headers and rules that say what a call is for."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, Any, NamedTuple

from attune.errors import ConfigError, InvalidRequestError, UnknownNameError
from attune.models.call_checks import MAX_NAME_CHARS
from attune.models.registry import ModelTier
from attune.models.tasks import TASK_TIER_MAP, get_tier_for_task, normalize_task
from attune.wire.redaction import one_line

if TYPE_CHECKING:
    from collections.abc import Container, Mapping, Sequence

    from attune.config.settings import GatewayRule
    from attune.gateway.http import Request
    from attune.models.registry import ModelRegistry

__all__ = ["PREFIX", "Names"]

PREFIX = "attune/"
"""Before a tier or a task, where a model's name is asked for."""

AUTO = ("auto", PREFIX + "auto")

_MOST_NAMED = 12
_EMBEDS_NOT = "makes no embeddings"
_EMBEDS_ONLY = "makes embeddings only, at /v1/embeddings"
_LEFT_OPEN = "leaves the model open, and embeddings of different models cannot be compared"
_NONE_EMBEDS = "no enrolled provider has a model that makes them"


class Names(NamedTuple):
    """The names that clients may use. ``aliases`` maps a client's fixed names to any of the others; what is
    proposed instead of a wrong one is of ``enrolled`` providers.
    """

    registry: ModelRegistry
    aliases: Mapping[str, str]
    rules: Sequence[GatewayRule]
    enrolled: Container[str]

    def listed(self) -> tuple[str, ...]:
        """Every name that a client may choose, but models and tasks."""
        return ("auto", *(f"{PREFIX}{tier.value}" for tier in ModelTier), *self.aliases)

    def meaning(self, name: str) -> dict[str, Any]:
        """The fields of the call that a model's name stands for. Raises ``UnknownNameError``."""
        name = self.aliases.get(name, name)
        if name in AUTO:
            return {}
        if name.startswith(PREFIX):
            wanted = name.removeprefix(PREFIX)
            if wanted.lower() in {tier.value for tier in ModelTier}:
                return {"tier": wanted.lower()}
            if normalize_task(wanted) in TASK_TIER_MAP:
                return {"task_type": normalize_task(wanted)}
            known = [f"{PREFIX}{each}" for each in (*(tier.value for tier in ModelTier), *TASK_TIER_MAP)]
            raise UnknownNameError("model", one_line(name), [*AUTO, *known])
        try:
            self.registry.find(name)
        except UnknownNameError:
            models = [each for each in self.registry.models if each.provider in self.enrolled]
            labels = [each for model in models for each in (model.id, model.label)]
            raise UnknownNameError("model", one_line(name), [*self.listed(), *labels]) from None
        return {"model": name}

    def check_kind(
        self, name: str, model: str | None, providers: Container[str], *, embeddings: bool
    ) -> None:
        """Raise ``InvalidRequestError`` unless a client's ``name``, which stands for ``model`` or for none,
        is of a model that makes embeddings where those are asked for, and elsewhere of one that answers.
        What to choose instead is a model of the enrolled ``providers``, the nearest first.
        """
        found = () if model is None else self.registry.find(model)
        if any(each.embeds is embeddings for each in found) or not (found or embeddings):
            return
        why = (_EMBEDS_NOT if embeddings else _EMBEDS_ONLY) if found else _LEFT_OPEN
        near = {each.provider for each in found}
        fit = [m for m in self.registry.models if m.embeds is embeddings and m.provider in providers]
        fit.sort(key=lambda model: model.provider not in near)
        ids = list(dict.fromkeys(each.id for each in fit))[:_MOST_NAMED]
        if not embeddings:
            ids.insert(0, AUTO[0])
        advice = f"choose one of {', '.join(ids)}" if ids else _NONE_EMBEDS
        raise InvalidRequestError(f"{one_line(name)!r} {why}; {advice}")

    def most_output(self, fields: Mapping[str, Any], providers: Container[str]) -> int | None:
        """The most tokens that a model meant by the call can answer; ``None`` if that is not known."""
        if named := fields.get("model"):
            models = self.registry.find(named)
        else:
            models = self.registry.in_tier(
                fields.get("tier") or get_tier_for_task(fields.get("task_type") or "")
            )
        able = [each for each in models if each.provider in providers]
        # A tier without any is left for another one.
        limits = [
            each.max_output_tokens for each in able or self.registry.models if each.provider in providers
        ]
        return max(limits) if limits and all(limits) else None

    def check(self) -> None:
        """Raise ``ConfigError`` for an alias that stands for nothing."""
        for alias, name in self.aliases.items():
            try:
                self._replace(aliases={}).meaning(name)
            except UnknownNameError as error:
                raise ConfigError(f"[gateway.aliases] {one_line(alias)!r}: {error}") from None

    def providers_of(self, model: str) -> frozenset[str]:
        """The providers that have a model. Raises ``UnknownNameError``."""
        return frozenset(each.provider for each in self.registry.find(model))

    def purpose(self, request: Request, model: str) -> dict[str, Any]:
        """What the call is for and may cost: by the first rule that fits, and by the headers, which win."""
        fields: dict[str, Any] = {}
        for rule in self.rules:
            if rule.fits(request.path, request.header("user-agent"), model):
                fields |= {name: value for name, value in rule.sets.items() if value}
                break
        for name, field in _TEXTS.items():
            if value := request.header(name):
                if len(value) > MAX_NAME_CHARS:
                    raise InvalidRequestError(f"the header {name} is above {MAX_NAME_CHARS} characters")
                fields[field] = value
        for name, field in _NUMBERS.items():
            if value := request.header(name):
                fields[field] = _number(name, value)
        return fields


_TEXTS = {
    "x-attune-workflow": "workflow",
    "x-attune-stage": "stage",
    "x-attune-task": "task_type",
    "x-attune-policy": "policy",
    "session-id": "session_id",  # Codex
    "x-session-id": "session_id",  # opencode
    "x-claude-code-session-id": "session_id",
    "x-attune-session": "session_id",
}
_NUMBERS = {"x-attune-max-cost": "max_cost", "x-attune-max-latency-ms": "max_latency_ms"}


def _number(header: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not isfinite(value) or value < 0:
        raise InvalidRequestError(f"the header {header} must be a number, not {one_line(text)[:40]!r}")
    return value
