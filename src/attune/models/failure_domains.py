"""Whom a failure is blamed on, and what may therefore not be tried for a while.

=================== ======================================= =================================
error class         blamed                                  effect
=================== ======================================= =================================
connection          the provider                            its breaker counts a failure
transient,          the (provider, model)                   its breaker counts a failure
mid_stream          and the provider, if its last failure   its breaker counts one as well
                    of this kind was another model's
throttled           the (provider, model, credential)       cools down, at least as asked
model               the (provider, model, credential)       off for 10 minutes
credential, money   the credential                          off, probed again at growing intervals,
                                                            one attempt at a time
window_spent        the credential; of a window that only   off until the window's reset
                    some models have, those of them
the others          nobody                                  permits are given back unused
=================== ======================================= =================================

Failures of several models in turn, with no success of the provider between, are the provider's; one
model may fail as often as it likes without closing the others. An overloaded (provider, model) that
says how long to wait rests so long, with every credential. A deadline that another process found
out is kept up to a tenth longer, at random: whoever found it out probes first.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, NamedTuple

from attune.clock import SYSTEM_CLOCK
from attune.errors import ErrorClass
from attune.models.candidate import Refusal
from attune.models.circuit_breaker import JITTER, BreakerSnapshot, CircuitBreaker
from attune.models.credentials import CredentialHealth
from attune.models.off_reasons import class_of, how_long, why_off
from attune.models.quota import USED_UP
from attune.models.state import Fact, FactKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from attune.clock import Clock
    from attune.errors import ProviderError
    from attune.models.candidate import Candidate
    from attune.models.circuit_breaker import Permit

__all__ = ["AttemptPermit", "BreakerLimits", "FailureDomains"]

DEFAULT_COOLDOWN_S = 5.0
"""How long a throttled candidate rests when the provider does not say."""

MODEL_OFF_S = 600.0
"""How long a model that a credential does not have is not tried with it."""


class BreakerLimits(NamedTuple):
    """The limits of every breaker; see ``CircuitBreaker``."""

    failure_threshold: int = 5
    recovery_timeout_seconds: float = 60.0
    half_open_calls: int = 1
    max_recovery_timeout_seconds: float = 600.0


class _Rest(NamedTuple):
    """Something is left alone until a monotonic time."""

    until: float
    reason: str
    error_class: ErrorClass


class AttemptPermit:
    """The permits of all domains that an attempt needs: settle it exactly once."""

    __slots__ = ("_credential", "_domains", "_model", "_provider", "candidate", "settled")

    def __init__(
        self,
        domains: FailureDomains,
        candidate: Candidate,
        provider: Permit,
        model: Permit,
        credential: CredentialHealth | None = None,
    ) -> None:
        self._domains = domains
        self._provider = provider
        self._model = model
        self._credential = credential  # that this attempt is the probe of
        self.candidate = candidate
        self.settled = False

    def success(self) -> None:
        """The attempt reached its terminal event."""
        if not self.settled:
            self.settled = True
            self._provider.success()
            self._model.success()
            self._return()
            self._domains._worked(self.candidate)

    def failure(self, error: ProviderError) -> None:
        """The attempt failed: blame the right domain and give the other permits back unused."""
        if not self.settled:
            self.settled = True
            if error.error_class is ErrorClass.CONNECTION:
                self._provider.failure()
            elif error.error_class in {ErrorClass.TRANSIENT, ErrorClass.MID_STREAM}:
                self._model.failure()
                if self._domains._spreads(self.candidate):
                    self._provider.failure()
            self._return()
            self._domains._blame(self.candidate, error)

    def blame(self, error: ProviderError) -> None:
        """Blame what the attempt found out, though it goes on."""
        self._domains._blame(self.candidate, error)

    def release(self) -> None:
        """The attempt was not made, was cancelled, or says nothing of anyone."""
        if not self.settled:
            self.settled = True
            self._return()

    def _return(self) -> None:
        self._provider.release()
        self._model.release()
        if self._credential is not None:
            self._credential.end_probe(self._model.lease_until)


class FailureDomains:
    """Every breaker, cooldown and credential health of a process; what the router asks.

    ``limits`` are the breakers'. ``publish`` is called with each ``Fact`` that other processes should
    know; ``learn`` takes in theirs. ``fingerprints`` tells the keys behind the credentials
    ("provider#credential") apart, so that a credential that went off is tried at once with a new key.
    ``rng`` draws the jitter of openings.
    """

    def __init__(
        self,
        limits: BreakerLimits = BreakerLimits(),  # noqa: B008  (an immutable value)
        *,
        clock: Clock = SYSTEM_CLOCK,
        publish: Callable[[Fact], None] | None = None,
        fingerprints: Mapping[str, str] | None = None,
        rng: Random | None = None,
    ) -> None:
        self._limits = limits
        self._clock = clock
        self._publish = publish
        self._fingerprints = dict(fingerprints or {})
        self._rng = Random() if rng is None else rng  # noqa: S311  (jitter, not secrets)
        self._seen: frozenset[Fact] = frozenset()
        self._breakers: dict[str, CircuitBreaker] = {}
        self._tripped: set[str] = set()
        self._last_failing: dict[str, str] = {}
        self._suspected: set[str] = set()
        self._rests: dict[str, _Rest] = {}
        self._credentials: dict[str, CredentialHealth] = {}
        self._learning = False
        self._told: dict[tuple[FactKind, str], Fact] = {}

    # -- asking: changes nothing -----------------------------------------------------------------

    @property
    def quiet(self) -> bool:
        """True when nothing is tripped, off or cooling down."""
        return not (self._tripped or self._rests or self._credentials)

    def refusal(self, candidate: Candidate, *, last_resort: bool = False) -> Refusal | None:
        """Why no permit would be granted now, or ``None``."""
        now = self._clock.monotonic()
        health = self._credentials.get(_credential_key(candidate))
        if health is not None and (retry_at := health.retry_at(now)) > now:
            error_class = class_of(health.reason, ErrorClass.CREDENTIAL)
            what = f"the credential {_credential_key(candidate)} is off: {health.reason}"
            what += self._how_long(candidate, error_class, retry_at)
            return Refusal(_credential_key(candidate), what, retry_at, error_class)
        if (found := self._resting(candidate, now)) is not None:
            key, rest = found
            what = rest.reason + self._how_long(candidate, rest.error_class, rest.until)
            return Refusal(key, what, rest.until, rest.error_class)
        for domain in _domain_names(candidate):
            breaker = self._breakers.get(domain)
            if breaker is not None and not breaker.would_permit(last_resort=last_resort):
                retry_at = breaker.retry_at(last_resort=last_resort)
                reason = f"the circuit of {domain} is {breaker.state.value.replace('_', '-')}"
                return Refusal(domain, reason, retry_at, None)
        return None

    def _resting(self, candidate: Candidate, now: float) -> tuple[str, _Rest] | None:
        """What lets the candidate rest; a spent window before all else, whose end others would hide."""
        if not self._rests:
            return None
        keys = (candidate.key, candidate.label, *_families(candidate))
        found = [(key, rest) for key in keys if (rest := self._rests.get(key)) and rest.until > now]
        return max(found, key=lambda each: each[1].error_class is ErrorClass.WINDOW_SPENT, default=None)

    def _how_long(self, candidate: Candidate, error_class: ErrorClass, until_s: float) -> str:
        wall = self._clock.time()
        return how_long(candidate, error_class, wall + until_s - self._clock.monotonic(), wall)

    def suspects(self, provider: str) -> bool:
        """Whether different models of a provider have failed, with no success of any between."""
        return provider in self._suspected

    def snapshot(self) -> tuple[BreakerSnapshot, ...]:
        """Every breaker that was ever used, by name."""
        return tuple(self._breakers[name].snapshot() for name in sorted(self._breakers))

    # -- taking ----------------------------------------------------------------------------------

    def acquire(
        self, candidate: Candidate, lease_seconds: float, *, last_resort: bool = False
    ) -> AttemptPermit | Refusal:
        """The permits of all the candidate's domains, or the refusal: all or nothing."""
        self._forget_past()
        refusal = self.refusal(candidate, last_resort=last_resort)
        if refusal is not None:
            return refusal
        provider, model = (
            self._breaker(domain).acquire(lease_seconds, last_resort=last_resort)
            for domain in _domain_names(candidate)
        )
        credential = self._credentials.get(_credential_key(candidate))
        if credential is not None and credential.reason == USED_UP:
            credential = None  # its reset has passed: there is nothing to probe
        if credential is not None:
            credential.take_probe(model.lease_until)
        return AttemptPermit(self, candidate, provider, model, credential)

    # -- what other processes know ---------------------------------------------------------------

    def learn(self, facts: Iterable[Fact]) -> None:
        """Take in facts of the store: a later deadline always wins, a cleared fact clears. A clearing of
        before our own last word on the same thing is ignored, as is a fact of before our own clearing, that
        last word itself when it comes back, and one that was taken in the last time as well.
        """
        seen, self._seen = self._seen, frozenset(facts)
        self._learning = True
        try:
            for fact in sorted(self._seen - seen, key=lambda fact: fact.at):
                told = self._told.get((fact.kind, fact.key))
                if told is None or fact.at > told.at or (fact.until and told.until and fact != told):
                    self._learn(fact)
        finally:
            self._learning = False

    def _learn(self, fact: Fact) -> None:
        wall = self._clock.time()
        # Nothing holds longer than it was meant to when it was learned, wherever the clock stood then.
        remaining = min(fact.until - wall, fact.until - fact.at)
        until = self._clock.monotonic() + remaining
        if fact.kind is FactKind.BREAKER:
            if fact.until > wall:
                self._breaker(fact.key).hold_open(until + remaining * self._rng.uniform(0, JITTER))
            elif fact.until == 0 and fact.key in self._breakers:
                self._breakers[fact.key].close()
        elif fact.kind is FactKind.CREDENTIAL_OFF:
            if fact.data != self._fingerprints.get(fact.key, fact.data):
                return  # it was another key, since replaced
            if fact.until > wall:
                health = self._credentials.setdefault(fact.key, CredentialHealth())
                health.learn(until, fact.detail)
            elif fact.until == 0:
                self._credentials.pop(fact.key, None)
        elif fact.kind in {FactKind.COOLDOWN, FactKind.MODEL_OFF}:
            off = class_of(fact.detail, ErrorClass.MODEL)
            error_class = ErrorClass.THROTTLED if fact.kind is FactKind.COOLDOWN else off
            rest = self._rests.get(fact.key)
            if fact.until > wall:
                self._rest(fact.key, until, fact.detail, error_class)
            elif fact.until == 0 and rest is not None and rest.error_class is error_class:
                del self._rests[fact.key]

    # -- settling --------------------------------------------------------------------------------

    def _spreads(self, candidate: Candidate) -> bool:
        """Note that a model failed; whether the provider's last failing one was another."""
        before = self._last_failing.get(candidate.provider, candidate.model_id)
        self._last_failing[candidate.provider] = candidate.model_id
        if before == candidate.model_id:
            return False
        self._suspected.add(candidate.provider)
        return True

    def _worked(self, candidate: Candidate) -> None:
        self._last_failing.pop(candidate.provider, None)
        self._suspected.discard(candidate.provider)
        key = _credential_key(candidate)
        health = self._credentials.get(key)
        # While it is off, a success is of an attempt that was under way before: no news.
        if health is not None and health.available(self._clock.monotonic()):
            del self._credentials[key]
            self._tell(FactKind.CREDENTIAL_OFF, key, 0.0, "it works again")

    def _blame(self, candidate: Candidate, error: ProviderError) -> None:
        now, wall = self._clock.monotonic(), self._clock.time()
        match error.error_class:
            case ErrorClass.THROTTLED if error.retry_after != 0:  # 0: at once
                seconds = DEFAULT_COOLDOWN_S if error.retry_after is None else error.retry_after
                self._cool_down(candidate.key, seconds, "it is throttled")
            case ErrorClass.TRANSIENT | ErrorClass.MID_STREAM if error.retry_after:
                self._cool_down(candidate.label, error.retry_after, "it asked to wait")
            case ErrorClass.MODEL:
                reason = "this credential does not have the model"
                self._rest(candidate.key, now + MODEL_OFF_S, reason, ErrorClass.MODEL)
                self._tell(FactKind.MODEL_OFF, candidate.key, wall + MODEL_OFF_S, reason)
            case ErrorClass.WINDOW_SPENT if family := _family(candidate, error.code):
                seconds = MODEL_OFF_S if error.retry_after is None else error.retry_after
                reason = why_off(candidate, error)
                self._rest(family, now + seconds, reason, error.error_class)
                self._tell(FactKind.MODEL_OFF, family, wall + seconds, reason)
            case ErrorClass.CREDENTIAL | ErrorClass.MONEY | ErrorClass.WINDOW_SPENT:
                key = _credential_key(candidate)
                health = self._credentials.setdefault(key, CredentialHealth())
                reason = why_off(candidate, error)
                if error.error_class is ErrorClass.WINDOW_SPENT and error.retry_after is not None:
                    until = health.learn(now + error.retry_after, reason)
                else:
                    until = health.off(now, reason)
                self._tell(FactKind.CREDENTIAL_OFF, key, wall + until - now, reason)
            case _:
                pass

    def _cool_down(self, key: str, seconds: float, reason: str) -> None:
        self._rest(key, self._clock.monotonic() + seconds, reason, ErrorClass.THROTTLED)
        self._tell(FactKind.COOLDOWN, key, self._clock.time() + seconds, reason)

    def _rest(self, key: str, until: float, reason: str, error_class: ErrorClass) -> None:
        before = self._rests.get(key)
        if before is None or until > before.until:
            self._rests[key] = _Rest(until, reason, error_class)

    def _forget_past(self) -> None:
        if self._rests:
            now = self._clock.monotonic()
            self._rests = {key: rest for key, rest in self._rests.items() if rest.until > now}

    def _breaker(self, domain: str) -> CircuitBreaker:
        breaker = self._breakers.get(domain)
        if breaker is None:
            breaker = self._breakers[domain] = CircuitBreaker(
                *self._limits, name=domain, clock=self._clock, on_change=self._changed, rng=self._rng
            )
        return breaker

    def _changed(self, breaker: CircuitBreaker) -> None:
        now = self._clock.monotonic()
        retry_at = breaker.retry_at()
        if retry_at > now:
            self._tripped.add(breaker.name)
            reason = _in_a_row(breaker.snapshot().consecutive_failures)
            self._tell(FactKind.BREAKER, breaker.name, self._clock.time() + retry_at - now, reason)
        else:
            self._tripped.discard(breaker.name)
            self._tell(FactKind.BREAKER, breaker.name, 0.0, "closed")

    def _tell(self, kind: FactKind, key: str, until: float, detail: str) -> None:
        if self._learning:
            return
        data = self._fingerprints.get(key, "")  # a credential's; nothing else has one
        fact = self._told[kind, key] = Fact(kind, key, until, self._clock.time(), detail, data)
        if self._publish is not None:
            self._publish(fact)


def _in_a_row(failures: int) -> str:
    return f"{failures} failure{'' if failures == 1 else 's'} in a row"


def _credential_key(candidate: Candidate) -> str:
    return f"{candidate.provider}#{candidate.credential}"


def _families(candidate: Candidate) -> Sequence[str]:
    """The groups of models with a window of their own that a candidate may be in: one for each word of its
    id, such as ``claude#subscription#opus``.
    """
    return [f"{_credential_key(candidate)}#{word}" for word in candidate.model_id.split("-")]


def _family(candidate: Candidate, window: str | None) -> str | None:
    """The models that a window is of, such as ``seven_day_opus``, if the candidate is one of them and it is
    not of every model.
    """
    words = {*(window or "").split("_")} & {*candidate.model_id.split("-")}
    return f"{_credential_key(candidate)}#{words.pop()}" if len(words) == 1 else None


def _domain_names(candidate: Candidate) -> Sequence[str]:
    """The failure domains with a breaker: the provider, and the (provider, model)."""
    return candidate.provider, candidate.label
