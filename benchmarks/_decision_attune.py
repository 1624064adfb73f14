"""Worker of ``decision.py``: attune's own router. Arguments: the sizes of the history."""

from __future__ import annotations

import random
import sys
from dataclasses import replace

import _rounds

from attune.models.adaptive_routing import AdaptiveModelRouter
from attune.models.registry import ModelRegistry
from attune.models.route_request import RouteRequest
from attune.models.telemetry import CostStatus, Decided, LLMCallRecord, Outcome, TokenUsage
from attune.testing import FakeClock

WEEK_SECONDS = 7 * 86_400


def registry() -> ModelRegistry:
    """Ten capable models at three providers, with the prices of a real one."""
    real = ModelRegistry.default().get_model("anthropic", "capable")
    return ModelRegistry(
        real._replace(id=f"model-{n}", provider=f"provider-{n % 3}") for n in range(_rounds.MODELS)
    )


class Router:
    """A router that has seen ``history`` records, spread evenly over the window."""

    def __init__(self, history: int, *, with_record: bool = False, policy: str = "best") -> None:
        self.history = history
        self.with_record = with_record
        self.what = "decide, with the ledger's record of it" if with_record else "decide"
        self.models = registry().models
        self.clock = FakeClock()
        self.router = AdaptiveModelRouter(registry(), clock=self.clock, policy=policy)
        self.chance = random.Random(7)
        now = self.clock.time()
        for n in range(history):
            age = WEEK_SECONDS * 0.9 * (1 - n / history)
            self.see(n, self.record(n, now - age))

    def see(self, n: int, record: LLMCallRecord) -> None:
        self.router.observe(record)

    def record(self, n: int, at: float) -> LLMCallRecord:
        """An attempt of stage ``n % STAGES`` at a random model; one in twenty fails."""
        model = self.models[self.chance.randrange(len(self.models))]
        return LLMCallRecord(
            call_id=f"call-{n}",
            attempt_id=f"attempt-{n}",
            decision_id=f"decision-{n}",
            at=at,
            workflow="code-review",
            stage=f"stage-{n % _rounds.STAGES}",
            task_type="",
            provider=model.provider,
            model_id=model.id,
            tier=model.tier,
            credential="api_key",
            success=self.chance.random() > 0.05,
            latency_ms=self.chance.lognormvariate(7, 0.5),
            usage=TokenUsage(1200, 400),
            cost_nanos=6_400_000,
            cost_status=CostStatus.EXACT,
        )

    def prepare(self, call: int) -> None:
        self.clock.advance(0.25)
        self.next_record = self.record(call, self.clock.time())
        self.next_request = RouteRequest(workflow="code-review", stage=f"stage-{call % _rounds.STAGES}")

    def decide(self, call: int) -> object:
        decision = self.router.decide(self.next_request)
        if self.with_record:
            return decision.record(decision_id="d", call_id="c", at=0.0)
        return decision.model

    def observe(self, call: int) -> object:
        return self.router.observe(self.next_record)


class Cached(Router):
    """A router that has seen a prompt cache at every key and candidate."""

    def __init__(self, history: int) -> None:
        super().__init__(history)
        self.what = "decide, prompts cached"

    def record(self, n: int, at: float) -> LLMCallRecord:
        return super().record(n, at)._replace(usage=TokenUsage(1200, 400, 1000, 100))


class Judged(Router):
    """A router that draws, and was told what one answer in ten was worth."""

    def __init__(self, history: int, policy: str, prompt: str = "") -> None:
        self.prompt, self.drawn_by = prompt, policy
        super().__init__(history, policy=policy)
        self.what = f"decide by {policy}, judged{', with a prompt' if prompt else ''}"

    def see(self, n: int, record: LLMCallRecord) -> None:
        super().see(n, record)
        if n % 10 == 0:
            outcome = Outcome(record.call_id, record.at, self.chance.random() < 0.9)
            decided = Decided(f"{self.drawn_by}/1", self.models[0].label)
            self.router.correct(record, previous=None, outcome=outcome, decided=decided)

    def prepare(self, call: int) -> None:
        super().prepare(call)
        self.next_request = replace(self.next_request, prompt=self.prompt)


PROMPT = "How many primes lie below 100? Give the number alone. " * 12

if __name__ == "__main__":
    sizes = [int(size) for size in sys.argv[1:]]
    _rounds.run(
        [
            *(Router(size) for size in sizes),
            Router(sizes[0], with_record=True),
            Cached(sizes[-1]),
            *(Judged(sizes[-1], policy) for policy in ("guarded", "thompson")),
            Judged(sizes[-1], "guarded", PROMPT),
        ]
    )
