"""How a request is refused, in the shape of its client's protocol."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

from attune.accounts import AccountError
from attune.errors import AllProvidersFailedError
from attune.gateway.http import HTTPError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from attune.errors import AttuneError
    from attune.wire.door_errors import ErrorAnswer
    from attune.wire.doors import Door

__all__ = ["in_one_time", "refusal"]


def refusal(
    door: Door,
    error: AttuneError,
    *,
    now: float,
    call_id: str = "",
    speaks: Mapping[str, tuple[str, ...]] | None = None,
) -> ErrorAnswer:
    """The answer that refuses a request, in the shape of the door's protocol."""
    status = error.status if isinstance(error, AccountError | HTTPError) else None
    answer = door.error(in_one_time(error, now), now=now, status=status, call_id=call_id, speaks=speaks or {})
    if isinstance(error, HTTPError):
        headers = {**answer.headers, **error.headers}
        if error.status == 408 or "retry-after" in error.headers:
            headers.pop("x-should-retry", None)
        return answer._replace(headers=headers)
    if isinstance(error, AccountError) and error.retry_after is not None:
        return answer._replace(headers={"retry-after": str(max(1, ceil(error.retry_after)))})
    return answer


def in_one_time(error: AttuneError, now: float) -> AttuneError:
    """The error with the time that it tells, if it tells one, as ``retry-after`` has it."""
    if not isinstance(error, AllProvidersFailedError) or error.retry_at is None or error.retry_after is None:
        return error
    message = f"{error.sentence}; try again in {max(1, ceil(error.retry_at - now))} s"
    return AllProvidersFailedError(message, attempts=error.attempts, retry_at=error.retry_at)
