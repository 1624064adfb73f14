"""What a call says of what stood in its way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attune.errors import (
    AllProvidersFailedError,
    BudgetExhaustedError,
    CircuitOpenError,
    ErrorClass,
    WindowSpentError,
)
from attune.models.moments import moment
from attune.models.overflow import Overflow
from attune.models.spending import OVERFLOW

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attune.errors import AttuneError
    from attune.models.candidate import Candidate, Refusal
    from attune.models.overflow import OverflowRule
    from attune.models.telemetry import ScoredCandidate

__all__ = ["all_failed", "billed_beside", "named", "out_of_dollars", "too_dear", "unpaid"]


def all_failed(
    why: str, errors: Sequence[AttuneError], made: int, *, now: float, wait_s: float | None
) -> AllProvidersFailedError:
    """The error of a call whose candidates are at their end, after ``made`` attempts, for the reason ``why``.

    ``now`` is UTC epoch seconds, ``wait_s`` the seconds until a candidate may be tried. Where circuits are
    open that is told, once: each has a time of its own.
    """
    causes = "; ".join(dict.fromkeys(_timed(error, now) for error in errors))
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


def _timed(error: AttuneError, now: float) -> str:
    """The cause; of a window that is used up with the end of that, which a refusal of our own has already."""
    cause = _cause(error)
    if isinstance(error, WindowSpentError) and error.retry_after is not None and "UTC" not in cause:
        cause += f", until {moment(now + error.retry_after, now)}"
    return cause


def unpaid(
    why: Refusal,
    windows: Sequence[str],
    rule: OverflowRule,
    errors: Sequence[AttuneError],
    others: Sequence[AttuneError],
    back_at: float,
    *,
    keeps_out: bool,
) -> AllProvidersFailedError:
    """The error of a call whose plan cannot pay until ``back_at`` (UTC epoch seconds), where nobody else
    answers; ``keeps_out`` says whether the ``rule`` keeps somebody out.

    ``why`` is the plan's refusal, ``windows`` the names of those that are spent. Of the ``errors``, at least
    one, ``others`` are not the plan's.
    """
    told = [why.told + (f" ({', '.join(windows)})" if windows else "")]
    if rule.then is Overflow.WAIT and why.error_class is ErrorClass.WINDOW_SPENT:
        told.append("beyond the call's deadline (`[call] deadline_seconds`, `deadline_s=`)")
    told += [rule.remedy] if keeps_out else []
    told += dict.fromkeys(map(_cause, others))
    error = AllProvidersFailedError("; ".join(told), attempts=errors, retry_at=back_at)
    error.__cause__ = errors[-1]
    return error


def out_of_dollars(
    errors: Sequence[AttuneError], made: int, why: Refusal | None
) -> BudgetExhaustedError | None:
    """The error of a call whose dollars were enough for no candidate, after ``made`` attempts; ``None`` if
    something else stood in its way. ``errors`` are without those of a plan that cannot pay, which is told by
    ``why``.

    Of the overflow cap the last error stands for all.
    """
    dollars = [each for each in errors if isinstance(each, BudgetExhaustedError)]
    if not dollars or len(dollars) < len(errors) or (made and why is None):
        return None
    if len(dollars) == 1 and why is None:
        return dollars[0]
    causes = {each.limit if each.limit.startswith(OVERFLOW.limit) else str(each): each for each in dollars}
    told = [*map(str, causes.values()), *([] if why is None else [why.told])]
    return BudgetExhaustedError(dollars[-1].limit, "; ".join(told))


def billed_beside(candidate: Candidate, off: Refusal | None) -> str:
    """What is said of an answer that credits paid beside its plan; ``off`` is how that now stands."""
    until = "" if off is None else f"; {off.told}"
    return (
        f"{candidate}: credits were billed beside the plan, so what the call cost is unknown{until}; "
        "to rule that out, turn extra usage off in the plan's settings"
    )


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
