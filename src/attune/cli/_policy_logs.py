"""The ledger's calls as an estimate takes them: a choice, and all that it led to, at today's prices."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attune.models.estimators import LoggedCall
from attune.models.prices import cost_nanos
from attune.models.request import UNDERESTIMATED
from attune.models.telemetry import NANOS_PER_USD, TokenUsage

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from attune.cli._policy_file import PastPolicy
    from attune.models.registry import ModelRegistry
    from attune.models.telemetry import DecisionRecord, LLMCallRecord
    from attune.stores._chains import CallChain
    from attune.stores.sqlite import SqliteReader

__all__ = ["LoggedCalls"]


class LoggedCalls:
    """The calls of ``since <= at < until`` that were decided and made, read anew by each iteration.

    Credentials of one model are one choice: a policy chooses the model, and what pays stays as it was. A
    session is a workflow run; a call without one is a run of its own. ``without_attempts``, ``labelled`` and
    ``priced_as_then`` count the calls of the last iteration that were left out for want of an attempt, that
    an outcome was told of, and with an attempt whose model has no price today.
    """

    def __init__(
        self,
        ledger: SqliteReader,
        span: tuple[float, float],
        registry: ModelRegistry,
        current: PastPolicy,
        target: PastPolicy,
    ) -> None:
        self._ledger = ledger
        self._since, self._until = span
        self._models = {model.label: model for model in registry.models}
        self._current, self._target = current, target
        self.without_attempts = self.labelled = self.priced_as_then = 0

    def __iter__(self) -> Iterator[LoggedCall]:
        self.without_attempts = self.labelled = self.priced_as_then = 0
        for chain in self._ledger.chains(self._since, self._until):
            if chain.attempts and chain.decision.ranked:
                yield self._logged(chain)
            else:
                self.without_attempts += 1

    def _logged(self, chain: CallChain) -> LoggedCall:
        decision, attempts, outcome = chain.decision, chain.attempts, chain.outcome
        models: dict[str, float] = {}
        for candidate in decision.ranked:
            label = f"{candidate.provider}/{candidate.model_id}"
            models[label] = models.get(label, 0.0) + candidate.propensity
        self.labelled += outcome is not None
        session = attempts[0].session_id
        return LoggedCall(
            key=(decision.workflow, decision.stage, decision.task_type),
            run=f"{decision.workflow}\0{session}" if session else decision.call_id,
            models=tuple(models),
            logged=tuple(models.values()),
            current=self._current.probabilities(decision, models),
            target=self._target.probabilities(decision, models),
            chosen=0,  # what was drawn stands first
            success=float(chain.succeeded),
            cost=self._cost(attempts),
            most=self._most(decision, attempts, models),
        )

    def _cost(self, attempts: tuple[LLMCallRecord, ...]) -> float | None:
        """USD of all attempts today; ``None`` if that of any is unknown."""
        nanos, as_then = 0, False
        for attempt in attempts:
            model = self._models.get(f"{attempt.provider}/{attempt.model_id}")
            if attempt.usage is not None and model is not None and model.prices is not None:
                nanos += cost_nanos(attempt.usage, model.prices, self._until)
            elif attempt.cost_nanos is None:
                return None
            else:
                nanos += attempt.cost_nanos
                as_then |= attempt.cost_nanos > 0
        self.priced_as_then += as_then
        return nanos / NANOS_PER_USD

    def _most(
        self, decision: DecisionRecord, attempts: tuple[LLMCallRecord, ...], models: Mapping[str, float]
    ) -> float | None:
        """USD of the longest answer of the dearest eligible model, since any may end up answering."""
        features = dict(decision.features)
        used = max((each.usage.input_tokens for each in attempts if each.usage), default=0)
        tokens_in = int(UNDERESTIMATED * max(used, int(features.get("input_tokens", 0))))
        limit = int(features.get("max_output_tokens", 0))
        dearest = 0
        for label in models:
            model = self._models.get(label)
            if not tokens_in or model is None or model.prices is None:
                return None
            longest = TokenUsage(tokens_in, min(limit or model.max_output_tokens, model.max_output_tokens))
            dearest = max(dearest, cost_nanos(longest, model.prices, self._until))
        return dearest / NANOS_PER_USD
