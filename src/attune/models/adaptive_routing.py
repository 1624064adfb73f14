"""The router: which candidate should serve a call, from this program's own telemetry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attune.clock import SYSTEM_CLOCK
from attune.models.affinity import where_it_stays
from attune.models.call_checks import check_providers
from attune.models.eligibility import nothing_fits, shown_below, split, too_dear, unknown_task
from attune.models.performance import PRIOR_COST_USD, ModelPerformance, quality
from attune.models.registry import ModelRegistry, ModelTier
from attune.models.request import UNDERESTIMATED
from attune.models.route_decision import Option, RouteDecision, TierUpgrade
from attune.models.route_request import DEFAULT_MIN_SUCCESS_RATE, RouteRequest
from attune.models.routing_stats import RoutingStats, routing_stats
from attune.models.steering import Pool, Steering, path_of, roomy_first
from attune.models.tasks import REALTIME_REQUIRED_TASKS, TASK_TIER_MAP, normalize_task
from attune.models.telemetry import Decided
from attune.models.tier_movement import (
    chosen_tier,
    may_stay,
    positions,
    put_proven_first,
    upgrade_of,
)
from attune.models.windows import DEFAULT_WINDOW_DAYS, PerformanceStats

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from random import Random

    from attune.clock import Clock
    from attune.models.candidate import Availability
    from attune.models.cells import Level
    from attune.models.policies import Allowance, LivePolicy
    from attune.models.route_decision import Drop, Scored
    from attune.models.state import RollupRow
    from attune.models.steering import Draw
    from attune.models.telemetry import LLMCallRecord, Outcome

__all__ = ["AdaptiveModelRouter", "RouteDecision", "TierUpgrade"]

DEFAULT_INPUT_TOKENS = 1000
DEFAULT_OUTPUT_TOKENS = 500
"""The size of a call of which nothing is known."""

_TIERS = tuple(ModelTier)
_RANK: dict[str, int] = {tier.value: tier.rank for tier in _TIERS}


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
    ) -> None:
        self.registry = ModelRegistry.default() if registry is None else registry
        self.stats = PerformanceStats(window_days=window_days)
        self._availability = availability
        self._clock = clock
        self._allowed = dict(allow_providers or {})
        for names in self._allowed.values():
            check_providers(names)
        self._local_only = local_only
        self._options = self._enrol(credentials)
        self._reprice_at = float("-inf")
        self._fits: dict[tuple[object, ...], tuple[list[Option], list[Drop]]] = {}
        ranks = {option.label: option.rank for option in self._options}
        self.steering = Steering(policy, explore=explore, margin=margin, budget=budget, ranks=ranks, rng=rng)

    # -- feeding ---------------------------------------------------------------------------------

    def observe(self, record: LLMCallRecord) -> None:
        """Learn from one attempt."""
        self.stats.observe(record)
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
        tokens_in, tokens_out = self._size(request, stats.mean_tokens(levels, first))
        fitting, dropped = self._fitting(request)
        base = ModelTier.parse(request.tier) if request.tier else TASK_TIER_MAP.get(task, ModelTier.CAPABLE)
        size = (tokens_in, tokens_out, now)
        quiet = self._availability is None or not heed_availability or self._availability.quiet
        scored, unsuitable = self._judge(fitting, request, realtime, quiet, levels, first, size)
        if not scored:
            raise nothing_fits([*unsuitable, *dropped])
        notes = () if not task or task in TASK_TIER_MAP else (unknown_task(task),)
        policy = self.steering.policy_for(request)
        if policy.name != "best" and not realtime and heed_availability:
            chosen = self._steered(policy, request, base, task, scored, levels[0], first, size)
            return RouteDecision(request, base, *chosen[:3], [*unsuitable, *dropped], notes, chosen[3])
        moved = False
        tier, why = chosen_tier(request, base, task, realtime, scored, levels[0], first)
        position = positions(_RANK[tier], downwards=request.max_cost is not None and not realtime)
        if realtime:
            scored.sort(key=lambda s: (position[s[1].rank], s[2][1] / max(s[2][0], 1e-6)))
        else:
            scored.sort(key=lambda s: s[0] - position[s[1].rank], reverse=True)
            if _RANK[tier] < _RANK[base] and any(option.rank == _RANK[base] for _, option, _, _ in scored):
                put_proven_first(scored, levels[0], request.min_success_rate)
        if request.session_id or request.bound_to:
            cheaper = _RANK[tier] < _RANK[base]
            leaders = may_stay(scored, levels[0], request.min_success_rate, cheaper=cheaper)
            stays = where_it_stays(leaders, request.session_id, request.bound_to, realtime=realtime)
            moved = stays is not scored[0]
            if moved:
                scored.remove(stays)
                scored.insert(0, stays)
                why += ", where the conversation stays"
        if request.input_tokens and tokens_in * UNDERESTIMATED + tokens_out > self._smallest_window:
            scored = roomy_first(scored, tokens_in * UNDERESTIMATED + tokens_out)
        return RouteDecision(request, base, tier, why, scored, [*unsuitable, *dropped], notes, moved=moved)

    def _steered(
        self,
        policy: LivePolicy,
        request: RouteRequest,
        base: ModelTier,
        task: str,
        scored: list[Scored],
        level: Level,
        first: int,
        sizes: tuple[float, float, float],
    ) -> tuple[ModelTier, str, list[Scored], Draw]:
        """The tier, why, the candidates in their order, and the draw, of a policy that draws."""
        tokens_in, tokens_out, now = sizes
        may_rise = policy.name == "guarded"  # others weigh for themselves what fails, or nothing
        tier, why = chosen_tier(request, base, task, False, scored, level, first, up=may_rise, down=False)
        position = positions(_RANK[tier], downwards=request.max_cost is not None)
        table = sorted(scored, key=lambda s: position[s[1].rank])  # in a tier the order of preference stays
        pool = Pool(table, {})
        size = tokens_in * UNDERESTIMATED + tokens_out
        if request.input_tokens and size > self._smallest_window:
            pool = pool.without(lambda each: size > each[1].window, "its window may be too small")
        if policy.name == "guarded":
            pool = pool.reliable()
        if request.tier:
            rank = pool.candidates[0][1].rank
            pool = pool.without(lambda each: each[1].rank != rank, f"its tier is not {_TIERS[rank]}")
        elif _RANK[tier] > base.rank:
            pool = pool.without(lambda each: each[1].rank == base.rank, f"{base} calls fail too often here")
        path = path_of(request.workflow, request.stage, task)
        drawn, winner = self.steering.draw(policy, request, pool, path, now)
        rest = [each for each in scored if each is not winner]
        rest.sort(key=lambda s: s[0] - position[s[1].rank], reverse=True)
        if request.input_tokens and size > self._smallest_window:
            rest = roomy_first(rest, size)
        return winner[1].model.tier, why, [winner, *rest], drawn

    def _judge(
        self,
        fitting: Sequence[Option],
        request: RouteRequest,
        realtime: bool,
        quiet: bool,
        levels: tuple[Level, ...],
        first: int,
        size: tuple[float, float, float],
    ) -> tuple[list[Scored], list[Drop]]:
        """Score what is eligible now: a decision's one loop."""
        tokens_in, tokens_out, now = size
        max_cost = None if realtime else request.max_cost
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
            if price is None or tokens_in > option.dearer_above:
                cost = option.cost(tokens_in, answer, now)
            else:
                cost = tokens_in * price + answer * option.output
            if not quiet and (refusal := availability.refusal(option.candidate)) is not None:  # type: ignore[union-attr]
                dropped.append((option, refusal.reason, 4))
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
                scored.append((score, option, row, cost))
        return scored, dropped

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

    def _enrol(self, credentials: Mapping[str, Sequence[str]] | None) -> list[Option]:
        if credentials is None:
            local = {m.provider for m in self.registry.models if m.local}
            credentials = {p: ("none" if p in local else "api_key",) for p in self.registry.providers}
        preferred = [model for tier in _TIERS for model in self.registry.in_tier(tier)]
        self._listed = {model.label for model in preferred}
        models = dict.fromkeys([*preferred, *self.registry.models])
        options = [Option(m, credential) for m in models for credential in credentials.get(m.provider, ())]
        self._smallest_window = min((option.window for option in options), default=0)
        return options

    def _size(self, request: RouteRequest, mean: tuple[float, float] | None) -> tuple[float, float]:
        """The tokens that the call will probably take: what is known of it, else the mean."""
        mean_in, mean_out = mean or (DEFAULT_INPUT_TOKENS, DEFAULT_OUTPUT_TOKENS)
        tokens_in = mean_in if request.input_tokens is None else request.input_tokens
        limit = request.max_output_tokens
        return tokens_in, mean_out if limit is None else min(mean_out, limit)

    def _fitting(self, request: RouteRequest) -> tuple[list[Option], list[Drop]]:
        """The options that fit by what never changes, and those that do not; remembered by request shape."""
        shape = (
            request.needs,
            request.model,
            request.allow_providers,
            request.allow_models,
            request.local_only,
            self._allowed.get(request.workflow),
        )
        found = self._fits.get(shape)
        if found is None:
            if len(self._fits) >= 256:
                self._fits.clear()
            found = self._fits[shape] = self._split(request)
        return found

    def _split(self, request: RouteRequest) -> tuple[list[Option], list[Drop]]:
        asked = {m.label for m in self.registry.find(request.model)} if request.model else self._listed
        allowed = [
            allow
            for allow in (
                request.allow_providers,
                self._allowed.get("*"),
                self._allowed.get(request.workflow),
            )
            if allow is not None
        ]
        options = [option for option in self._options if option.label in asked]
        return split(options, request, allowed, local_only=request.local_only or self._local_only)
