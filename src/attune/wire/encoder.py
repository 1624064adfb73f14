"""What the encoders of all protocols share."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from attune.errors import CallerError
from attune.wire import steps

if TYPE_CHECKING:
    from attune.wire.errors import ErrorMapper

__all__ = ["JSON_INSTRUCTION", "effort", "is_strict", "openai_version", "to_json"]

JSON_INSTRUCTION = "Answer with a single JSON object and nothing else."
"""Asks for JSON without a schema. OpenAI refuses its JSON mode unless the prompt has that word in it."""

_EFFORT_LIMITS = ((1024, "low"), (8192, "medium"))
_OPENAI_REASONING = re.compile(r"gpt-(\d+)(?:\.(\d+))?|o\d")


def effort(thinking_tokens: int) -> str:
    """The effort level for a thinking budget, for models that take a level and no budget.

    Up to 1,024 tokens ``low``, up to 8,192 ``medium``, above ``high``: the equivalence that
    Google documents for its OpenAI endpoint.
    """
    return next((level for limit, level in _EFFORT_LIMITS if thinking_tokens <= limit), "high")


def openai_version(model_id: str) -> tuple[int, int] | None:
    """The version of an OpenAI reasoning model, (0, 0) for the o-series; ``None`` for all else."""
    match = _OPENAI_REASONING.match(model_id)
    if match is None:
        return None
    version = (int(match[1] or 0), int(match[2] or 0))
    return version if version >= (5, 0) or match[1] is None else None


def is_strict(schema: object) -> bool:
    """Whether every object of a JSON schema closes itself and requires all that it has.

    OpenAI guarantees that an answer follows such a schema; asked to guarantee another it refuses.
    """
    waiting = [schema]  # not by recursion: a client may nest as deep as it likes
    while waiting:
        each = waiting.pop()
        if isinstance(each, list):
            waiting += each
        elif isinstance(each, Mapping):
            if (each.get("type") == "object" or "properties" in each) and not _is_closed(each):
                return False
            waiting += each.values()
    return True


def _is_closed(schema: Mapping[Any, Any]) -> bool:
    properties, required = schema.get("properties", {}), schema.get("required", [])
    return (
        schema.get("additionalProperties") is False
        and isinstance(properties, Mapping)
        and isinstance(required, list | tuple)
        and all(isinstance(name, str) and name in properties for name in required)
        and all(name in required for name in properties)
    )


def to_json(body: dict[str, Any], errors: ErrorMapper) -> bytes:
    """``body`` as JSON. Raises ``CallerError`` for what JSON cannot say, such as in ``extra``."""
    try:
        return steps.encode(body, _as_dict)
    except (TypeError, ValueError, RecursionError) as error:
        raise errors.raised(CallerError, f"the request cannot be written as JSON: {error}") from error


def _as_dict(value: object) -> dict[Any, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a {type(value).__name__} has no form in JSON")
