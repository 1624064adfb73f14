"""What a call says of what stood in its way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attune.errors import AllProvidersFailedError, BudgetExhaustedError, CircuitOpenError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attune.errors import AttuneError
    from attune.models.candidate import Candidate
    from attune.models.telemetry import ScoredCandidate

__all__ = ["all_failed", "joined", "named", "too_dear"]


def all_failed(
    why: str, errors: Sequence[AttuneError], made: int, *, now: float, wait_s: float | None
) -> AllProvidersFailedError:
    """The error of a call whose candidates are at their end, after ``made`` attempts, for the reason ``why``.

    ``now`` is UTC epoch seconds, ``wait_s`` the seconds until a candidate may be tried. Where circuits are
    open that is told, once: each has a time of its own.
    """
    causes = "; ".join(dict.fromkeys(_cause(error) for error in errors))
    opens = any(isinstance(error, CircuitOpenError) for error in errors)
    error = AllProvidersFailedError(
        f"no candidate could answer ({made} attempt{'' if made == 1 else 's'}, {why}): {causes}",
        attempts=errors,
        retry_at=None if wait_s is None else now + wait_s,
        retry_after=wait_s if opens else None,
    )
    error.__cause__ = errors[-1] if errors else None
    return error


def _cause(error: AttuneError) -> str:
    return f"circuit of {error.domain} is open" if isinstance(error, CircuitOpenError) else str(error)


def joined(errors: Sequence[AttuneError]) -> BudgetExhaustedError:
    """One error for dollars that were enough for no candidate."""
    if len(errors) == 1 and isinstance(errors[0], BudgetExhaustedError):
        return errors[0]
    limits = [error.limit for error in errors if isinstance(error, BudgetExhaustedError)]
    return BudgetExhaustedError(limits[-1], "; ".join(dict.fromkeys(str(error) for error in errors)))


def named(candidate: Candidate, error: AttuneError) -> str:
    """The error's message, with the candidate in front unless it names it itself."""
    message = str(error)
    return message if message.startswith(candidate.label) else f"{candidate}: {message}"


def too_dear(candidate: Candidate, scored: ScoredCandidate, budget_usd: float | None) -> BudgetExhaustedError:
    """The error of a candidate that the rest of a call's ``budget_usd`` does not pay for, as predicted."""
    if scored.predicted_cost_usd is None:
        message = f"the price of {candidate} is unknown, so it cannot be held to ${budget_usd:g}"
    else:
        message = f"{candidate} would pass the call's budget of ${budget_usd:g}"
    return BudgetExhaustedError("cost", message)
