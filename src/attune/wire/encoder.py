"""What the encoders of all protocols share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from attune.errors import CallerError

if TYPE_CHECKING:
    from attune.wire.errors import ErrorMapper

__all__ = ["effort", "to_json"]

_EFFORT_LIMITS = ((1024, "low"), (8192, "medium"))


def effort(thinking_tokens: int) -> str:
    """The effort level for a thinking budget, for models that take a level and no budget.

    Up to 1,024 tokens ``low``, up to 8,192 ``medium``, above ``high``: the equivalence that
    Google documents for its OpenAI endpoint.
    """
    return next((level for limit, level in _EFFORT_LIMITS if thinking_tokens <= limit), "high")


def to_json(body: dict[str, Any], errors: ErrorMapper) -> bytes:
    """``body`` as JSON. Raises ``CallerError`` for what JSON cannot say, such as in ``extra``."""
    try:
        return msgspec.json.encode(body, enc_hook=_as_dict)
    except (TypeError, ValueError, RecursionError) as error:
        raise errors.raised(CallerError, f"the request cannot be written as JSON: {error}") from error


def _as_dict(value: object) -> dict[Any, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a {type(value).__name__} has no form in JSON")
