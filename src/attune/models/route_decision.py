"""What a decision is: the ordered candidates, their scores, and why each other one was dropped."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from attune.models.candidate import Candidate
from attune.models.option import weighed_usd
from attune.models.tasks import is_realtime, normalize_task
from attune.models.telemetry import Decided, DecisionRecord, DroppedCandidate, ScoredCandidate

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from attune.errors import NoCandidateError
    from attune.models.option import Drop, Scored
    from attune.models.payment import Paying
    from attune.models.prompt_cache import CacheView
    from attune.models.registry import ModelInfo, ModelTier
    from attune.models.route_request import RouteRequest
    from attune.models.steering import Draw
    from attune.models.telemetry import Belief

__all__ = ["RouteDecision", "TierUpgrade", "unmade_decision"]

POLICY = "best/1"
"""The name and version of what decides by the score."""


class TierUpgrade(NamedTuple):
    """Whether the next tier up should be tried, and why (or why not). Truthy when it should."""

    should_upgrade: bool
    reason: str

    def __bool__(self) -> bool:
        return self.should_upgrade


class RouteDecision:
    """The ordered candidates for one call, and why.

    ``candidates`` are all eligible ones, best first; ``tier`` is the tier that was chosen, and
    ``base_tier`` the one that the task (or the caller) asked for. ``why`` says how the tier came
    about. ``notes`` are remarks for people, such as an unknown task. ``drawn`` says how the first one was
    drawn, ``None`` where the score decided; ``moved``, that a conversation stays elsewhere than at the best
    score; ``paying``, how prepaid quota came into it; ``caches``, what is in the candidates' prompt caches.
    Scores and drops are made readable only when they are asked for.
    """

    __slots__ = (
        "_caches",
        "_dropped",
        "_moved",
        "_ranked",
        "_scored",
        "base_tier",
        "drawn",
        "notes",
        "paying",
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
        paying: Paying | None = None,
        caches: CacheView | None = None,
    ) -> None:
        self.request = request
        self.base_tier = base_tier
        self.tier = tier
        self.why = why if drawn is None else drawn.explain(why)
        self.policy = POLICY if drawn is None else drawn.policy
        self.drawn = drawn
        self._moved = moved
        self.paying = paying
        self._caches = caches
        self.notes = notes
        self._scored = scored
        self._dropped = dropped
        self._ranked: tuple[ScoredCandidate, ...] = ()

    @property
    def decided(self) -> Decided:
        """What decided, as outcomes refer to it."""
        return Decided(self.policy) if self.drawn is None else self.drawn.decided

    @property
    def scored(self) -> Sequence[Scored]:
        """The eligible candidates as they were weighed, best first."""
        return self._scored

    @property
    def overflows(self) -> bool:
        """Whether prepaid quota would have paid for the call, and has nothing left."""
        return self.paying is not None and self.paying.overflows

    @property
    def prepaid(self) -> tuple[Candidate, ...]:
        """The prepaid candidates that should pay for the call: while all are used up, it overflows."""
        own = () if self.paying is None else self.paying.own(self.base_tier)
        return tuple(option.candidate for option in own)

    def prepaid_among(self, is_enough: Callable[[ModelInfo], bool]) -> tuple[Candidate, ...]:
        """Those that should pay where only some models are enough for the call."""
        own = () if self.paying is None else self.paying.own(self.base_tier, is_enough)
        return tuple(option.candidate for option in own)

    def leave_out(self, candidates: Collection[tuple[str, str, str]], reason: str) -> None:
        """Drop some of the candidates after all; others have to be left."""
        dropped = [each[1] for each in self._scored if each[1].candidate in candidates]
        self._dropped = [*self._dropped, *((option, reason, 3) for option in dropped)]
        self._scored = [each for each in self._scored if each[1].candidate not in candidates]
        self._ranked = ()

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """The eligible candidates, best first."""
        return tuple(each[1].candidate for each in self._scored)

    @property
    def models(self) -> tuple[ModelInfo, ...]:
        """The models of ``candidates``, in the same order."""
        return tuple(each[1].model for each in self._scored)

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
            self._ranked = tuple(found if self._caches is None else map(self._with_cache, found))
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
        score, option, row, cost, use = self._scored[0]
        about = "cost unknown" if cost is None else f"about ${cost:.6f}" if cost else "free"
        if use is not None:
            about = use.label
        known = f"{row[3]:.0f} tried here" if row[3] else "not yet tried here"
        paid = ""
        if self.paying is not None and self.paying.order:
            paid = f"; the {'plan' if option.of_plan else 'key'} pays: {self.paying.why}"
        about += self._told_of_caches()
        return f"{option.label}: {self.why}{paid}; score {score:.3f} ({known}), {about}"

    def _with_cache(self, shown: ScoredCandidate) -> ScoredCandidate:
        key = Candidate(*shown[:3]).key
        if self._caches is None or not (read := self._caches.read(key)):
            return shown
        return shown._replace(note=shown.note + self._caches.told(key, None, ()), cached_tokens=read)

    def _told_of_caches(self) -> str:
        if self._caches is None:
            return ""
        chosen = self._scored[0]
        others = [weighed_usd(each) for each in self._scored[1:] if each[1].rank == chosen[1].rank]
        return self._caches.told(chosen[1].key, weighed_usd(chosen), others)

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
        paying = () if self.paying is None else self.paying.features(self._scored)
        if self.drawn is not None:
            return (*self.drawn.features_of_record(), *paying)
        kept = {} if self._caches is None else self._caches.kept
        held = self._moved or any(each[1].key in kept for each in self._scored)
        return (("stays", "yes"), *paying) if held else paying

    def __repr__(self) -> str:
        return f"<RouteDecision {self.reason}>"

    def _explained(self, place: int, scored: Scored) -> ScoredCandidate:
        score, option, row = scored[:3]
        rate, latency_ms = row[:2]
        best_score, best, best_row = self._scored[0][:3]
        if place == 0:
            note = "chosen: " + self.why
        elif option.rank != best.rank:
            note = f"its tier is {option.model.tier}, the chosen one {best.model.tier}"
        elif option.label == best.label:
            note = "the same model by another credential"
        elif self.paying is not None and self.paying.later(option) and not self.paying.later(best):
            note = self.paying.why
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
    score, option, row, cost, use = scored
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
        list_usd=None if use is None else use.list_usd,
        quota_usd=None if use is None else use.worth_usd,
        by_credits=use is not None and use.by_credits,
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
