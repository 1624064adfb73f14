"""Whether routing learns: rewards, spend, regret and harm on tables of others, beside their targets.

Every policy starts cold and sees bandit feedback only; the part ``offline`` learns from labelled rows and is
judged on others. ``--data`` names the folder with ``paretobandit/`` and ``routellm/``. Each figure is a mean
over ``--seeds`` shuffled orders (harm: ``--runs``).

Usage: ``python benchmarks/routing.py --data DIR [--seeds 20] [--runs 200] [--only NAME ...] [--json]``.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import _routing_offline as by_labels
import _routing_tables as tables
import _table

from attune.models.baselines import LiteLLMBeta, SinglePolicy
from attune.models.hindsight import clairvoyant, single_models
from attune.models.learner import Learner
from attune.models.policies import (
    Allowance,
    BudgetPolicy,
    Feedback,
    GuardedPolicy,
    Setting,
    ThompsonPolicy,
)
from attune.models.simulation import replay
from attune.models.study import Yardstick, entrant, study

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from attune.models.policies import Policy
    from attune.models.simulation import Replay, Row
    from attune.models.study import Contender

CEILINGS = (2.93e-5, 8.3e-5, 2.3e-4, 6.5e-4, 1.7e-3, 4.7e-3, 1.1e-2)
WITH_KEY = (None, 0.818, 0.870, 0.918, 0.923, 0.926, 0.930)
LATE_ABOVE_HULL = (-0.003, 0.015, 0.025, -0.003, -0.003, 0.002, 0.002)
WITHOUT_KEY = (None, 0.809, 0.860, 0.910, 0.919, 0.920, 0.925)
LABELS, FOLDS = 1500, 5
PHASE = 600
BEFORE, LASTS = 800, 800
"""Calls before a silent change and while it lasts."""


class Figure(NamedTuple):
    """One figure and its target; ``at_most`` says which way it counts."""

    name: str
    value: float
    target: float | None = None
    at_most: bool = False

    @property
    def met(self) -> bool | None:
        if self.target is None:
            return None
        return self.value <= self.target if self.at_most else self.value >= self.target


def pareto(data: Path, seeds: int, *, key: bool) -> list[Figure]:
    """Reward and spend at each ceiling, cold."""
    rows = tables.pareto(data, key=key, prompts=not key)
    figures = []
    cheapest = single_models(rows)[tables.CHEAP][0] - 0.002
    for ceiling, target, late in zip(
        CEILINGS, WITH_KEY if key else WITHOUT_KEY, LATE_ABOVE_HULL, strict=True
    ):
        found = budgeted(rows, ceiling, seeds, Yardstick(tables.PARETO_MODELS, tables.PARETO_RANKS))
        spend = found.whole.cost
        tight = ceiling == CEILINGS[0]
        figures += [
            Figure(f"reward at {ceiling:.1e}", found.whole.reward.mean, target or cheapest),
            Figure(
                f"  spend / ceiling at {ceiling:.1e}",
                spend.mean / ceiling,
                1.03 if tight else 1.02,
                True,
            ),
            Figure(f"  worst seed at {ceiling:.1e}", spend.greatest / ceiling, 1.08 if tight else 1.05, True),
        ]
        if key:
            figures.append(
                Figure(f"  2nd half above hull at {ceiling:.1e}", found.late.above_hull.mean, late)
            )
    return figures


def budgeted(rows: list[Row], ceiling: float, seeds: int, yardstick: Yardstick) -> Contender:
    """What a budget of so much a call came to."""
    policy = entrant("budget", lambda _: BudgetPolicy(Allowance(ceiling)))
    return study(rows, [policy], seeds, yardstick)[0]


def regret(data: Path, seeds: int) -> list[Figure]:
    """Regret to the per-row oracle without a budget, with tiers given, hidden and reversed."""
    rows = tables.pareto(data)
    given = tables.PARETO_RANKS
    prices = {m: cost for m, (_, cost) in single_models(rows).items()}

    def of(make: Callable[[int], Policy], ranks: dict[str, int] | None) -> float:
        yardstick = Yardstick(tables.PARETO_MODELS, ranks)
        return study(rows, [entrant("", make)], seeds, yardstick)[0].whole.regret_oracle.mean

    reverse = {m: 2 - rank for m, rank in given.items()}
    return [
        Figure("regret, tiers given", of(lambda _: ThompsonPolicy(), given)),
        Figure("regret, tiers hidden", of(lambda _: ThompsonPolicy(), None), 65, at_most=True),
        Figure("regret, tiers reversed", of(lambda _: ThompsonPolicy(), reverse), 90, at_most=True),
        Figure("regret, always premium", of(lambda _: SinglePolicy(tables.PREMIUM), None)),
        Figure("regret, LiteLLM's Beta bandit", of(lambda seed: LiteLLMBeta(prices, seed), given)),
    ]


def routellm(data: Path, seeds: int, name: str, target: float, *, prompts: bool) -> list[Figure]:
    """APGR online: MMLU by the subject, GSM8K without a key; with the prompts or not."""
    rows = tables.routellm(data, name, prompts=prompts)
    singles = single_models(rows)
    weak, strong = singles["weak"][0], singles["strong"][0]
    gains, over = [], []
    for share in by_labels.SHARES:
        found = budgeted(rows, share, seeds, Yardstick(tables.ROUTELLM_MODELS, tables.ROUTELLM_RANKS))
        gains.append((found.whole.reward.mean - weak) / (strong - weak))
        over.append(found.whole.cost.mean - share)
    return [
        Figure(
            f"APGR of {name}, online{', with prompts' if prompts else ''}", statistics.fmean(gains), target
        ),
        Figure(
            "  strong calls above nominal, at most",
            max(over),
            0.001 if name == "mmlu" else None,
            at_most=True,
        ),
    ]


def offline(data: Path, seeds: int) -> list[Figure]:
    """APGR on rows that were not learned from, by the key (MMLU) and the prompt's features."""
    mmlu = tables.routellm(data, "mmlu", prompts=True)
    gsm8k = tables.routellm(data, "gsm8k", prompts=True)
    found = {
        (f"MMLU with {LABELS:,} labels", 0.645): [
            by_labels.of_labels(mmlu, LABELS, seed) for seed in range(seeds)
        ],
        (f"GSM8K, {FOLDS}-fold", 0.64): [by_labels.of_folds(gsm8k, FOLDS, seed) for seed in range(seeds)],
    }
    return [
        figure
        for (name, target), each in found.items()
        for figure in (
            Figure(f"APGR of {name}, offline", statistics.fmean(each), target),
            Figure(f"  worst draw of {name}", min(each)),
        )
    ]


def price_change(data: Path, seeds: int) -> list[Figure]:
    """The premium model's price falls tenfold after 600 calls and returns after 600 more."""
    rows = tables.pareto(data)
    model = tables.PREMIUM

    def price(i: int) -> float:
        return 0.1 if PHASE <= i < 2 * PHASE else 1.0

    figures = []
    for ceiling in CEILINGS[3:6]:
        spent: list[list[float]] = [[], [], []]
        for seed in range(seeds):
            order = tables.stream(rows, 3 * PHASE, seed)
            order = [tables.altered(row, model, price=price(i)) for i, row in enumerate(order)]
            run = replay(
                order,
                BudgetPolicy(Allowance(ceiling)),
                seed,
                models=tables.PARETO_MODELS,
                ranks=tables.PARETO_RANKS,
                prices=lambda i: {model: price(i)},
            )
            for phase, each in enumerate(spent):
                each.append(statistics.fmean(run.costs[phase * PHASE : (phase + 1) * PHASE]) / ceiling)
        worst = max(statistics.fmean(each) for each in spent)
        figures.append(Figure(f"spend / ceiling in a phase at {ceiling:.1e}", worst, 1.05, at_most=True))
    return figures


def degradation(data: Path, seeds: int) -> list[Figure]:
    """A model silently loses 20 points for 800 calls."""
    rows = tables.pareto(data)
    cases: list[tuple[str, float | None]] = [(tables.CAPABLE, 6.5e-4), (tables.PREMIUM, None)]
    return [figure for model, ceiling in cases for figure in _degraded(rows, model, ceiling, seeds)]


def _degraded(rows: list[Row], model: str, ceiling: float | None, seeds: int) -> list[Figure]:
    regime = clairvoyant([tables.altered(row, model, less=0.2) for row in rows], ceiling).reward
    kept, recovered = [], []
    for seed in range(seeds):
        order = tables.stream(rows, 3 * BEFORE, seed)
        order[BEFORE : BEFORE + LASTS] = [
            tables.altered(row, model, less=0.2) for row in order[BEFORE : BEFORE + LASTS]
        ]
        policy = ThompsonPolicy() if ceiling is None else BudgetPolicy(Allowance(ceiling))
        run = replay(order, policy, seed, models=tables.PARETO_MODELS, ranks=tables.PARETO_RANKS)
        kept.append(_mean_of(run, BEFORE) / regime)
        recovered.append(_mean_of(run, BEFORE + LASTS) / _mean_of(run, 0))
    name = f"{model.split('/')[1]}, {'no budget' if ceiling is None else f'{ceiling:.1e}'}"
    return [
        Figure(f"silent fall of {name}", statistics.fmean(kept), 0.94),
        Figure(f"  and its recovery, {name}", statistics.fmean(recovered), 0.98),
    ]


def _mean_of(run: Replay, change: int) -> float:
    """The mean reward of calls 300 to 800 after a change."""
    return statistics.fmean(run.rewards[change + 300 : change + 800])


def newcomer(data: Path, seeds: int) -> list[Figure]:
    """A fourth model appears after 800 calls, better or worse than the capable one at its price."""
    rows = tables.pareto(data)
    policies: dict[str, Callable[[], Policy]] = {
        "thompson": ThompsonPolicy,
        "budget": lambda: BudgetPolicy(Allowance(6.5e-4)),
    }
    figures = []
    for name, make in policies.items():
        better = [_newcomer(rows, make(), -0.04, seed) for seed in range(seeds)]
        worse = [_newcomer(rows, make(), 0.1, seed) for seed in range(seeds)]
        half = statistics.median(_calls_to_half(run) for run in better)
        share = statistics.fmean(run.models[2000:].count("new") / len(run.models[2000:]) for run in worse)
        figures += [
            Figure(f"calls until half of a better model's share, {name}", half, 150, at_most=True),
            Figure(f"  final share of a worse one, {name}", share, 0.03, at_most=True),
        ]
    return figures


def _newcomer(rows: list[Row], policy: Policy, less: float, seed: int) -> Replay:
    order = tables.stream(rows, 2400, seed)
    for i in range(BEFORE, len(order)):
        arms = order[i].arms
        new = tables.altered(order[i], tables.CAPABLE, less=less).arms[tables.CAPABLE]
        order[i] = order[i]._replace(arms={**arms, "new": new})
    models, ranks = [*tables.PARETO_MODELS, "new"], {**tables.PARETO_RANKS, "new": 1}
    return replay(order, policy, seed, models=models, ranks=ranks)


def _calls_to_half(run: Replay) -> int:
    """The end of the first 50 calls in which its share without explored draws is half the final one."""

    def share(first: int, last: int) -> float:
        drawn = [m for m, e in zip(run.models[first:last], run.explored[first:last], strict=True) if not e]
        return drawn.count("new") / max(len(drawn), 1)

    goal = share(2000, 2400) / 2
    starts = range(BEFORE, 2350, 10)
    return next((s + 50 - BEFORE for s in starts if share(s, s + 50) >= goal), 2400)


def harm(data: Path, runs: int) -> list[Figure]:
    """The default policy's reward lost to the static table's choice, by the table's means per key."""
    pareto_rows = tables.pareto(data)
    figures = _harm("ParetoBandit", pareto_rows, tables.PARETO_MODELS, tables.PARETO_RANKS, runs)
    figures[-1] = figures[-1]._replace(target=0.65, at_most=True)
    for name in ("gsm8k", "mmlu"):
        rows = tables.routellm(data, name, prompts=False)
        figures += _harm(name, rows, tables.ROUTELLM_MODELS, tables.ROUTELLM_RANKS, runs)
    return figures


def _harm(
    name: str, rows: list[Row], models: Sequence[str], ranks: dict[str, int], runs: int
) -> list[Figure]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.key, []).append(row)
    means = {key: single_models(group) for key, group in groups.items()}
    reference = models[0]
    always = single_models(rows)[reference][1]
    within, spent = [], []
    for seed in range(runs):
        order = tables.stream(rows, len(rows), seed)
        run = replay(order, GuardedPolicy(), seed, models=models, ranks=ranks)
        lost = 0.0
        kept = True
        for t, (row, model) in enumerate(zip(order, run.models, strict=True), 1):
            lost += means[row.key][reference][0] - means[row.key][model][0]
            kept &= lost <= 0.05 * t + 5
        within.append(kept)
        spent.append(statistics.fmean(run.costs) / always)
    return [
        Figure(f"runs within the harm promised, {name}", statistics.fmean(within), 0.95),
        Figure(f"  spend / always the reference, {name}", statistics.fmean(spent)),
    ]


def speed() -> list[Figure]:
    """A decision among 10 candidates after 3,000 calls: what is predicted of each, and the vector."""
    return [
        figure
        for prompt, target in ((None, 40.0), ("How many primes lie below 100? " * 20, 150.0))
        for figure in _speed(prompt, target)
    ]


def _speed(prompt: str | None, target: float) -> list[Figure]:
    models = [f"m{i}" for i in range(10)]
    figures = []
    for policy in (ThompsonPolicy(), BudgetPolicy(Allowance(0.005)), GuardedPolicy()):
        learner, generator, times = Learner(), random.Random(0), []
        for i in range(3200):
            path, now = ("*", f"key {i % 30}"), 60.0 * i
            started = time.perf_counter_ns()
            prediction = learner.predict(path, models, prompt)
            policy.probabilities(prediction.prospects, Setting(path, now))
            times.append((time.perf_counter_ns() - started) / 1000)
            place, reward = generator.randrange(10), float(generator.random() < 0.8)
            learner.observe(prediction, place, reward, 0.001 * place, now)
            model = models[place]
            policy.settle(Feedback(path, prediction.prospects, model, reward, 0.001 * place, now))
        name = f"us a decision, {policy.name}{'' if prompt is None else ', with features'}"
        figures.append(Figure(name, statistics.median(times[3000:]), target, at_most=True))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    data, seeds = args.data, args.seeds
    if missing := [name for name in tables.FILES if not (data / name).is_file()]:
        parser.error(f"{data} has no {missing[0]}; docs/how-to/simulate.md says where the tables are from")
    parts: dict[str, Callable[[], list[Figure]]] = {
        "pareto": lambda: pareto(data, seeds, key=True),
        "pareto-without-key": lambda: pareto(data, seeds, key=False),
        "regret": lambda: regret(data, seeds),
        "price": lambda: price_change(data, seeds),
        "degradation": lambda: degradation(data, seeds),
        "newcomer": lambda: newcomer(data, seeds),
        "gsm8k": lambda: routellm(data, seeds, "gsm8k", 0.56, prompts=True),
        "mmlu": lambda: routellm(data, seeds, "mmlu", 0.625, prompts=False),
        "mmlu-with-prompts": lambda: routellm(data, seeds, "mmlu", 0.625, prompts=True),
        "offline": lambda: offline(data, seeds),
        "harm": lambda: harm(data, args.runs),
        "speed": speed,
    }
    if unknown := set(args.only or ()) - set(parts):
        parser.error(f"--only knows {', '.join(parts)}; not {', '.join(sorted(unknown))}")
    results = {name: part() for name, part in parts.items() if not args.only or name in args.only}
    if args.json:
        as_json = {n: [{**f._asdict(), "met": f.met} for f in figures] for n, figures in results.items()}
        print(json.dumps({"seeds": seeds, "runs": args.runs, "figures": as_json}, indent=2))
        return
    for name, figures in results.items():
        _table.show(name, ("figure", "value", "target", ""), [_cells(f) for f in figures])


def _cells(figure: Figure) -> tuple[str, str, str, str]:
    if figure.target is None:
        return figure.name, f"{figure.value:.4g}", "", ""
    sign = "<=" if figure.at_most else ">="
    return (
        figure.name,
        f"{figure.value:.4g}",
        f"{sign} {figure.target:.4g}",
        "met" if figure.met else "MISSED",
    )


if __name__ == "__main__":
    main()
