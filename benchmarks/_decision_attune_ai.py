"""Worker of ``decision.py``, run by attune-ai's own interpreter. Arguments: the sizes of the history.

Its router reads the newest 10,000 entries of the telemetry files, and keeps them for five seconds;
that default stays. Its log lines are switched off: writing them is not part of a decision.
"""

from __future__ import annotations

import logging
import random
import sys
import tempfile
from pathlib import Path

import _rounds
import structlog
from attune.telemetry import UsageTracker

from attune.models import AdaptiveModelRouter

structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


class Router:
    """A router over telemetry files that hold ``history`` entries."""

    what = "get_best_model"

    def __init__(self, history: int, folder: Path) -> None:
        self.history = history
        self.tracker = UsageTracker(telemetry_dir=folder)
        self.router = AdaptiveModelRouter(self.tracker)
        self.chance = random.Random(7)
        for n in range(history):
            self.track(n)
        self.tracker.flush()

    def track(self, n: int) -> None:
        self.tracker.track_llm_call(
            workflow="code-review",
            stage=f"stage-{n % _rounds.STAGES}",
            tier="CAPABLE",
            model=f"model-{self.chance.randrange(_rounds.MODELS)}",
            provider="anthropic",
            cost=0.0064,
            tokens={"input": 1200, "output": 400},
            cache_hit=False,
            cache_type=None,
            duration_ms=int(self.chance.lognormvariate(7, 0.5)),
        )

    def prepare(self, call: int) -> None:
        """Nothing: its clock is the machine's."""

    def decide(self, call: int) -> object:
        return self.router.get_best_model("code-review", f"stage-{call % _rounds.STAGES}")

    def observe(self, call: int) -> object:
        return self.track(call)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as home:
        _rounds.run([Router(int(size), Path(home) / size) for size in sys.argv[1:]])
