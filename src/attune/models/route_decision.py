"""What a decision is: the ordered candidates, their scores, and why each other one was dropped."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from attune.models.candidate import Candidate
from attune.models.tasks import is_realtime, normalize_task
from attune.models.telemetry import NANOS_PER_USD, Decided, DecisionRecord, DroppedCandidate, ScoredCandidate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attune.errors import NoCandidateError
    from attune.models.borrowing import Row
    from attune.models.registry import ModelInfo, ModelTier
    from attune.models.route_request import RouteRequest
    from attune.models.steering import Draw
    from attune.models.telemetry import Belief

__all__ = ["Drop", "Option", "RouteDecision", "Scored", "TierUpgrade", "unmade_decision"]

POLICY = "best/1"
"""The name and version of what decides by the score."""


class TierUpgrade(NamedTuple):
    """Whether the next tier up should be tried, and why (or why not). Truthy when it should."""

    should_upgrade: bool
    reason: str

    def __bool__(self) -> bool:
        return self.should_upgrade


class Option:
    """A candidate with everything about it that does not change from call to call."""

    __slots__ = (
        "candidate",
        "dearer_above",
        "input",
        "label",
        "longest",
        "model",
        "output",
        "rank",
        "window",
    )

    def __init__(self, model: ModelInfo, credential: str) -> None:
        self.candidate = Candidate(model.provider, model.id, credential)
        self.label = model.label
        self.model = model
        self.rank = model.tier.rank
        self.window = float("inf") if model.embeds else model.context_window  # each input has one of its own
        self.longest = model.max_output_tokens
        self.input: float | None = None
        self.output = 0.0
        self.dearer_above = float("inf")

    def reprice(self, at: float) -> float:
        """Take today's prices, in USD a token; returns when they change next."""
        schedule = self.model.prices
        if schedule is None:
            return float("inf")
        period = schedule.at(at)
        self.input = period.input.usd / 1e6
        self.output = period.output.usd / 1e6
        thresholds = [threshold for rate in (period.input, period.output) for threshold, _ in rate.tiers]
        self.dearer_above = min(thresholds, default=float("inf"))
        return min((p.start for p in schedule.periods if p.start > at), default=float("inf"))

    def cost(self, tokens_in: float, tokens_out: float, at: float) -> float | None:
        """USD for a call of this size today, or ``None`` where the price is unknown."""
        if self.input is None:
            return None
        if tokens_in > self.dearer_above and self.model.prices is not None:
            period = self.model.prices.at(at)
            size = int(tokens_in)
            nanos = tokens_in * period.input.of(size) + tokens_out * period.output.of(size)
            return nanos / 1e6 / NANOS_PER_USD
        return tokens_in * self.input + tokens_out * self.output


Scored: TypeAlias = "tuple[float, Option, Row, float | None]"
"""An eligible option: its score, the option, what telemetry says of it, its predicted cost in USD.
A plain tuple, because ten are made in every decision; it is made readable in ``ranked``.
"""

Drop: TypeAlias = "tuple[Option, str, float]"
"""A dropped option, the reason, and its distance: the lower, the nearer it was to being eligible."""


class RouteDecision:
    """The ordered candidates for one call, and why.

    ``candidates`` are all eligible ones, best first; ``tier`` is the tier that was chosen, and
    ``base_tier`` the one that the task (or the caller) asked for. ``why`` says how the tier came
    about. ``notes`` are remarks for people, such as an unknown task. ``drawn`` says how the first one was
    drawn, ``None`` where the score decided; ``moved``, that a conversation stays elsewhere than at the best
    score. Scores and drops are made readable only when they are asked for.
    """

    __slots__ = (
        "_dropped",
        "_moved",
        "_ranked",
        "_scored",
        "base_tier",
        "drawn",
        "notes",
        "policy",
        "request",
        "tier",
        "why",
    )

    def __init__(
        self,
        request: RouteRequest,
        base_tier: ModelTier,
        tier: ModelTier,
        why: str,
        scored: Sequence[Scored],
        dropped: Sequence[Drop],
        notes: tuple[str, ...],
        drawn: Draw | None = None,
        *,
        moved: bool = False,
    ) -> None:
        self.request = request
        self.base_tier = base_tier
        self.tier = tier
        self.why = why if drawn is None else drawn.explain(why)
        self.policy = POLICY if drawn is None else drawn.policy
        self.drawn = drawn
        self._moved = moved
        self.notes = notes
        self._scored = scored
        self._dropped = dropped
        self._ranked: tuple[ScoredCandidate, ...] = ()

    @property
    def decided(self) -> Decided:
        """What decided, as outcomes refer to it."""
        return Decided(self.policy) if self.drawn is None else self.drawn.decided

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """The eligible candidates, best first."""
        return tuple(option.candidate for _, option, _, _ in self._scored)

    @property
    def models(self) -> tuple[ModelInfo, ...]:
        """The models of ``candidates``, in the same order."""
        return tuple(option.model for _, option, _, _ in self._scored)

    @property
    def model(self) -> ModelInfo:
        """The model that was chosen."""
        return self._scored[0][1].model

    @property
    def candidate(self) -> Candidate:
        """The candidate that was chosen."""
        return self._scored[0][1].candidate

    @property
    def ranked(self) -> tuple[ScoredCandidate, ...]:
        """Every eligible candidate with its score and the parts of it, best first."""
        if not self._ranked:
            if self.drawn is None:
                found = [self._explained(place, scored) for place, scored in enumerate(self._scored)]
            else:
                found = self._explained_draw(self.drawn)
            self._ranked = tuple(found)
        return self._ranked

    @property
    def dropped(self) -> tuple[DroppedCandidate, ...]:
        """Every candidate that could not be chosen, with the reason."""
        return tuple(
            DroppedCandidate(*option.candidate, option.model.tier, reason)
            for option, reason, _ in self._dropped
        )

    @property
    def reason(self) -> str:
        """The decision in one line."""
        score, option, row, cost = self._scored[0]
        about = "cost unknown" if cost is None else f"about ${cost:.6f}" if cost else "free"
        known = f"{row[3]:.0f} tried here" if row[3] else "not yet tried here"
        return f"{option.label}: {self.why}; score {score:.3f} ({known}), {about}"

    def record(self, *, decision_id: str, call_id: str, at: float) -> DecisionRecord:
        """This decision as the ledger keeps it."""
        request = self.request
        return DecisionRecord(
            decision_id=decision_id,
            call_id=call_id,
            at=at,
            workflow=request.workflow,
            stage=request.stage,
            task_type=normalize_task(request.task_type or ""),
            base_tier=self.base_tier,
            tier=self.tier,
            policy=self.policy,
            reason=self.reason,
            ranked=self.ranked,
            dropped=self.dropped,
            features=(*_features(request), *self._features_of_choice()),
            notes=self.notes,
        )

    def _features_of_choice(self) -> tuple[tuple[str, str], ...]:
        if self.drawn is not None:
            return self.drawn.features_of_record()
        return (("stays", "yes"),) if self._moved else ()

    def __repr__(self) -> str:
        return f"<RouteDecision {self.reason}>"

    def _explained(self, place: int, scored: Scored) -> ScoredCandidate:
        score, option, row, _ = scored
        rate, latency_ms = row[:2]
        best_score, best, best_row, _ = self._scored[0]
        if place == 0:
            note = "chosen: " + self.why
        elif option.rank != best.rank:
            note = f"its tier is {option.model.tier}, the chosen one {best.model.tier}"
        elif option.label == best.label:
            note = "the same model by another credential"
        elif best_row != row and is_realtime(self.request.task_type):
            note = f"takes about {latency_ms:.0f} ms and succeeds in {rate:.1%}"
        elif score < best_score:
            note = f"its score is {best_score - score:.3f} lower"
        elif score > best_score and (self.request.session_id or self.request.bound_to):
            note = "its score is higher, but the conversation stays with the chosen one"
        elif score > best_score:
            note = "its score is higher, but it has not proven itself here"
        else:
            note = "comes later in the order of preference"
        return _readable(scored, 1.0 if place == 0 else 0.0, note)

    def _explained_draw(self, drawn: Draw) -> list[ScoredCandidate]:
        places = drawn.places()
        found: list[ScoredCandidate] = []
        for scored in self._scored:
            label = scored[1].label
            p, note, belief = drawn.explained(label, places.pop(label, None))
            found.append(_readable(scored, p, note if found else "chosen: " + self.why, belief))
        return found


def _readable(scored: Scored, propensity: float, note: str, belief: Belief | None = None) -> ScoredCandidate:
    score, option, row, cost = scored
    rate, latency_ms, known, calls, _, lately, _, _, _ = row
    return ScoredCandidate(
        *option.candidate,
        tier=option.model.tier,
        score=score,
        success_rate=rate,
        avg_latency_ms=latency_ms,
        predicted_cost_usd=cost,
        sample_size=int(calls),
        recent_failures=int(lately),
        propensity=propensity,
        note=note,
        belief=belief,
        known=known,
    )


def unmade_decision(
    request: RouteRequest, nothing: NoCandidateError, call_id: str, at: float
) -> DecisionRecord:
    """The record of a call for which there was no candidate."""
    dropped = []
    for key, reason in nothing.drops:
        label, _, credential = key.rpartition("#")
        provider, _, model_id = label.partition("/")
        dropped.append(DroppedCandidate(provider, model_id, credential, "", reason))
    return DecisionRecord(
        decision_id=call_id,
        call_id=call_id,
        at=at,
        workflow=request.workflow,
        stage=request.stage,
        task_type=normalize_task(request.task_type or ""),
        base_tier="",
        tier="",
        policy=POLICY,
        reason=str(nothing),
        ranked=(),
        dropped=tuple(dropped),
        features=_features(request),
    )


def _features(request: RouteRequest) -> tuple[tuple[str, str], ...]:
    """What of a request the policy used."""
    features = {
        "input_tokens": request.input_tokens,
        "max_output_tokens": request.max_output_tokens,
        "max_cost": request.max_cost,
        "max_latency_ms": request.max_latency_ms,
        "min_success_rate": request.min_success_rate,
        "needs": ",".join(sorted(request.needs)) or None,
        "model": request.model,
        "tier": request.tier,
        "allow_providers": ",".join(sorted(request.allow_providers or ())) or None,
        "allow_models": ",".join(sorted(request.allow_models or ())) or None,
        "local_only": request.local_only or None,
        "account": request.account or None,
    }
    return tuple((name, str(value)) for name, value in features.items() if value is not None)
