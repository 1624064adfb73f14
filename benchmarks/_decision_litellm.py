"""Worker of ``decision.py``, run by LiteLLM's own interpreter. Arguments: the sizes of the history.

The decision is ``Router.get_available_deployment`` (its synchronous door, the faster one) over ten
deployments. The default strategy, a shuffle, looks at no history; the latency-based one remembers the
last ten latencies of each deployment, whatever the stage.
"""

from __future__ import annotations

import random
import sys
from datetime import UTC, datetime, timedelta

import _rounds
import litellm

MESSAGES = [{"role": "user", "content": "hello"}]
ANSWER = litellm.ModelResponse(
    usage=litellm.Usage(prompt_tokens=1200, completion_tokens=400, total_tokens=1600)
)


class Router:
    """LiteLLM's router with one strategy, fed ``history`` answers."""

    def __init__(self, strategy: str, history: int) -> None:
        self.what = f"deployment, {strategy}"
        self.history = history
        self.chance = random.Random(7)
        self.router = litellm.Router(
            model_list=[
                {
                    "model_name": "capable",
                    "litellm_params": {"model": f"openai/model-{n}", "api_key": "unused"},
                    "model_info": {"id": f"deployment-{n}"},
                }
                for n in range(_rounds.MODELS)
            ],
            routing_strategy=strategy,
        )
        self.learns = self.router.lowestlatency_logger if strategy == "latency-based-routing" else None
        for n in range(history):
            self.observe(n)

    def prepare(self, call: int) -> None:
        """Nothing: its clock is the machine's."""

    def decide(self, call: int) -> object:
        return self.router.get_available_deployment("capable", messages=MESSAGES, request_kwargs={})

    def observe(self, call: int) -> object:
        if self.learns is None:
            return None
        call_info = {
            "metadata": {"model_group": "capable"},
            "model_info": {"id": f"deployment-{self.chance.randrange(_rounds.MODELS)}"},
        }
        end = datetime.now(UTC)
        start = end - timedelta(milliseconds=self.chance.lognormvariate(7, 0.5))
        return self.learns.log_success_event({"litellm_params": call_info}, ANSWER, start, end)


if __name__ == "__main__":
    largest = max(int(size) for size in sys.argv[1:])
    _rounds.run([Router("simple-shuffle", 0), Router("latency-based-routing", largest)])
