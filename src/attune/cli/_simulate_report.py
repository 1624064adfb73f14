"""What a simulation came to: for programs, and for people in a table and a few plain sentences."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from attune.cli._simulate_table import NO_KEY
from attune.cli._terminal import counted, folded, print_table
from attune.models.hindsight import single_models
from attune.models.study import Kind

if TYPE_CHECKING:
    from attune.cli._simulate_table import Table
    from attune.models.study import Contender, Estimate, Measures, Yardstick

__all__ = ["Report", "show"]

EQUAL = 1e-9
"""Rewards that differ by less are the same, but for rounding."""
SHOWN_FROM = 5e-4
SHARES_SHOWN = 3
FOLLOWS_THE_TABLE = ("static", "guarded")


class Report(NamedTuple):
    """What was asked and what came out; the first contender is the policy."""

    file: str
    policy: str
    key: str
    seeds: int
    table: Table
    yardstick: Yardstick
    contenders: list[Contender]

    @property
    def asked(self) -> Contender:
        """How the policy did."""
        return self.contenders[0]

    @property
    def best_single(self) -> Contender:
        """The single model with the highest mean reward, of those within the latency limit where some are."""
        singles = [each for each in self.contenders if each.kind is Kind.SINGLE]
        return min(singles, key=lambda each: (abs(each.whole.above_single.mean), each.whole.cost.mean))

    def as_json(self) -> dict[str, Any]:
        """For programs; USD, and ``null`` for what one seed cannot say."""
        limit = self.yardstick.max_latency_ms
        return {
            "table": self.file,
            "rows": len(self.table.rows),
            "key": None if self.key == NO_KEY else self.key,
            "keys": len({row.key for row in self.table.rows}),
            "models": list(self.yardstick.models),
            "tiers": dict(self.yardstick.ranks or {}) or None,
            "policy": self.policy,
            "budget_usd": self.yardstick.ceiling,
            "max_latency_ms": None if limit == math.inf else limit,
            "seeds": self.seeds,
            "best_single_model": self.best_single.name.removeprefix("always "),
            "verdict": {
                "whole": _verdict(self.asked.whole),
                "second_half": _verdict(self.asked.late),
            },
            "contenders": [
                {
                    "name": each.name,
                    "kind": each.kind.value,
                    "whole": _measures_as_json(each.whole),
                    "second_half": _measures_as_json(each.late),
                }
                for each in self.contenders
            ],
        }


def _verdict(measures: Measures) -> dict[str, str]:
    return {
        "against_static_hull": _judged(measures.above_hull),
        "against_best_single_model": _judged(measures.above_single),
    }


def _judged(difference: Estimate) -> str:
    """Which is higher: ``above`` or ``below`` when the 95 % interval lies beyond 0 wholly."""
    if max(abs(difference.least), abs(difference.greatest)) < EQUAL:
        return "equal"
    if difference.low > EQUAL:
        return "above"
    return "below" if difference.high < -EQUAL else "undecided"


def _measures_as_json(measures: Measures) -> dict[str, Any]:
    return {
        "reward": _estimate_as_json(measures.reward, "least"),
        "cost_usd": _estimate_as_json(measures.cost, "greatest"),
        "regret_best_single": _estimate_as_json(measures.regret_single, "greatest"),
        "regret_row_oracle": _estimate_as_json(measures.regret_oracle, "greatest"),
        "above_static_hull": _estimate_as_json(measures.above_hull, "least"),
        "above_best_single": _estimate_as_json(measures.above_single, "least"),
        "shares": {model: _estimate_as_json(share) for model, share in measures.shares.items()},
    }


def _estimate_as_json(estimate: Estimate, worst: str | None = None) -> dict[str, float | None]:
    """With the worst seed where less or more is worse."""
    known = {name: value if math.isfinite(value) else None for name, value in estimate._asdict().items()}
    return known if worst is None else {**known, "worst_seed": known[worst]}


# -- for people ------------------------------------------------------------------------------------------


def show(report: Report) -> None:
    """Print the table and the sentences."""
    keys = len({row.key for row in report.table.rows})
    kinds = "no key" if report.key == NO_KEY else f"{counted(keys, 'key')} ({report.key})"
    print(
        folded(
            f"{counted(len(report.table.rows), 'row')}, {kinds}, {len(report.yardstick.models)} models, "
            f"replayed in {counted(report.seeds, 'shuffled order')}; ± is half the 95 % interval over them"
        )
    )
    print_table(
        (
            "",
            ">reward",
            ">worst",
            ">2nd half",
            ">USD a call",
            ">regret to best single",
            ">to each row's best",
            "shares",
        ),
        [_row(each) for each in report.contenders],
    )
    for sentence in (*_sentences(report), *_remarks(report)):
        print(folded(sentence))


def _row(each: Contender) -> tuple[str, ...]:
    whole = each.whole
    return (
        each.name,
        f"{whole.reward.mean:.4f}{_half(whole.reward, '.4f')}",
        f"{whole.reward.least:.4f}",
        f"{each.late.reward.mean:.4f}",
        f"{whole.cost.mean:.3g}",
        f"{whole.regret_single.mean:.1f}",
        f"{whole.regret_oracle.mean:.1f}",
        "" if each.kind is Kind.SINGLE else _shares(whole),
    )


def _half(estimate: Estimate, spec: str) -> str:
    half = estimate.high - estimate.mean
    return f" ±{half:{spec}}" if math.isfinite(half) and half > EQUAL else ""


def _shares(measures: Measures) -> str:
    """The models with the most calls, without their providers, and how many others had any."""
    ordered = sorted(measures.shares.items(), key=lambda item: -item[1].mean)
    called = [(model, share.mean) for model, share in ordered if share.mean >= SHOWN_FROM]
    shown = [f"{model.rpartition('/')[2]} {share:.1%}" for model, share in called[:SHARES_SHOWN]]
    if others := called[SHARES_SHOWN:]:
        shown.append(f"{counted(len(others), 'other')} {sum(share for _, share in others):.1%}")
    return ", ".join(shown)


def _sentences(report: Report) -> list[str]:
    """Whether the policy beat the hull and the best single model, over the whole stream and its end."""
    asked, single = report.asked, report.best_single
    name = single.name.removeprefix("always ")
    cost = _at_cost(asked.whole.cost.mean, single.whole.cost.mean)
    hull = "the static hull (the best fixed mixture of models at the same spend)"
    return [
        _compared(report.policy, hull, asked.whole.above_hull, asked.late.above_hull),
        _compared(
            report.policy,
            f"the best single model, {name}, {cost}",
            asked.whole.above_single,
            asked.late.above_single,
        ),
    ]


_WORDS = {
    "above": "beat",
    "below": "did not beat",
    "equal": "earned as much as",
    "undecided": "was not told apart from",
}


def _compared(policy: str, other: str, whole: Estimate, late: Estimate) -> str:
    return (
        f"{policy} {_WORDS[_judged(whole)]} {other}: {_interval(whole)}; "
        f"in the second half it {_WORDS[_judged(late)]} it: {_interval(late)}"
    )


def _interval(difference: Estimate) -> str:
    if not math.isfinite(difference.low):
        return f"{difference.mean:+.4f} a call in one order, which gives no interval"
    return f"{difference.mean:+.4f} a call, 95 % interval {difference.low:+.4f} to {difference.high:+.4f}"


def _at_cost(cost: float, other: float) -> str:
    if other > 0:
        return f"at {cost / other:.3g} times its cost"
    return "which costs nothing" if cost > 0 else "both at no cost"


def _remarks(report: Report) -> list[str]:
    """What else a reader has to know to judge these figures."""
    remarks = []
    ceiling, cost = report.yardstick.ceiling, report.asked.whole.cost
    if ceiling is not None:
        remarks.append(
            f"spent {cost.mean / ceiling:.1%} of the budget, {cost.greatest / ceiling:.1%} in the worst order"
        )
        cheapest = min(usd for _, usd in single_models(report.table.rows).values())
        if ceiling < cheapest:
            remarks.append(f"note: even the cheapest model costs {cheapest:.3g} USD a call, above the budget")
    if report.policy in FOLLOWS_THE_TABLE:
        remarks.append(
            f"note: the static table's choice is {report.yardstick.models[0]}, the first model of "
            f"{'the tiers' if report.yardstick.ranks else 'the first row; --tiers FILE names another'}"
        )
    if report.policy == "guarded" and not report.yardstick.ranks:
        remarks.append(
            "note: guarded tries only what it knows to be cheaper; without --tiers it knows of nothing"
        )
    if report.key == NO_KEY and report.table.fields:
        remarks.append(f"note: no key was used; this table could have one: --key {report.table.fields[0]}")
    remarks.append(
        "note: the intervals are of the orders and the draws, over these rows; other rows can differ by more"
    )
    return remarks
