"""Whatever fails, in whatever order: the right one is blamed, and nobody else is refused for it."""

from __future__ import annotations

from itertools import pairwise, product

from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from attune.errors import (
    CallerError,
    ConnectionFailedError,
    CredentialError,
    ErrorClass,
    ModelUnavailableError,
    MoneyGoneError,
    ProviderError,
    StreamBrokenError,
    ThrottledError,
    TransientError,
    WindowSpentError,
)
from attune.models.candidate import Candidate, Refusal
from attune.models.circuit_breaker import CircuitState
from attune.models.failure_domains import AttemptPermit, BreakerLimits, FailureDomains
from attune.testing import FakeClock

CANDIDATES = [Candidate(*each) for each in product(("p", "q"), ("a", "b", "c"), ("key", "plan"))]
THRESHOLD = 3

OVERLOAD = st.sampled_from([TransientError("503"), StreamBrokenError("cut"), TransientError("late")])
OF_THE_KEY = st.sampled_from([CredentialError("401"), MoneyGoneError("402"), WindowSpentError("limit")])
OF_NOBODY = st.just(CallerError("400"))
ANY_ERROR = st.one_of(
    OVERLOAD,
    OF_THE_KEY,
    OF_NOBODY,
    st.just(ConnectionFailedError("refused")),
    st.just(ModelUnavailableError("404")),
    st.builds(ThrottledError, st.just("429"), retry_after=st.none() | st.floats(0, 100)),
)
PAUSE = st.sampled_from([0.0, 1.0, 30.0, 60.0, 700.0])


def domains_of(clock: FakeClock) -> FailureDomains:
    return FailureDomains(BreakerLimits(failure_threshold=THRESHOLD), clock=clock)


def of(provider: str) -> list[Candidate]:
    return [each for each in CANDIDATES if each.provider == provider]


def fail(domains: FailureDomains, candidate: Candidate, error: ProviderError) -> bool:
    """Make an attempt that fails, if it may be made."""
    permit = domains.acquire(candidate, 100)
    if isinstance(permit, Refusal):
        return False
    permit.failure(error)
    return True


def refused(domains: FailureDomains) -> set[Candidate]:
    return {each for each in CANDIDATES if domains.refusal(each) is not None}


@given(st.lists(st.tuples(st.sampled_from("abc"), OF_THE_KEY, PAUSE), min_size=1))
def test_a_bad_key_closes_no_model_for_another_key(events):
    clock = FakeClock()
    domains = domains_of(clock)
    for model, error, pause in events:
        clock.advance(pause)
        fail(domains, Candidate("p", model, "key"), error)
        assert refused(domains) == {each for each in of("p") if each.credential == "key"}
    assert all(snapshot.state is CircuitState.CLOSED for snapshot in domains.snapshot())


@given(st.lists(st.tuples(st.sampled_from(["key", "plan"]), OVERLOAD, PAUSE), min_size=THRESHOLD))
def test_one_overloaded_model_closes_nothing_but_itself_however_long_it_lasts(events):
    clock = FakeClock()
    domains = domains_of(clock)
    for credential, error, pause in events:
        clock.advance(pause)
        fail(domains, Candidate("p", "a", credential), error)
        assert refused(domains) <= {each for each in of("p") if each.model_id == "a"}
    assert {s.name: s.consecutive_failures for s in domains.snapshot()}["p"] == 0


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["key", "plan"]), PAUSE)))
def test_a_dead_host_closes_all_its_models_after_failures_of_any_of_them_and_no_other_host(events):
    assume(len(events) >= THRESHOLD)
    clock = FakeClock()
    domains = domains_of(clock)
    for place, (model, credential, pause) in enumerate(events, 1):
        clock.advance(pause)
        made = fail(domains, Candidate("p", model, credential), ConnectionFailedError("refused"))
        if made:
            assert refused(domains) == (set(of("p")) if place >= THRESHOLD else set())
        else:
            assert refused(domains) == set(of("p"))


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=4 * THRESHOLD))
def test_models_that_fail_in_turn_close_their_provider_and_a_row_of_one_does_not(models):
    domains = domains_of(FakeClock())
    tried = [model for model in models if fail(domains, Candidate("p", model, "key"), TransientError("503"))]
    changes = sum(before != after for before, after in pairwise(tried))
    closed = {snapshot.name: snapshot.state for snapshot in domains.snapshot()}["p"] is CircuitState.CLOSED
    assert closed == (changes < THRESHOLD)
    assert (refused(domains) >= set(of("p"))) == (not closed or {"a", "b", "c"} <= opened_models(domains))


def opened_models(domains: FailureDomains) -> set[str]:
    names = {s.name for s in domains.snapshot() if s.state is not CircuitState.CLOSED}
    return {model for model in "abc" if f"p/{model}" in names}


@given(st.lists(st.tuples(st.sampled_from("ab"), st.booleans()), min_size=1))
def test_any_success_between_keeps_models_that_fail_in_turn_from_closing_their_provider(events):
    domains = domains_of(FakeClock())
    domains._limits = BreakerLimits(failure_threshold=1000)
    row = before = 0
    for model, works in events:
        permit = domains.acquire(Candidate("p", model, "key"), 100)
        assert isinstance(permit, AttemptPermit)
        if works:
            permit.success()
            row = before = 0
        else:
            permit.failure(TransientError("503"))
            row += before not in {0, model}
            before = model
        assert domains.snapshot()[0].consecutive_failures == row


@given(st.lists(st.tuples(st.none() | st.floats(0.01, 1000), st.floats(0, 20)), min_size=1, max_size=20))
def test_a_cooldown_is_only_ever_extended(events):
    clock = FakeClock()
    domains = domains_of(clock)
    candidate, latest = CANDIDATES[0], 0.0
    permits = [domains.acquire(candidate, 1e6) for _ in events]  # all under way before the first 429
    for permit, (asked, pause) in zip(permits, events, strict=True):
        assert isinstance(permit, AttemptPermit)
        clock.advance(pause)
        permit.failure(ThrottledError("429", retry_after=asked))
        latest = max(latest, clock.monotonic() + (asked or 5.0))
        refusal = domains.refusal(candidate)
        assert refusal is not None
        assert refusal.retry_at == latest
        assert refusal.error_class is ErrorClass.THROTTLED
        assert refused(domains) == {candidate}


class Domains(RuleBasedStateMachine):
    """Attempts of all kinds on all candidates: permits come all or none, and all come back."""

    @initialize()
    def make(self) -> None:
        self.clock = FakeClock()
        self.domains = domains_of(self.clock)
        self.permits: list[AttemptPermit] = []

    def probes(self) -> int:
        return sum(snapshot.probes for snapshot in self.domains.snapshot())

    @rule(seconds=PAUSE)
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(candidate=st.sampled_from(CANDIDATES), last_resort=st.booleans())
    def take(self, candidate: Candidate, last_resort: bool) -> None:
        expected = self.domains.refusal(candidate, last_resort=last_resort)
        before = self.probes()
        permit = self.domains.acquire(candidate, 1000, last_resort=last_resort)
        if isinstance(permit, Refusal):
            assert permit == expected
            assert permit.retry_at > self.clock.monotonic()
            assert self.probes() == before, "a refusal took something"
        else:
            assert expected is None
            assert self.probes() - before <= 2
            self.permits.append(permit)

    @precondition(lambda self: self.permits)
    @rule(data=st.data(), error=st.none() | ANY_ERROR)
    def end(self, data: st.DataObject, error: ProviderError | None) -> None:
        permit = self.permits.pop(data.draw(st.integers(0, len(self.permits) - 1)))
        permit.success() if error is None else permit.failure(error)
        after = self.domains.snapshot(), self.domains.quiet
        permit.failure(ConnectionFailedError("twice"))
        permit.release()
        assert (self.domains.snapshot(), self.domains.quiet) == after, "settled twice"

    @precondition(lambda self: self.permits)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        permit = self.permits.pop(data.draw(st.integers(0, len(self.permits) - 1)))
        before = {s.name: (s.state, s.consecutive_failures) for s in self.domains.snapshot()}
        permit.release()
        assert {s.name: (s.state, s.consecutive_failures) for s in self.domains.snapshot()} == before

    @invariant()
    def one_probe_at_most_in_each_domain(self) -> None:
        if hasattr(self, "domains"):
            assert all(snapshot.probes <= 1 for snapshot in self.domains.snapshot())

    @invariant()
    def nothing_is_held_that_nobody_has(self) -> None:
        if hasattr(self, "domains"):
            assert self.probes() <= 2 * len(self.permits)

    @invariant()
    def quiet_means_that_nobody_is_refused(self) -> None:
        if hasattr(self, "domains") and self.domains.quiet:
            assert not refused(self.domains)


Domains.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
test_permits_come_all_or_none_and_all_come_back = Domains.TestCase
