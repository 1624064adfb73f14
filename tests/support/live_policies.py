"""A program whose router draws, and learns what its answers were worth."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from attune.models.telemetry import Outcome
from support.routing import Program, an_attempt

if TYPE_CHECKING:
    from collections.abc import Mapping

    from attune.models.registry import ModelInfo
    from attune.models.route_decision import RouteDecision


class DrawingProgram(Program):
    """A ``Program`` with a policy that draws. ``quality`` has the share of good answers of each model."""

    def __init__(
        self,
        *models: ModelInfo,
        policy: str = "guarded",
        quality: Mapping[str, float] | None = None,
        **options,
    ) -> None:
        super().__init__(*models, policy=policy, rng=Random(0), **options)
        self.quality = quality or {}
        self.calls = 0
        self._answers = Random(1)

    def call(self, *, judged: bool = True, **options) -> RouteDecision:
        """Decide a call, make it, and (unless told otherwise) judge its answer."""
        decision = self.decide(**options)
        self.calls += 1
        call_id = f"call{self.calls}"
        record = an_attempt(
            decision.candidate.label,
            at=self.clock.time(),
            task=options.get("task_type") or "",
            call_id=call_id,
        )
        if decision.drawn is not None:  # as ``Call`` does
            self.router.steering.begun(decision.drawn, call_id, self.clock.time())
        self.observe(record)
        if judged:
            good = self._answers.random() < self.quality.get(decision.candidate.label, 0.9)
            self.judge(decision, record, good)
        return decision

    def judge(self, decision, record, good: bool, previous: Outcome | None = None) -> None:
        """Say what an answer was worth."""
        outcome = Outcome(record.call_id, self.clock.time(), good, None, record.attempt_id)
        self.router.correct(record, previous=previous, outcome=outcome, decided=decision.decided)

    def shares(self, calls: int, **options) -> dict[str, float]:
        """The share of each model in the next calls."""
        chosen = [self.call(**options).candidate.label for _ in range(calls)]
        return {label: chosen.count(label) / calls for label in dict.fromkeys(chosen)}
