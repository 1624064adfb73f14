"""Which candidates fit a request by what never changes, and what is said of those that do not."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from attune.errors import NoCandidateError, UnknownNameError
from attune.models.option import REFUSED
from attune.models.overflow import CANNOT_PAY
from attune.models.performance import wilson_bounds
from attune.models.tasks import TASK_TIER_MAP
from attune.models.tier_movement import ENOUGH_SAMPLES

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from attune.models.candidate import Availability
    from attune.models.option import Drop, Option
    from attune.models.registry import ModelInfo
    from attune.models.route_request import RouteRequest

__all__ = ["Eligibility", "nothing_fits", "shown_below", "split", "too_dear", "unknown_task"]

FLOOR_Z = 1.282
"""One-sided 90 %: how sure a success rate of fewer than ``ENOUGH_SAMPLES`` calls must be below the minimum
for its candidate to be dropped. Dropped, it gets no calls that could clear it.
"""


MAX_SHAPES = 256


class Eligibility:
    """Which options fit a request by what never changes; remembered by the shape of requests.

    ``listed`` are the models (by label) that are meant where a request names none, ``find`` those that a name
    means. ``allowed`` maps a workflow to the providers that it may use; ``"*"`` is everyone's.
    """

    def __init__(
        self,
        options: Sequence[Option],
        listed: Collection[str],
        find: Callable[[str], Sequence[ModelInfo]],
        allowed: Mapping[str, frozenset[str]],
        *,
        local_only: bool,
    ) -> None:
        self._options = options
        self._listed = listed
        self._find = find
        self._allowed = allowed
        self._local_only = local_only
        self._known: dict[tuple[object, ...], tuple[list[Option], list[Drop]]] = {}

    def of(self, request: RouteRequest) -> tuple[list[Option], list[Drop]]:
        """The options that fit, and those that do not."""
        shape = (
            request.needs,
            request.model,
            request.allow_providers,
            request.allow_models,
            request.local_only,
            self._allowed.get(request.workflow),
        )
        found = self._known.get(shape)
        if found is None:
            if len(self._known) >= MAX_SHAPES:
                self._known.clear()
            found = self._known[shape] = self._split(request)
        return found

    def _split(self, request: RouteRequest) -> tuple[list[Option], list[Drop]]:
        asked = {m.label for m in self._find(request.model)} if request.model else self._listed
        limits = (request.allow_providers, self._allowed.get("*"), self._allowed.get(request.workflow))
        allowed = [allow for allow in limits if allow is not None]
        options = [option for option in self._options if option.label in asked]
        return split(options, request, allowed, local_only=request.local_only or self._local_only)


def split(
    options: Sequence[Option], request: RouteRequest, allowed: Sequence[frozenset[str]], *, local_only: bool
) -> tuple[list[Option], list[Drop]]:
    """The options that fit, and the drops of the others; each set of ``allowed`` must have a provider."""
    fitting: list[Option] = []
    dropped: list[Drop] = []
    for option in options:
        model = option.model
        if not all(model.provider in allow for allow in allowed):
            dropped.append((option, f"the provider {model.provider} is not allowed here", 7))
        elif request.allow_models is not None and option.label not in request.allow_models:
            dropped.append((option, "the model is not allowed here", 7))
        elif local_only and not model.local:
            dropped.append((option, "it is not local, and only local models are allowed", 7))
        elif unfit := model.unfit_for(request.needs):
            dropped.append((option, unfit, 6))
        else:
            fitting.append(option)
    return fitting, dropped


def shown_below(min_success_rate: float, measured: float, calls: float) -> bool:
    """Whether a rate below the minimum counts: over enough calls, or beyond chance."""
    return calls >= ENOUGH_SAMPLES or wilson_bounds(measured * calls, calls, FLOOR_Z)[1] < min_success_rate


def too_dear(cost: float | None, max_cost: float) -> str:
    """Why a predicted cost is above the limit."""
    if cost is None:
        return f"its price is unknown, so it cannot be held to ${max_cost:g}"
    return f"would cost about ${cost:.6f}, above ${max_cost:g}"


def nothing_fits(
    dropped: Sequence[Drop], availability: Availability | None, notes: Sequence[str]
) -> NoCandidateError:
    """The error that names the nearest candidate and what it lacks, with ``notes`` on what may pay;
    ``availability`` refused some.
    """
    if not dropped:
        return NoCandidateError(
            "no provider is enrolled for this request; set a key such as ANTHROPIC_API_KEY, or add a provider"
        )
    option, reason, _ = min(dropped, key=lambda drop: drop[2])
    off = [each for each, _, place in dropped if place == REFUSED and availability is not None]
    refusals = [] if availability is None else [availability.refusal(each.candidate) for each in off]
    refused = {refusal.error_class for refusal in refusals if refusal is not None}
    return NoCandidateError(
        "; ".join((f"no candidate fits; the nearest is {option.candidate.key}: {reason}", *notes)),
        nearest=option.label,
        lacks=reason,
        drops=[(dropped_option.candidate.key, why) for dropped_option, why, _ in dropped],
        unpaid=bool(refused) and refused <= CANNOT_PAY,
    )


@lru_cache(maxsize=256)
def unknown_task(task: str) -> str:
    """The remark about a task that is not known; it may well be the caller's own."""
    nearest = UnknownNameError("task", task, TASK_TIER_MAP).nearest
    hint = "" if nearest is None else f"; did you mean {nearest!r}?"
    return f"unknown task {task!r}: treated as capable{hint}"
