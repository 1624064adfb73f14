"""What the fields of a call may hold: an error in one clear line for what makes no sense."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING

from attune.errors import InvalidRequestError
from attune.models.policy_names import check_policy

if TYPE_CHECKING:
    from attune.models.request import ExecutionContext
    from attune.models.route_request import RouteRequest

__all__ = [
    "MAX_NAME_CHARS",
    "check_call",
    "check_name",
    "check_number",
    "check_providers",
    "check_success_rate",
]

MAX_NAME_CHARS = 200
"""The longest name of a workflow, stage, task ...: telemetry is kept by them."""


def check_providers(names: object, field: str = "allow_providers") -> None:
    """Raise ``InvalidRequestError`` unless ``names`` is ``None`` or a frozenset.

    A plain text would match every provider whose name is a part of it.
    """
    if names is not None and not isinstance(names, frozenset):
        raise InvalidRequestError(f"{field} must be a frozenset of names, not {names!r}")


def check_success_rate(rate: float | None) -> None:
    """Raise ``InvalidRequestError`` unless ``rate`` is ``None`` or within 0..1."""
    if rate is not None and not 0.0 <= rate <= 1.0:
        raise InvalidRequestError(f"min_success_rate must be between 0 and 1, not {rate!r}")


def check_call(call: ExecutionContext | RouteRequest) -> None:
    """Raise ``InvalidRequestError`` for a name or a number that makes no sense."""
    if call.policy is not None:
        check_policy(call.policy)
    check_name("workflow", call.workflow)
    check_name("stage", call.stage)
    for name in ("task_type", "tier", "model"):
        value = getattr(call, name)
        if value:
            check_name(name, value)
    if call.max_cost is not None:
        check_number("max_cost", call.max_cost)
    if call.max_latency_ms is not None:
        check_number("max_latency_ms", call.max_latency_ms, above_zero=True)
    check_success_rate(call.min_success_rate)
    check_providers(call.allow_providers)
    check_providers(call.allow_models, "allow_models")


def check_name(field: str, name: str) -> None:
    """Raise ``InvalidRequestError`` unless ``name`` may be stored, and is 1 to ``MAX_NAME_CHARS`` long."""
    if type(name) is str and 0 < len(name) <= MAX_NAME_CHARS and name.isascii():
        return
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME_CHARS or not _storable(name):
        raise InvalidRequestError(
            f"{field} must be a text of 1 to {MAX_NAME_CHARS} characters, not {str(name)[:40]!r}"
        )


def _storable(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_number(field: str, value: float | None, *, above_zero: bool = False) -> None:
    """Raise ``InvalidRequestError`` unless ``value`` is ``None`` or a finite number, 0 or more."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise InvalidRequestError(f"{field} must be a number, not {value!r}")
    if above_zero and value <= 0:
        raise InvalidRequestError(f"{field} must be above 0, not {value!r}")
    if value < 0:
        raise InvalidRequestError(f"{field} must not be negative, not {value!r}")
