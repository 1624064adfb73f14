"""Scripted providers behind the real router, runner and executors, on a clock that a test moves."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from attune.models.adaptive_routing import AdaptiveModelRouter
from attune.models.attempt_runner import AttemptRunner
from attune.models.candidate import Candidate
from attune.models.circuit_breaker import CircuitState
from attune.models.failure_domains import BreakerLimits, FailureDomains
from attune.models.prices import PriceSchedule
from attune.models.registry import ModelInfo, ModelRegistry, ModelTier
from attune.models.request import LLMRequest
from attune.models.resilient_executor import ResilientExecutor
from attune.testing import FakeClock, FakeProvider

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from attune.models.state import Fact
    from attune.models.telemetry import DecisionRecord, LLMCallRecord

ASK = LLMRequest.from_prompt("hi", max_output_tokens=100)
STREAM = LLMRequest.from_prompt("hi", max_output_tokens=100, stream=True)
PRICES = PriceSchedule.flat(1, 5)
"""One dollar per million tokens in, five out: the fakes' 10 + 5 tokens cost 35,000 nano-dollars."""

COST = 35_000


def a_model(
    label: str,
    tier: ModelTier = ModelTier.CAPABLE,
    *,
    window: int = 100_000,
    prices: PriceSchedule | None = PRICES,
) -> ModelInfo:
    """The model "provider/id"."""
    provider, model_id = label.split("/")
    return ModelInfo(model_id, provider, tier, window, 4000, prices=prices)


def the_candidate(label: str, credential: str = "api_key") -> Candidate:
    """The candidate of "provider/id"."""
    return Candidate(*label.split("/"), credential)


class Fleet:
    """Models, a ``FakeProvider`` for each (provider, credential), and everything between them and a call.

    Models are preferred in the order given. ``scripts`` are by provider, or by "provider#credential".
    """

    def __init__(
        self,
        *models: ModelInfo | str,
        scripts: Mapping[str, Iterable[object]] | None = None,
        credentials: Mapping[str, Sequence[str]] | None = None,
        breaker: BreakerLimits = BreakerLimits(),  # noqa: B008
        seed: int = 7,
        spend_cap=None,
        overflow_cap=None,
        strategy=None,
        clock: FakeClock | None = None,
        **executor_options,
    ) -> None:
        self.clock = FakeClock() if clock is None else clock
        self.models = [a_model(each) if isinstance(each, str) else each for each in models]
        names = dict.fromkeys(each.provider for each in self.models)
        pays = dict.fromkeys(names, ("api_key",)) | dict(credentials or {})
        scripts = scripts or {}
        self.providers = {
            (name, credential): FakeProvider(
                name,
                scripts.get(f"{name}#{credential}", scripts.get(name, ())),
                credential=credential,
                sleep=self.clock.sleep,
            )
            for name in names
            for credential in pays[name]
        }
        self.records: list[LLMCallRecord] = []
        self.decisions: list[DecisionRecord] = []
        self.facts: list[Fact] = []
        self.steps: list[str] = []
        self.domains = FailureDomains(breaker, clock=self.clock, publish=self.facts.append)
        self.router = AdaptiveModelRouter(
            ModelRegistry(self.models),
            credentials=pays,
            availability=self.domains,
            clock=self.clock,
            strategy=strategy,
        )
        self.runner = AttemptRunner(
            self.providers.values(),
            domains=self.domains,
            clock=self.clock,
            record=self.observe,
            spend_cap=spend_cap,
            overflow_cap=overflow_cap,
            rng=Random(seed),
        )
        self.executor = ResilientExecutor(
            self.router,
            self.runner,
            record_decision=self.decisions.append,
            on_step=self.steps.append,
            rng=Random(seed),
            **executor_options,
        )

    def __getitem__(self, name: str) -> FakeProvider:
        """The provider "name", or "name#credential"."""
        provider, _, credential = name.partition("#")
        return self.providers[provider, credential or "api_key"]

    def observe(self, record: LLMCallRecord) -> None:
        self.records.append(record)
        self.router.observe(record)

    @property
    def seen(self) -> list[str]:
        """The models that the upstreams saw, in the order of their attempts: what really happened."""
        return [f"{r.provider}/{r.model_id}" for r in self.records]

    @property
    def asked(self) -> int:
        """Requests that reached an upstream."""
        return sum(len(each.received) for each in self.providers.values())

    def trip(self, label: str) -> None:
        """Open the circuit of a "provider/id", or of a "provider"."""
        self.domains._breaker(label).hold_open(self.clock.monotonic() + 60)

    def nothing_is_taken(self) -> bool:
        """No probe is out and no request is open."""
        probes = sum(snapshot.probes for snapshot in self.domains.snapshot())
        return probes == 0 and all(each.in_flight == 0 for each in self.providers.values())

    def state(self, domain: str) -> CircuitState:
        """The state of a breaker; closed if there is none yet."""
        found = {snapshot.name: snapshot.state for snapshot in self.domains.snapshot()}
        return found.get(domain, CircuitState.CLOSED)
