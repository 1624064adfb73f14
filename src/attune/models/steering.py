"""What a policy makes of the eligible candidates: probabilities, one draw, and what outcomes teach it."""

from __future__ import annotations

import json
from collections import OrderedDict
from hashlib import blake2b
from random import Random
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from attune.errors import InvalidRequestError
from attune.models.features import prompt_features
from attune.models.learner import Learner
from attune.models.option import weighed_usd
from attune.models.policies import (
    Allowance,
    BestPolicy,
    BudgetPolicy,
    Feedback,
    GuardedPolicy,
    Prospect,
    Setting,
    StaticPolicy,
    ThompsonPolicy,
    draw,
)
from attune.models.policies.policy import certain
from attune.models.policy_names import VERSIONS, check_policy
from attune.models.pool import bound
from attune.models.registry import ModelTier
from attune.models.tasks import is_realtime
from attune.models.telemetry import NANOS_PER_USD, Decided

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from attune.models.evidence import Path
    from attune.models.features import Features
    from attune.models.learner import Labels
    from attune.models.option import Scored
    from attune.models.policies import LivePolicy, Rule
    from attune.models.policies.shared import Sums
    from attune.models.pool import Pool
    from attune.models.route_request import RouteRequest
    from attune.models.state import RollupRow
    from attune.models.telemetry import Belief, DecisionRecord, LLMCallRecord, ScoredCandidate

__all__ = [
    "Draw",
    "Steering",
    "path_of",
]

ALL = "*"
T = TypeVar("T")

_WEIGHING = frozenset({"thompson", "budget"})
_TABLE_ONLY = frozenset({"static", "guarded"})
MAX_ORDERS = 256
MAX_TO_PAY = 10_000
"""Calls under a budget whose attempts are waited for."""
MAX_PROMPTS = 2000
"""Prompts whose features are remembered until their outcome is known."""


class Draw(NamedTuple):
    """How a candidate was drawn: by which rule, among which prospects (one a model, in the table's order),
    with which probabilities, by which uniform number (``None`` where nothing was to be drawn). ``bound_to``
    is the provider that the conversation is bound to; ``passed_over`` says why models were not among them.
    """

    policy: str
    rule: Rule
    prospects: Sequence[Prospect]
    vector: Sequence[float]
    explores: bool
    u: float | None
    chosen: int
    path: Path
    features: Features | None
    bound_to: str
    passed_over: Mapping[str, str]

    @property
    def table(self) -> str:
        """The label of the table's choice."""
        return self.prospects[0].model

    @property
    def decided(self) -> Decided:
        """What decided, as outcomes refer to it."""
        among = [p.model for p, share in zip(self.prospects, self.vector, strict=True) if share]
        return Decided(self.policy, self.table, tuple(among))

    def explain(self, why: str) -> str:
        """Why it was drawn; ``why`` is what is said for the tier of the table's choice."""
        name, p = self.policy.partition("/")[0], self.vector[self.chosen]
        drawn = f"drawn with p = {p:.3g}"
        if self.chosen:
            return f"{name}: {drawn if p < 1 else 'chosen'} in place of {self.table} ({why})"
        known = getattr(self.rule, "stages", ()) is not None
        return f"{why} ({name}: {drawn if p < 1 else 'first in the table' if known else 'no outcomes yet'})"

    def features_of_record(self) -> tuple[tuple[str, str], ...]:
        """What is needed to make the draw again, as a record keeps it."""
        found = [("table", self.table)]
        if self.u is not None:
            found += [("draw", repr(self.u)), ("rule", json.dumps(self.rule.numbers()))]
        if not self.explores:
            found.append(("explores", "no"))
        if self.bound_to:
            found.append(("bound_to", self.bound_to))
        return tuple(found)

    def places(self) -> dict[str, int]:
        """Where each model stands among the prospects."""
        return {prospect.model: place for place, prospect in enumerate(self.prospects)}

    def explained(self, label: str, place: int | None) -> tuple[float, str, Belief | None]:
        """The probability of a candidate, why it was not drawn, and what was believed of it. ``place`` is
        that of its model, ``None`` where it was not among the prospects.
        """
        if place is None:
            return 0.0, self.passed_over.get(label, "the same model by another credential"), None
        p = self.vector[place]
        note = f"not drawn, p = {p:.3g}" if p else self.rule.why_not(place, self.prospects)
        return p, note, None if self.u is None else _belief(self.prospects[place])


class Steering:
    """The policies of a router, and the beliefs that they share.

    ``policy`` is the one that decides unless a request names another; ``explore`` false keeps all of them
    from choosing anything but what they believe to be best. ``margin`` is that of ``GuardedPolicy``,
    ``budget`` what the policy of that name may spend (``None``: it cannot be asked for). ``ranks`` are the
    tiers of models by label. Raises ``UnknownNameError`` and ``InvalidRequestError``.
    """

    def __init__(
        self,
        policy: str,
        *,
        explore: bool,
        margin: float | None,
        budget: Allowance | None,
        ranks: Mapping[str, int],
        rng: Random | None,
    ) -> None:
        self._guarded = GuardedPolicy() if margin is None else GuardedPolicy(margin)
        known: tuple[LivePolicy, ...] = (StaticPolicy(), BestPolicy(), self._guarded, ThompsonPolicy())
        self._policies: dict[str, LivePolicy] = {each.name: each for each in known}
        if budget is not None:
            self._policies[BudgetPolicy.name] = BudgetPolicy(budget)
        self._policy = self._named(policy)
        self._explore = explore
        self._rng = Random() if rng is None else rng  # noqa: S311  (a draw, not a secret)
        self.learner = Learner(ranks)
        self.labelled = False
        self._prompts: OrderedDict[str, Features] = OrderedDict()
        self._to_pay: OrderedDict[str, Draw] = OrderedDict()
        self._unknown: dict[tuple[str, ...], list[Prospect]] = {}
        self._orders: dict[tuple[str, ...], tuple[tuple[str, ...], list[int]]] = {}

    # -- deciding --------------------------------------------------------------------------------

    def policy_for(self, request: RouteRequest) -> LivePolicy:
        """The policy that the request names, else the usual one."""
        return self._policy if request.policy is None else self._named(request.policy)

    def weighs(self, request: RouteRequest) -> bool:
        """Whether the request's policy weighs what answers are worth against what they cost."""
        return self.policy_for(request).name in _WEIGHING and not is_realtime(request.task_type)

    def draw(
        self, policy: LivePolicy, request: RouteRequest, pool: Pool, path: Path, now: float
    ) -> tuple[Draw, Scored]:
        """Draw one of the pool: the table's choice stands first, the others by name, so that the same number
        draws the same of them again; of one model the first credential.
        """
        labels, among = self._ordered(pool.candidates)
        if not self.labelled and policy.name in _TABLE_ONLY:
            return self._table_choice(policy, request, pool, labels, path), among[0]
        learns = self.labelled and policy.name != "static"
        features = prompt_features(request.prompt) if learns and request.prompt else None
        prospects = self.learner.forecast(
            path,
            labels,
            [each[3] if each[4] is None else weighed_usd(each) for each in among],
            [each[0] for each in among],
            features,
        )
        explores = self._explore and request.explore is not False
        rule = policy.rule(prospects)
        vector = rule.probabilities(prospects, Setting(path, now, explores))
        if request.bound_to:
            providers = [(each[1].model.provider, each[1].rank) for each in among]
            vector = bound(vector, providers, request.bound_to)
        u = self._uniform(request.session_id) if self.labelled or max(vector) < 1 else None
        chosen = draw(vector, u or 0.0)
        by = VERSIONS[policy.name], rule, prospects, vector, explores, u, chosen, path, features
        return Draw(*by, request.bound_to, pool.passed_over), among[chosen]

    def _table_choice(
        self, policy: LivePolicy, request: RouteRequest, pool: Pool, labels: tuple[str, ...], path: Path
    ) -> Draw:
        """The draw of a policy that keeps to the table while no outcome is known: no belief is asked for."""
        prospects = self._unknown.get(labels)
        if prospects is None:
            if len(self._unknown) >= MAX_ORDERS:
                self._unknown.clear()
            prospects = self._unknown[labels] = [Prospect(label, 0.0, 0.0) for label in labels]
        vector = certain(0, len(labels))
        by = VERSIONS[policy.name], policy.rule(prospects), prospects, vector, True, None, 0, path, None
        return Draw(*by, request.bound_to, pool.passed_over)

    def _ordered(self, candidates: Sequence[Scored]) -> tuple[tuple[str, ...], list[Scored]]:
        """The models and a candidate of each in the order of the draw, which is remembered."""
        names = tuple([each[1].label for each in candidates])
        known = self._orders.get(names)
        if known is None:
            if len(self._orders) >= MAX_ORDERS:
                self._orders.clear()
            labels = (names[0], *sorted({*names[1:]} - {names[0]}))
            known = self._orders[names] = labels, [names.index(label) for label in labels]
        labels, places = known
        return labels, [candidates[place] for place in places]

    def _uniform(self, session_id: str) -> float:
        """A number in 0..1; always the same one within a conversation, so that it stays where it was drawn
        while the probabilities do.
        """
        if not session_id:
            return self._rng.random()
        digest = blake2b(session_id.encode(), digest_size=8, person=b"attune draw").digest()
        return (int.from_bytes(digest, "big") + 0.5) / 2**64

    # -- learning --------------------------------------------------------------------------------

    def begun(self, drawn: Draw, call_id: str, at: float) -> None:
        """Take in that a call was drawn for: what it may do harm counts from now on, what it costs is booked
        with its attempts.
        """
        if drawn.features is not None:
            _keep(self._prompts, call_id, drawn.features, MAX_PROMPTS)
        if drawn.policy == VERSIONS[BudgetPolicy.name]:
            _keep(self._to_pay, call_id, drawn, MAX_TO_PAY)
        elif drawn.policy == VERSIONS[GuardedPolicy.name]:
            label = drawn.prospects[drawn.chosen].model
            self._guarded.settle(Feedback(drawn.path, drawn.prospects, label, None, None, at))

    def observe(self, record: LLMCallRecord) -> None:
        """Book what an attempt cost, whoever made it; one of unknown cost as what was predicted."""
        drawn = self._to_pay.get(record.call_id)
        policy = self._policies.get(BudgetPolicy.name)
        if drawn is None or not isinstance(policy, BudgetPolicy):
            return
        label = f"{record.provider}/{record.model_id}"
        cost = None if record.cost_nanos is None else record.cost_nanos / NANOS_PER_USD
        if cost is None:
            cost = next((each.cost for each in drawn.prospects if each.model == label), None)
        if record.position == 0:
            policy.settle(Feedback(drawn.path, drawn.prospects, label, None, cost, record.at))
        else:
            policy.book(cost or 0.0)

    def judge(self, record: LLMCallRecord, reward: float, previous: float | None, decided: Decided) -> None:
        """Learn the reward of an attempt; where there was a ``previous`` one, that is corrected. What a
        retry, a fallback or an escalation made teaches nothing: its calls are not those that were drawn for.
        """
        if not record.chosen_by_policy:
            return
        path = path_of(record.workflow, record.stage, record.task_type)
        label = f"{record.provider}/{record.model_id}"
        if previous is not None:
            self.learner.correct(path, label, record.at, previous, reward)
            return
        self.labelled = True
        features = self._prompts.pop(record.call_id, None)
        changed = self.learner.judge(path, label, reward, record.at, features)
        name = decided.policy.partition("/")[0]
        if VERSIONS.get(name) == decided.policy and name in self._policies and decided.table:
            self._policies[name].judge(decided, label, reward, changed=changed)

    def tell(self) -> dict[str, Sums]:
        """What was learned here that other processes should know; see ``GuardedPolicy.tell``."""
        return {**self._guarded.tell(), **self.learner.tell()}

    def hear(self, totals: Mapping[str, Sums]) -> None:
        """Take over what all processes have learned together; at a start before roll-ups are restored."""
        self.labelled = self.labelled or bool(totals)
        self._guarded.hear(totals)
        self.learner.hear(totals)

    def restore(self, rows: Iterable[RollupRow]) -> None:
        """Take in the labels that roll-ups have of what policies chose."""
        days: dict[int, Labels] = {}
        for row in rows:
            self.labelled = True
            path = path_of(row.workflow, row.stage, row.task_type)
            keys = days.setdefault(row.bucket, {}).setdefault(f"{row.provider}/{row.model_id}", {})
            calls, reward = keys.get(path, (0.0, 0.0))  # a model whose tier has changed has two rows
            keys[path] = calls + row.drawn, reward + row.drawn_sum
        self.learner.restore(days)

    def recall(self, calls: Iterable[tuple[DecisionRecord, float | None]]) -> None:
        """Take in the newest calls with their USD, oldest first: what they could choose among is what the
        policy "budget" sets its price by.
        """
        policy = self._policies.get(BudgetPolicy.name)
        for decision, cost in calls:
            if policy is None or decision.policy != VERSIONS[BudgetPolicy.name] or not decision.ranked:
                continue
            prospects = [prospect for each in decision.ranked if (prospect := prospect_of(each)) is not None]
            if prospects:
                path = path_of(*decision[3:6])
                chosen = prospects[0].model
                paid = prospects[0].cost if cost is None else cost
                policy.settle(Feedback(path, prospects, chosen, None, paid, decision.at))

    def _named(self, name: str) -> LivePolicy:
        check_policy(name)
        if name not in self._policies:
            raise InvalidRequestError(
                'the policy "budget" needs the dollars that it may spend: budget_usd in [routing], which is '
                "another one than that of a call"
            )
        return self._policies[name]


def _belief(prospect: Prospect) -> Belief:
    return (prospect.mean, prospect.sd, prospect.calls, prospect.ability_sd, prospect.changed)


def _keep(kept: OrderedDict[str, T], call_id: str, value: T, most: int) -> None:
    kept[call_id] = value
    if len(kept) > most:
        kept.popitem(last=False)


def prospect_of(scored: ScoredCandidate) -> Prospect | None:
    """What was believed of a candidate, from its decision's record; ``None`` if it was not to be drawn."""
    if scored.belief is None:
        return None
    mean, sd, calls, ability_sd, changed = scored.belief
    label, rank = f"{scored.provider}/{scored.model_id}", ModelTier.parse(scored.tier).rank
    cost = scored.weighed_usd
    return Prospect(label, mean, sd, calls, cost, rank, scored.score, changed, ability_sd)


def path_of(workflow: str, stage: str, task_type: str) -> Path:
    """The key of a call, from the whole to the part."""
    return (ALL, workflow, stage, task_type)
