"""The router: which candidate should serve a call, from this program's own telemetry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attune.clock import SYSTEM_CLOCK
from attune.models.call_checks import check_providers
from attune.models.eligibility import Eligibility, nothing_fits, shown_below, too_dear, unknown_task
from attune.models.option import REFUSED, Option
from attune.models.overflow import OverflowRule
from attune.models.payment import NOTHING_PREPAID, Payment
from attune.models.performance import PRIOR_COST_USD, ModelPerformance, quality
from attune.models.pool import Pool, roomy_first
from attune.models.prepaid import Prepaid
from attune.models.prompt_cache import PromptCaches
from attune.models.ranking import Situation, ranked_by_score
from attune.models.registry import ModelRegistry, ModelTier
from attune.models.route_decision import RouteDecision, TierUpgrade
from attune.models.route_request import DEFAULT_MIN_SUCCESS_RATE, RouteRequest
from attune.models.routing_stats import RoutingStats, routing_stats
from attune.models.steering import Steering, path_of
from attune.models.tasks import REALTIME_REQUIRED_TASKS, TASK_TIER_MAP, normalize_task
from attune.models.telemetry import Decided
from attune.models.tier_movement import RANKS, chosen_tier, positions, upgrade_of
from attune.models.windows import DEFAULT_WINDOW_DAYS, PerformanceStats

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from random import Random

    from attune.clock import Clock
    from attune.models.auth_strategy import AuthStrategy
    from attune.models.candidate import Availability
    from attune.models.cells import Level
    from attune.models.credits import Grant
    from attune.models.option import Drop, Scored
    from attune.models.policies import Allowance, LivePolicy
    from attune.models.prompt_cache import CacheView
    from attune.models.registry import ModelInfo
    from attune.models.state import RollupRow
    from attune.models.steering import Draw
    from attune.models.telemetry import LLMCallRecord, Outcome

__all__ = ["AdaptiveModelRouter", "RouteDecision", "TierUpgrade"]

_TIERS = tuple(ModelTier)


class AdaptiveModelRouter:
    """Chooses the candidate for a call from live telemetry over a window.

    ``registry`` is the catalog (the built-in one by default); ``credentials`` maps each enrolled
    provider to the names of its credentials in order of preference (by default every provider of the
    registry with one ``api_key``, and ``none`` for local models). ``availability`` says what is
    tripped, off or cooling down. ``window_days`` is the span of telemetry that counts, 7 by default.
    ``allow_providers`` maps a workflow to the providers that it may use; ``"*"`` is everyone's.
    ``local_only`` allows only models on the user's own machine, whatever a request says.

    ``policy`` is one of ``POLICIES`` and decides unless a request names another: "best" (by the score) unless
    told otherwise. ``explore`` false lets none of them draw anything but what it believes to be best. What
    the policies "guarded" and "budget" need is ``margin`` (0.05 by default) and ``budget``. ``rng`` draws.
    ``strategy`` says when prepaid quota pays; see ``Payment``. ``prepaid`` is told what is left of it.
    ``grants`` are the credits of API keys, by provider and credential.

    ``decide`` and ``observe`` take the same time however much telemetry there is. One event loop
    or thread owns a router.
    """

    def __init__(
        self,
        registry: ModelRegistry | None = None,
        *,
        credentials: Mapping[str, Sequence[str]] | None = None,
        availability: Availability | None = None,
        clock: Clock = SYSTEM_CLOCK,
        window_days: int = DEFAULT_WINDOW_DAYS,
        allow_providers: Mapping[str, frozenset[str]] | None = None,
        local_only: bool = False,
        policy: str = "best",
        explore: bool = True,
        margin: float | None = None,
        budget: Allowance | None = None,
        rng: Random | None = None,
        strategy: AuthStrategy | None = None,
        grants: Mapping[tuple[str, str], Grant] | None = None,
    ) -> None:
        self.registry = ModelRegistry.default() if registry is None else registry
        self.stats = PerformanceStats(window_days=window_days)
        self.caches = PromptCaches()
        self._availability = availability
        self._clock = clock
        allowed = dict(allow_providers or {})
        for names in allowed.values():
            check_providers(names)
        preferred = [model for tier in _TIERS for model in self.registry.in_tier(tier)]
        self._options = self._enrol(credentials, preferred)
        self._smallest_window = min((option.window for option in self._options), default=0)
        listed = {model.label for model in preferred}
        self._eligibility = Eligibility(
            self._options, listed, self.registry.find, allowed, local_only=local_only
        )
        self._reprice_at = float("-inf")
        self.prepaid = Prepaid(clock.time(), grants)
        plans = [option.candidate for option in self._options if option.listed is not None]
        for candidate in plans:
            self.prepaid.enrol(candidate)
        self._payment = Payment(self.prepaid, strategy, availability) if plans or grants else None
        ranks = {option.label: option.rank for option in self._options}
        self.steering = Steering(policy, explore=explore, margin=margin, budget=budget, ranks=ranks, rng=rng)

    @property
    def overflow_rule(self) -> OverflowRule:
        """What happens to calls whose prepaid quota is used up."""
        return OverflowRule() if self._payment is None else self._payment.overflow_rule

    # -- feeding ---------------------------------------------------------------------------------

    def observe(self, record: LLMCallRecord) -> None:
        """Learn from one attempt."""
        self.stats.observe(record)
        self.caches.observe(record)
        if self._payment is not None and self.prepaid.ended(record) and record.cost_nanos:
            record = record._replace(cost_nanos=None)  # a budget is charged what its credits are worth
        self.steering.observe(record)

    def correct(
        self,
        record: LLMCallRecord,
        *,
        previous: Outcome | None,
        outcome: Outcome,
        decided: Decided = Decided(),  # noqa: B008  (an immutable value)
    ) -> None:
        """Learn what became known of the answer of an attempt, once; see ``PerformanceStats.correct``.

        ``decided`` says what decided the attempt's call.
        """
        self.stats.correct(record, previous=previous, outcome=outcome)
        if record.success:
            before = None if previous is None else previous.label
            self.steering.judge(record, outcome.label, before, decided)

    def begun(self, decision: RouteDecision, call_id: str, at: float) -> None:
        """Take in that a call was decided, at UTC epoch seconds: who draws for it has done so, and prepaid
        quota was wanted for it, whoever pays.
        """
        if decision.drawn is not None:
            self.steering.begun(decision.drawn, call_id, at)
        if self._payment is not None:
            self._payment.begun(decision, call_id, at)
        if decision.request.session_id and decision.request.input_tokens:
            self.caches.begun(call_id, decision.request.input_tokens)

    def over(self, call_id: str) -> None:
        """Take in that a call has ended."""
        if self._payment is not None:
            self.prepaid.over(call_id)

    def restore(self, rows: Iterable[RollupRow]) -> None:
        """Take in roll-ups at start."""
        labelled: list[RollupRow] = []

        def noting() -> Iterator[RollupRow]:
            for row in rows:
                if row.drawn:
                    labelled.append(row)
                yield row

        self.stats.restore(noting())
        self.steering.restore(labelled)

    # -- deciding --------------------------------------------------------------------------------

    def get_best_model(
        self,
        workflow: str,
        stage: str,
        task_type: str | None = None,
        max_cost: float | None = None,
        max_latency_ms: float | None = None,
        min_success_rate: float = DEFAULT_MIN_SUCCESS_RATE,
    ) -> str:
        """The id of the model that should serve a call; ``decide`` gives the same in full.

        ``max_cost`` is USD a call, predicted; it is ignored for realtime tasks. ``max_latency_ms``
        limits the usual latency. Raises ``NoCandidateError`` when nothing fits.
        """
        request = RouteRequest(
            workflow=workflow,
            stage=stage,
            task_type=task_type,
            max_cost=max_cost,
            max_latency_ms=max_latency_ms,
            min_success_rate=min_success_rate,
        )
        return self.decide(request).model.id

    def decide(self, request: RouteRequest, *, heed_availability: bool = True) -> RouteDecision:
        """Rank the candidates for one call; ``heed_availability`` false also those that are refused now.

        The tier is the request's own, else the task's (``capable`` without one, and for an unknown
        task). It goes one up where its failure rate is high beyond chance, by the policy "best" also down
        to a cheaper tier that has proven itself (at least 30 calls that prove ``min_success_rate``) or that
        ``max_cost`` asks for. Within the tier the highest score comes first, for realtime
        tasks the lowest latency a success; among equals the order of preference decides. Other policies
        draw from the candidates, for which the order of preference is the table; never for realtime tasks.

        Raises ``NoCandidateError`` when nothing fits, ``UnknownNameError`` for an unknown tier, model or
        policy.
        """
        now = self._clock.time()
        if now >= self._reprice_at:
            self._reprice_at = min((option.reprice(now) for option in self._options), default=float("inf"))
        task = normalize_task(request.task_type) if request.task_type else ""
        realtime = task in REALTIME_REQUIRED_TASKS
        stats = self.stats
        first = stats.first_bucket(now)
        levels = stats.levels(request.workflow, request.stage, task)
        tokens_in, tokens_out = request.size(stats.mean_tokens(levels, first))
        fitting, dropped = self._eligibility.of(request)
        base = ModelTier.parse(request.tier) if request.tier else TASK_TIER_MAP.get(task, ModelTier.CAPABLE)
        size = (tokens_in, tokens_out, now)
        quiet = self._availability is None or not heed_availability or self._availability.quiet
        scored, unsuitable, caches = self._judge(fitting, request, task, quiet, levels, first, size)
        paying = NOTHING_PREPAID
        if self._payment is not None:
            paying = self._payment.weigh(
                *(fitting, scored, unsuitable, base, size, caches),
                longest=request.max_output_tokens or 0,
                heed_availability=heed_availability,
            )
        if not scored:
            raise nothing_fits([*unsuitable, *dropped], self._availability, paying.notes)
        notes = paying.notes if not task or task in TASK_TIER_MAP else (unknown_task(task), *paying.notes)
        at = Situation(request, base, task, levels[0], first, size, paying, caches)
        policy = self.steering.policy_for(request)
        drops = [*unsuitable, *dropped]
        if policy.name == "best" or realtime or not heed_availability:
            tier, why, scored, moved = ranked_by_score(at, scored, self._smallest_window)
            return RouteDecision(
                request, base, tier, why, scored, drops, notes, moved=moved, paying=paying, caches=caches
            )
        chosen = self._steered(policy, at, scored)
        return RouteDecision(
            request, base, *chosen[:3], drops, notes, chosen[3], paying=paying, caches=caches
        )

    def _steered(
        self, policy: LivePolicy, at: Situation, scored: list[Scored]
    ) -> tuple[ModelTier, str, list[Scored], Draw]:
        """The tier, why, the candidates in their order, and the draw, of a policy that draws."""
        request, base, paying = at.request, at.base, at.paying
        may_rise = policy.name == "guarded"  # others weigh for themselves what fails, or nothing
        tier, why = chosen_tier(
            request, base, at.task, False, scored, at.level, at.first, up=may_rise, down=False
        )
        position = positions(RANKS[tier], downwards=request.max_cost is not None)
        table = sorted(scored, key=lambda s: position[s[1].rank])  # in a tier the order of preference stays
        pool = Pool(paying.priced_table(table) if paying.uses else table, {})
        if paying.order and paying.decides(table):
            pool = pool.without(lambda each: paying.later(each[1]), paying.why)
        size = at.largest
        if size > self._smallest_window:
            pool = pool.without(lambda each: size > each[1].window, "its window may be too small")
        if policy.name == "guarded":
            pool = pool.reliable()
        if request.tier:
            rank = pool.candidates[0][1].rank
            pool = pool.without(lambda each: each[1].rank != rank, f"its tier is not {_TIERS[rank]}")
        elif RANKS[tier] > base.rank:
            pool = pool.without(lambda each: each[1].rank == base.rank, f"{base} calls fail too often here")
        path = path_of(request.workflow, request.stage, at.task)
        drawn, winner = self.steering.draw(policy, request, pool, path, at.size[2])
        rest = [each for each in scored if each is not winner]
        rest.sort(key=lambda s: s[0] - position[s[1].rank], reverse=True)
        if paying.order:
            rest.sort(key=lambda s: (position[s[1].rank], paying.later(s[1])))
        if size > self._smallest_window:
            rest = roomy_first(rest, size)
        return winner[1].model.tier, why, [winner, *rest], drawn

    def _judge(
        self,
        fitting: Sequence[Option],
        request: RouteRequest,
        task: str,
        quiet: bool,
        levels: tuple[Level, ...],
        first: int,
        size: tuple[float, float, float],
    ) -> tuple[list[Scored], list[Drop], CacheView | None]:
        """Score what is eligible now, with what the caches have of the prompt: a decision's one loop."""
        tokens_in, tokens_out, now = size
        caches = self.caches.view(request.session_id, (request.workflow, request.stage, task), tokens_in, now)
        max_cost = None if task in REALTIME_REQUIRED_TASKS else request.max_cost
        max_latency = request.max_latency_ms
        min_success = request.min_success_rate
        output_limit = request.max_output_tokens or 0
        availability = self._availability
        estimate_of = self.stats.estimate
        scored: list[Scored] = []
        dropped: list[Drop] = []
        for option in fitting:
            row = estimate_of(levels, option.label, first)
            rate, latency, known, _, _, lately, measured, judged, measured_latency = row
            price = option.input
            answer = tokens_out if tokens_out < option.longest else option.longest
            cached = None if caches is None else caches.at(option.key, option.model.provider)
            if price is None or cached is not None or tokens_in > option.dearer_above:
                cost = option.cost(tokens_in, answer, now, cached)
            else:
                cost = tokens_in * price + answer * option.output
            if not quiet and (refusal := availability.refusal(option.candidate)) is not None:  # type: ignore[union-attr]
                dropped.append((option, refusal.reason, REFUSED))
            elif output_limit > option.longest:
                reason = f"answers {option.longest} tokens at most, {output_limit} are asked for"
                dropped.append((option, reason, 5))
            elif tokens_in + answer > option.window:
                reason = f"about {tokens_in + answer:.0f} tokens do not fit its {option.window}"
                dropped.append((option, reason, 5))
            elif max_cost is not None and (cost is None or cost > max_cost):
                dropped.append((option, too_dear(cost, max_cost), 3 - max_cost / cost if cost else 3))
            elif max_latency is not None and measured_latency > max_latency:
                reason = f"takes about {measured_latency:.0f} ms, above {max_latency:.0f} ms"
                dropped.append((option, reason, 2 - max_latency / measured_latency))
            elif 0.0 <= measured < min_success and shown_below(min_success, measured, judged):
                reason = f"succeeded in {measured:.1%} of {judged:.0f} calls, below {min_success:.1%}"
                dropped.append((option, reason, min_success - measured))
            else:
                score = quality(rate, latency, PRIOR_COST_USD if cost is None else cost, lately, known)
                scored.append((score, option, row, cost, None))
        return scored, dropped, caches

    def recommend_tier_upgrade(self, workflow: str, stage: str) -> TierUpgrade:
        """Whether the stage's calls fail so often that the next tier up should be tried.

        The tier in question is the one that most of the stage's calls used within the window. It
        should be left when, of at least 10 calls, more fail than a true failure rate of 10 % explains,
        by a test that may be looked at after every call: it errs within 10,000 looks with a probability
        of 5 % at most. It then stays recommended until results show that the rate is below 10 % again;
        see ``FailureWatch``. The result unpacks as (should_upgrade, reason) and is truthy exactly when
        it should.
        """
        first = self.stats.first_bucket(self._clock.time())
        level = self.stats.levels(workflow, stage, "")[0]
        results = self.stats.tiers(level, first)
        if not results:
            return TierUpgrade(False, f"no telemetry of {workflow}/{stage} in the window")
        tier = max(results, key=lambda name: results[name].calls)
        return upgrade_of(tier, level, results[tier], first)

    # -- looking back ----------------------------------------------------------------------------

    def performance(
        self, workflow: str, stage: str, task_type: str | None = None
    ) -> tuple[ModelPerformance, ...]:
        """How each candidate that has been called at a key has done there, best score first."""
        first = self.stats.first_bucket(self._clock.time())
        level = self.stats.levels(workflow, stage, normalize_task(task_type or ""))[0]
        found = [window.performance(label) for label, window in self.stats.windows(level, first)]
        return tuple(sorted(found, key=lambda p: p.quality_score, reverse=True))

    def get_routing_stats(self, workflow: str, stage: str | None = None, days: int = 7) -> RoutingStats:
        """What happened in a workflow (or one stage of it) over the last days, per model.

        Raises ``InvalidRequestError`` when ``days`` is below 1 or beyond the router's window.
        """
        enrolled = {option.label for option in self._options}
        premiums = (m for m in self.registry.in_tier(ModelTier.PREMIUM) if m.label in enrolled)
        priced = (m._replace(prices=m.list_prices or m.prices) for m in premiums)
        premium = next((m for m in priced if m.prices is not None), None)
        return routing_stats(self.stats, premium, workflow, stage, days, self._clock.time())

    def labelled_share(self, workflow: str, stage: str, task_type: str | None = None) -> float | None:
        """Of the attempts at a key, the share whose answer has an outcome; ``None`` without any attempt."""
        first = self.stats.first_bucket(self._clock.time())
        return self.stats.labelled_share(workflow, stage, normalize_task(task_type or ""), first)

    # -- the parts of a decision -----------------------------------------------------------------

    def _enrol(
        self, credentials: Mapping[str, Sequence[str]] | None, preferred: Sequence[ModelInfo]
    ) -> list[Option]:
        if credentials is None:
            local = {m.provider for m in self.registry.models if m.local}
            credentials = {p: ("none" if p in local else "api_key",) for p in self.registry.providers}
        models = dict.fromkeys([*preferred, *self.registry.models])
        return [Option(m, credential) for m in models for credential in credentials.get(m.provider, ())]
