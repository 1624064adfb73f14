"""What the validator of one call says of its answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attune.models.empathy_executor import response_of
from attune.models.telemetry import Outcome
from attune.models.validation import Validator, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from attune.clock import Clock
    from attune.models.attempt import Attempt
    from attune.models.telemetry import Decided, LLMCallRecord
    from attune.models.validation import Validate

__all__ = ["Judge"]


class Judge:
    """The verdicts of ``validate`` on the answers of one call, each recorded as the outcome of its attempt.

    ``record`` is called with the attempt's record, the outcome, and what decided the call.
    """

    def __init__(
        self,
        validate: Validate | None,
        record: Callable[[LLMCallRecord, Outcome, Decided], None] | None,
        clock: Clock,
    ) -> None:
        self._validator = None if validate is None else Validator(validate)
        self._record = record
        self._clock = clock
        self._heard: dict[int, Verdict | str] = {}

    async def hear(self, attempt: Attempt, within_s: float, decided: Decided) -> str:
        """Get the verdict on a complete answer, if there is a validator; returns why there is none."""
        record = attempt.record
        if self._validator is None or record is None:
            return ""
        heard = await self._validator.judge(response_of(attempt), within_s)
        self._heard[record.position] = heard
        if isinstance(heard, str):
            return heard
        if self._record is not None:
            at = self._clock.time()
            said = (heard.success, heard.score, record.attempt_id)
            self._record(record, Outcome(record.call_id, at, *said, source="validator"), decided)
        return ""

    def verdict_of(self, attempt: Attempt) -> Verdict | None:
        """The verdict on an answer; ``None`` when there is none."""
        heard = self._heard.get(attempt.spec.position)
        return heard if isinstance(heard, Verdict) else None

    def error_of(self, attempt: Attempt) -> str:
        """Why there is no verdict on an answer; empty when there is one, or no validator."""
        heard = self._heard.get(attempt.spec.position)
        return heard if isinstance(heard, str) else ""

    def worth(self, attempt: Attempt) -> tuple[bool, bool, float]:
        """What makes an answer better than another of its call: it is whole, did not fail its validation, and
        has the higher score. The ledger finds the answer that a call returned by the same order.
        """
        verdict = self.verdict_of(attempt)
        whole = attempt.record is not None and attempt.record.success
        return (whole, True, 0.0) if verdict is None else (whole, verdict.success, verdict.score)
