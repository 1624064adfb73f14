"""Whom a failure is blamed on, and what may therefore not be tried for a while."""

from __future__ import annotations

from random import Random

import pytest

from attune.errors import (
    CallerError,
    ConnectionFailedError,
    ContextTooLongError,
    CredentialError,
    ErrorClass,
    ModelUnavailableError,
    MoneyGoneError,
    ProviderError,
    RefusalError,
    StreamBrokenError,
    ThrottledError,
    TransientError,
    WindowSpentError,
)
from attune.models.candidate import Candidate, Refusal
from attune.models.circuit_breaker import CircuitState
from attune.models.failure_domains import AttemptPermit, BreakerLimits, FailureDomains
from attune.models.state import Fact, FactKind
from attune.testing import FakeClock

THIS = Candidate("p", "m", "api_key")
OTHER_MODEL = Candidate("p", "other", "api_key")
OTHER_CREDENTIAL = Candidate("p", "m", "subscription")
OTHER_PROVIDER = Candidate("q", "m", "api_key")
NEIGHBOURS = {
    "model": OTHER_MODEL,
    "credential": OTHER_CREDENTIAL,
    "provider": OTHER_PROVIDER,
}

# For every error class: an error of it, and which neighbours are refused as well. ``None``: nobody is
# blamed. Classes that no provider raises have no error.
BLAME: dict[ErrorClass, tuple[ProviderError | None, set[str] | None]] = {
    ErrorClass.CONNECTION: (ConnectionFailedError("refused"), {"model", "credential"}),
    ErrorClass.TRANSIENT: (TransientError("503"), {"credential"}),
    ErrorClass.MID_STREAM: (StreamBrokenError("cut"), {"credential"}),
    ErrorClass.THROTTLED: (ThrottledError("429"), set()),
    ErrorClass.MODEL: (ModelUnavailableError("404"), set()),
    ErrorClass.CREDENTIAL: (CredentialError("401"), {"model"}),
    ErrorClass.MONEY: (MoneyGoneError("402"), {"model"}),
    ErrorClass.WINDOW_SPENT: (WindowSpentError("limit", retry_after=7200), {"model"}),
    ErrorClass.CONTEXT: (ContextTooLongError("long"), None),
    ErrorClass.REFUSAL: (RefusalError("no"), None),
    ErrorClass.CALLER: (CallerError("400"), None),
    ErrorClass.CANCELLED: (None, None),
    ErrorClass.INTERNAL: (None, None),
}


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def domains(clock):
    return FailureDomains(BreakerLimits(failure_threshold=1), clock=clock)


def take(domains, candidate=THIS, **options) -> AttemptPermit:
    permit = domains.acquire(candidate, 100, **options)
    assert isinstance(permit, AttemptPermit), permit
    return permit


def states(domains):
    return {snapshot.name: snapshot.state.value for snapshot in domains.snapshot()}


# -- the blame ---------------------------------------------------------------------------------------


def test_the_blame_of_every_error_class_is_written_down_here():
    assert BLAME.keys() == set(ErrorClass)
    raised = {each.error_class for each in [ProviderError, *_subclasses(ProviderError)]}
    assert {cls for cls, (error, _) in BLAME.items() if error is not None} == raised
    for error_class, (error, _) in BLAME.items():
        assert error is None or error.error_class is error_class


def _subclasses(cls):
    return [each for sub in cls.__subclasses__() for each in (sub, *_subclasses(sub))]


@pytest.mark.parametrize("error_class", [cls for cls, (error, _) in BLAME.items() if error is not None])
def test_a_failure_refuses_the_blamed_and_nobody_else(domains, error_class):
    error, refused_too = BLAME[error_class]
    take(domains).failure(error)
    assert (domains.refusal(THIS) is None) == (refused_too is None)
    assert {name for name, each in NEIGHBOURS.items() if domains.refusal(each)} == (refused_too or set())
    assert domains.quiet == (refused_too is None)


@pytest.mark.parametrize("error_class", [cls for cls, (error, _) in BLAME.items() if error is not None])
def test_only_connection_and_overload_count_for_a_breaker(domains, error_class):
    take(domains).failure(BLAME[error_class][0])
    opened = {name for name, state in states(domains).items() if state != "closed"}
    expected = {ErrorClass.CONNECTION: {"p"}, ErrorClass.TRANSIENT: {"p/m"}, ErrorClass.MID_STREAM: {"p/m"}}
    assert opened == expected.get(error_class, set())


def test_a_connection_failure_leaves_the_models_row_of_failures_as_it_is(clock):
    domains = FailureDomains(BreakerLimits(failure_threshold=3), clock=clock)
    for error in [TransientError("1"), ConnectionFailedError("2"), TransientError("3")]:
        take(domains).failure(error)
    assert {s.name: s.consecutive_failures for s in domains.snapshot()} == {"p": 1, "p/m": 2}
    take(domains).success()
    assert {s.name: s.consecutive_failures for s in domains.snapshot()} == {"p": 0, "p/m": 0}


def test_a_permit_of_an_attempt_is_settled_once(clock):
    domains = FailureDomains(BreakerLimits(failure_threshold=2), clock=clock)
    failed, released, worked = take(domains), take(domains), take(domains)
    worked.success()
    for permit in (failed, released, worked):
        if permit is released:
            permit.release()
        permit.failure(TransientError("x"))
        permit.failure(CredentialError("x"))
        permit.success()
        permit.release()
    assert domains.snapshot()[1].consecutive_failures == 1
    assert domains.quiet


@pytest.mark.parametrize("end", ["success", "release", "failure"])
def test_what_comes_after_the_first_settling_turns_no_credential_off(domains, end):
    permit = take(domains)
    assert permit.settled is False
    permit.failure(CallerError("400")) if end == "failure" else getattr(permit, end)()
    assert permit.settled is True
    permit.failure(CredentialError("401"))
    assert domains.quiet


# -- several models of one provider ------------------------------------------------------------------


OVERLOADED = TransientError("503")


def failures_of(domains, *models, error=OVERLOADED):
    for model in models:
        take(domains, Candidate("p", model, "api_key")).failure(error)


def rows(domains):
    return {snapshot.name: snapshot.consecutive_failures for snapshot in domains.snapshot()}


@pytest.mark.parametrize("error", [TransientError("503"), StreamBrokenError("cut")])
def test_failures_of_another_model_than_the_last_count_for_the_provider_too(clock, error):
    domains = FailureDomains(BreakerLimits(failure_threshold=4), clock=clock)
    failures_of(domains, "m", "m", "n", "n", "o", "m", error=error)
    assert rows(domains) == {"p": 3, "p/m": 3, "p/n": 2, "p/o": 1}
    failures_of(domains, "n", error=error)
    assert domains.refusal(Candidate("p", "never tried", "plan")).domain == "p"
    assert domains.refusal(OTHER_PROVIDER) is None


def test_the_failures_of_one_model_never_count_for_the_provider(clock):
    domains = FailureDomains(BreakerLimits(failure_threshold=100), clock=clock)
    failures_of(domains, "other", *["m"] * 50)
    assert rows(domains) == {"p": 1, "p/m": 50, "p/other": 1}


def test_models_of_two_providers_say_nothing_of_each_other(clock):
    domains = FailureDomains(BreakerLimits(failure_threshold=100), clock=clock)
    for _ in range(3):
        take(domains).failure(TransientError("503"))
        take(domains, Candidate("q", "other", "api_key")).failure(TransientError("503"))
    assert (rows(domains)["p"], rows(domains)["q"]) == (0, 0)


def test_a_success_of_any_model_begins_the_comparison_anew(clock):
    domains = FailureDomains(BreakerLimits(failure_threshold=100), clock=clock)
    failures_of(domains, "m", "other")
    take(domains).success()
    failures_of(domains, "m", "m")
    assert rows(domains)["p"] == 0
    failures_of(domains, "other")
    assert rows(domains)["p"] == 1


# -- all or nothing ----------------------------------------------------------------------------------


def half_open(domains, clock, error=None):
    take(domains).failure(error or TransientError("503"))
    clock.advance(60)


def test_a_refusal_names_the_circuit_and_the_time(domains, clock):
    take(domains).failure(TransientError("503"))
    clock.advance(10)
    assert domains.refusal(THIS) == Refusal(
        "p/m", "the circuit of p/m is open", pytest.approx(clock.monotonic() + 50), None
    )
    clock.advance(50)
    probe = take(domains)
    assert domains.acquire(THIS, 100).reason == "the circuit of p/m is half-open"
    probe.release()
    assert domains.refusal(THIS) is None


def test_a_refusal_takes_no_permit_of_the_other_domain(domains, clock):
    half_open(domains, clock, ConnectionFailedError("refused"))
    domains.learn([Fact(FactKind.BREAKER, "p/m", clock.time() + 60, clock.time())])
    assert isinstance(domains.acquire(THIS, 100), Refusal)
    assert sum(snapshot.probes for snapshot in domains.snapshot()) == 0
    assert isinstance(domains.acquire(OTHER_MODEL, 100), AttemptPermit)


@pytest.mark.parametrize("end", ["success", "failure", "release"])
def test_every_permit_is_given_back_however_the_attempt_ends(domains, clock, end):
    for error in (ConnectionFailedError("refused"), TransientError("503")):
        take(domains).failure(error)
        clock.advance(60)
    permit = take(domains)
    assert [snapshot.probes for snapshot in domains.snapshot()] == [1, 1]
    permit.failure(CallerError("400")) if end == "failure" else getattr(permit, end)()
    assert [snapshot.probes for snapshot in domains.snapshot()] == [0, 0]
    assert set(states(domains).values()) == ({"closed"} if end == "success" else {"half_open"})


def test_a_last_resort_passes_an_open_circuit_once_but_never_a_credential_that_is_off(domains, clock):
    take(domains).failure(TransientError("503"))
    take(domains, last_resort=True).release()
    assert isinstance(domains.acquire(THIS, 100, last_resort=True), Refusal)
    take(domains, OTHER_PROVIDER).failure(CredentialError("401"))
    assert isinstance(domains.acquire(OTHER_PROVIDER, 100, last_resort=True), Refusal)


def test_a_refused_last_resort_says_when_the_next_one_may_come(domains, clock):
    domains.learn([Fact(FactKind.BREAKER, "p/m", clock.time() + 1000, clock.time())])
    take(domains, last_resort=True).release()
    clock.advance(10)
    assert domains.refusal(THIS, last_resort=True).retry_at == clock.monotonic() + 50
    assert domains.refusal(THIS).retry_at >= clock.monotonic() + 990


def test_a_forgotten_probe_holds_its_place_as_long_as_was_said(domains, clock):
    half_open(domains, clock)
    assert isinstance(domains.acquire(THIS, 30), AttemptPermit)
    clock.advance(29)
    assert isinstance(domains.acquire(THIS, 30), Refusal)
    clock.advance(1)
    assert isinstance(domains.acquire(THIS, 30), AttemptPermit)


# -- cooldowns ---------------------------------------------------------------------------------------


def test_a_throttled_candidate_cools_down_as_long_as_was_asked(domains, clock):
    take(domains).failure(ThrottledError("429", retry_after=107))
    refusal = domains.refusal(THIS)
    assert refusal == Refusal(THIS.key, "it is throttled", clock.monotonic() + 107, ErrorClass.THROTTLED)
    clock.advance(106.9)
    assert isinstance(domains.acquire(THIS, 100), Refusal)
    clock.advance(0.1)
    take(domains)


def test_a_cooldown_is_five_seconds_when_the_provider_does_not_say(domains, clock):
    take(domains).failure(ThrottledError("429"))
    assert domains.refusal(THIS).retry_at == clock.monotonic() + 5


@pytest.mark.parametrize("error", [ThrottledError("429", retry_after=0), CallerError("400", retry_after=0)])
def test_who_may_come_again_at_once_does_not_rest(twins, error):
    take(twins.first).failure(error)
    assert twins.first.refusal(THIS) is None
    assert twins.first.quiet
    assert twins.told == []


def test_a_cooldown_is_only_ever_extended(domains, clock):
    permits = [take(domains) for _ in range(3)]
    for permit, asked in zip(permits, [50, 3, 80], strict=True):
        permit.failure(ThrottledError("429", retry_after=asked))
    assert domains.refusal(THIS).retry_at == clock.monotonic() + 80
    take(domains, OTHER_MODEL).success()
    assert domains.refusal(THIS).retry_at == clock.monotonic() + 80


def test_a_cooldown_is_over_at_its_very_end(domains, clock):
    take(domains).failure(ThrottledError("429", retry_after=2))
    clock.advance(2)
    assert domains.refusal(THIS) is None
    take(domains, OTHER_MODEL)
    assert domains.quiet


@pytest.mark.parametrize(
    "error", [TransientError("503", retry_after=30), StreamBrokenError("x", retry_after=30)]
)
def test_an_overloaded_model_that_says_how_long_rests_so_long_with_every_credential(twins, clock, error):
    permit = take(twins.first)
    permit.failure(error)
    expected = Refusal("p/m", "it asked to wait", clock.monotonic() + 30, ErrorClass.THROTTLED)
    twins.first._breakers["p/m"].close()
    assert twins.first.refusal(THIS) == twins.first.refusal(OTHER_CREDENTIAL) == expected
    assert twins.first.refusal(OTHER_MODEL) is twins.first.refusal(OTHER_PROVIDER) is None
    cooldown = next(fact for fact in twins.told if fact.kind is FactKind.COOLDOWN)
    assert cooldown == Fact(FactKind.COOLDOWN, "p/m", clock.time() + 30, clock.time(), "it asked to wait")


def test_an_overloaded_model_that_does_not_say_how_long_does_not_rest(clock):
    domains = FailureDomains(BreakerLimits(failure_threshold=2), clock=clock)
    take(domains).failure(TransientError("503"))
    assert domains.refusal(THIS) is None


def test_of_two_reasons_to_rest_equally_long_the_first_is_given(domains, clock):
    first, second = take(domains), take(domains)
    first.failure(ThrottledError("429", retry_after=600))
    second.failure(ModelUnavailableError("404"))
    assert domains.refusal(THIS).error_class is ErrorClass.THROTTLED


def test_it_is_quiet_again_when_everything_is_over(domains, clock):
    assert domains.quiet
    take(domains).failure(ThrottledError("429", retry_after=1))
    take(domains, OTHER_PROVIDER).failure(TransientError("503"))
    clock.advance(60)
    take(domains, OTHER_PROVIDER).success()
    assert domains.quiet


# -- models ------------------------------------------------------------------------------------------


def test_a_model_is_off_for_ten_minutes_for_that_credential_only(domains, clock):
    take(domains).failure(ModelUnavailableError("model_not_found"))
    assert domains.refusal(THIS) == Refusal(
        THIS.key, "this credential does not have the model", clock.monotonic() + 600, ErrorClass.MODEL
    )
    take(domains, OTHER_CREDENTIAL).success()
    take(domains, OTHER_MODEL).success()
    clock.advance(600)
    take(domains)


# -- credentials -------------------------------------------------------------------------------------


def test_a_credential_is_probed_after_five_minutes_then_ever_later_up_to_an_hour(domains, clock):
    pauses = []
    for _ in range(6):
        take(domains).failure(CredentialError("401"))
        pauses.append(domains.refusal(THIS).retry_at - clock.monotonic())
        clock.advance(pauses[-1])
    assert pauses == pytest.approx([300, 600, 1200, 2400, 3600, 3600])
    take(domains).success()
    take(domains).failure(CredentialError("401"))
    assert domains.refusal(THIS).retry_at - clock.monotonic() == pytest.approx(300)


def test_failures_at_the_same_moment_double_nothing(domains, clock):
    for permit in [take(domains) for _ in range(20)]:
        permit.failure(CredentialError("401"))
    assert domains.refusal(THIS).retry_at - clock.monotonic() == pytest.approx(300)


def off(domains, clock):
    """Turn the credential off, up to its first probe."""
    take(domains).failure(CredentialError("401"))
    clock.advance(300)


def test_a_credential_that_was_off_is_probed_by_one_attempt_at_a_time(domains, clock):
    off(domains, clock)
    probe = take(domains)
    for candidate in (THIS, OTHER_MODEL):
        refusal = domains.acquire(candidate, 100)
        assert (refusal.domain, refusal.error_class) == ("p#api_key", ErrorClass.CREDENTIAL)
        assert refusal == domains.refusal(candidate)
        assert refusal.retry_at == clock.monotonic() + 1
    take(domains, OTHER_CREDENTIAL).release()
    probe.success()
    assert domains.quiet
    assert len([take(domains) for _ in range(3)]) == 3


@pytest.mark.parametrize("error", [None, TransientError("503"), CallerError("400"), ThrottledError("429")])
def test_a_probe_that_says_nothing_of_its_credential_is_given_back(clock, error):
    domains = FailureDomains(BreakerLimits(failure_threshold=9), clock=clock)
    off(domains, clock)
    probe = take(domains)
    probe.release() if error is None else probe.failure(error)
    clock.advance(5)
    take(domains).failure(CredentialError("401"))
    assert domains.refusal(THIS).retry_at == clock.monotonic() + 600, "the second failed probe"


def test_a_forgotten_probe_of_a_credential_holds_up_nobody_beyond_its_lease(domains, clock):
    off(domains, clock)
    forgotten = take(domains)
    clock.advance(99.5)
    assert domains.refusal(THIS).retry_at == clock.monotonic() + 0.5
    clock.advance(0.5)
    probe = take(domains)
    forgotten.release()
    assert domains.refusal(THIS) is not None, "the lease of the forgotten one is not that of the next"
    probe.release()
    take(domains)


def test_a_probe_that_works_while_another_process_found_the_credential_off_is_given_back(domains, clock):
    off(domains, clock)
    probe = take(domains)
    later = Fact(FactKind.CREDENTIAL_OFF, "p#api_key", clock.time() + 50, clock.time(), "no money")
    domains.learn([later])
    probe.success()
    assert domains.refusal(THIS).retry_at == pytest.approx(clock.monotonic() + 50)
    clock.advance(50)
    take(domains).success()
    assert domains.quiet


def test_an_answer_to_an_attempt_from_before_does_not_turn_the_credential_on(domains, clock):
    """Only a probe can say that it works again: its window was spent while the other was under way."""
    slow = take(domains, OTHER_MODEL)
    take(domains).failure(WindowSpentError("limit", retry_after=7200))
    clock.advance(30)
    slow.success()
    assert domains.refusal(THIS) is not None
    clock.advance(7200)
    take(domains).success()
    assert domains.quiet


def test_a_spent_window_is_off_until_its_reset_and_five_minutes_when_that_is_unknown(domains, clock):
    take(domains).failure(WindowSpentError("limit", retry_after=7200))
    take(domains, OTHER_PROVIDER).failure(WindowSpentError("limit"))
    assert domains.refusal(THIS).retry_at - clock.monotonic() == pytest.approx(7200)
    assert domains.refusal(OTHER_PROVIDER).retry_at - clock.monotonic() == pytest.approx(300)


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (CredentialError("401 sk-secret"), "it was refused (401 or 403)"),
        (MoneyGoneError("402 sk-secret"), "its account has no money left"),
        (WindowSpentError("429 sk-secret"), "its quota window is used up"),
    ],
)
def test_a_refusal_says_why_the_credential_is_off_in_our_own_words(domains, error, why):
    take(domains).failure(error)
    refusal = domains.refusal(THIS)
    assert (refusal.domain, refusal.error_class) == ("p#api_key", error.error_class)
    assert refusal.reason == f"the credential p#api_key is off: {why}"


def test_a_plan_that_nobody_is_logged_in_to_was_not_refused(domains):
    take(domains, plan("claude-opus-5-5")).failure(CredentialError("nobody is logged in"))
    refusal = domains.refusal(plan("claude-opus-5-5"))
    assert "claude#subscription is off: nobody is logged in who could pay" in refusal.reason
    assert refusal.error_class is ErrorClass.CREDENTIAL
    refused = FailureDomains()
    take(refused, plan("claude-opus-5-5")).failure(CredentialError("expired", status=401))
    assert "is off: it was refused (401 or 403)" in refused.refusal(plan("claude-opus-5-5")).reason


# -- other processes ---------------------------------------------------------------------------------


def plan(model: str) -> Candidate:
    return Candidate("claude", model, "subscription")


def test_a_spent_window_of_some_models_leaves_the_others_of_the_plan_alone(twins, clock):
    spent = WindowSpentError("spent", retry_after=900, code="seven_day_opus")
    take(twins.first, plan("claude-opus-5-5")).failure(spent)
    twins.share()
    for domains in (twins.first, twins.second):
        for opus in ("claude-opus-5-5", "claude-opus-6"):
            refusal = domains.refusal(plan(opus))
            assert refusal.domain == "claude#subscription#opus"
            assert refusal.error_class is ErrorClass.WINDOW_SPENT
            assert refusal.reason.startswith("its quota window is used up until ")
            assert refusal.reason.endswith(" UTC (in 15 min)")
            assert refusal.retry_at - clock.monotonic() == pytest.approx(900)
        assert domains.refusal(plan("claude-sonnet-5-5")) is None
        assert domains.refusal(Candidate("anthropic", "claude-opus-5-5", "api_key")) is None
    clock.advance(900)
    assert twins.first.refusal(plan("claude-opus-5-5")) is None
    assert twins.second.refusal(plan("claude-opus-5-5")) is None


def test_a_spent_window_of_some_models_is_tried_again_after_ten_minutes_if_its_reset_is_not_known(
    domains, clock
):
    take(domains, plan("claude-opus-5-5")).failure(WindowSpentError("spent", code="seven_day_opus"))
    assert domains.refusal(plan("claude-opus-5-5")).retry_at - clock.monotonic() == pytest.approx(600)


@pytest.mark.parametrize("code", [None, "five_hour", "seven_day", "seven_day_opus", "rate_limit_error"])
def test_a_spent_window_that_is_not_of_the_model_alone_turns_the_whole_credential_off(domains, code):
    take(domains, plan("claude-sonnet-5-5")).failure(WindowSpentError("spent", retry_after=9, code=code))
    assert domains.refusal(plan("claude-haiku-5-5")).domain == "claude#subscription"


class Twins:
    """Two processes on one clock; ``told`` is what the first has published."""

    def __init__(self, clock):
        limits = BreakerLimits(failure_threshold=1)
        self.told = []
        self.clock = clock
        self.first = FailureDomains(limits, clock=clock, publish=self.told.append)
        self.second_told = []
        self.second = FailureDomains(limits, clock=clock, publish=self.second_told.append)

    def share(self):
        self.second.learn(self.told)


@pytest.fixture
def twins(clock):
    return Twins(clock)


@pytest.mark.parametrize("error_class", [cls for cls, (error, _) in BLAME.items() if error is not None])
def test_what_one_process_found_out_holds_in_the_other(twins, error_class):
    take(twins.first).failure(BLAME[error_class][0])
    twins.share()
    for candidate in (THIS, *NEIGHBOURS.values()):
        ours, theirs = twins.first.refusal(candidate), twins.second.refusal(candidate)
        assert (ours is None) == (theirs is None)
        if ours is not None:
            assert ours._replace(retry_at=0) == theirs._replace(retry_at=0)
            later = 1.1 if ours.error_class is None else 1.0
            wait = ours.retry_at - twins.clock.monotonic()
            assert wait - 1e-6 <= theirs.retry_at - twins.clock.monotonic() <= wait * later + 1e-6
    assert twins.second_told == [], "what was learned is not told again"


def test_the_kinds_and_keys_of_facts_are_those_of_their_contract(twins, clock):
    for candidate, error in [
        (THIS, ThrottledError("429", retry_after=9)),
        (OTHER_MODEL, ModelUnavailableError("404")),
        (OTHER_PROVIDER, TransientError("503")),
        (Candidate("r", "m", "k"), ConnectionFailedError("refused")),
        (Candidate("s", "m", "k"), CredentialError("401")),
    ]:
        take(twins.first, candidate).failure(error)
    wall = clock.time()
    assert twins.told == [
        Fact(FactKind.COOLDOWN, "p/m#api_key", wall + 9, wall, "it is throttled", ""),
        Fact(
            *(FactKind.MODEL_OFF, "p/other#api_key", wall + 600, wall),
            *("this credential does not have the model", ""),
        ),
        Fact(FactKind.BREAKER, "q/m", wall + 60, wall, "1 failure in a row", ""),
        Fact(FactKind.BREAKER, "r", wall + 60, wall, "1 failure in a row", ""),
        Fact(FactKind.CREDENTIAL_OFF, "s#k", wall + 300, wall, "it was refused (401 or 403)", ""),
    ]


def test_the_fact_of_a_trip_says_how_many_failures_there_really_were(clock):
    told = []
    domains = FailureDomains(BreakerLimits(failure_threshold=3), clock=clock, publish=told.append)
    failures_of(domains, "m", "m", "m")
    clock.advance(60)
    failures_of(domains, "m")
    assert [fact.detail for fact in told] == ["3 failures in a row", "4 failures in a row"]


def test_a_probe_that_works_clears_the_fact_everywhere(twins, clock):
    take(twins.first).failure(TransientError("503"))
    take(twins.first, OTHER_PROVIDER).failure(CredentialError("401"))
    twins.share()
    clock.advance(300)
    take(twins.first).success()
    take(twins.first, OTHER_PROVIDER).success()
    assert [(fact.key, fact.until, fact.detail) for fact in twins.told[2:]] == [
        ("p/m", 0, "closed"),
        ("q#api_key", 0, "it works again"),
    ]
    twins.share()
    assert twins.second.quiet
    assert twins.second.refusal(THIS) is None


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        (FactKind.BREAKER, "p"),
        (FactKind.BREAKER, "p/m"),
        (FactKind.COOLDOWN, THIS.key),
        (FactKind.MODEL_OFF, THIS.key),
        (FactKind.CREDENTIAL_OFF, "p#api_key"),
    ],
)
def test_of_two_facts_the_later_deadline_wins_until_it_is_cleared(domains, clock, kind, key):
    now = clock.time()
    for until in (30, 50, 10):
        domains.learn([Fact(kind, key, now + until, now)])
    clock.advance(49)
    assert 1 - 1e-6 <= domains.refusal(THIS).retry_at - clock.monotonic() <= 6
    domains.learn([Fact(kind, key, 0, clock.time())])
    assert domains.refusal(THIS) is None


def test_facts_are_taken_in_the_order_in_which_they_happened(domains, clock):
    now = clock.time()
    trip = Fact(FactKind.BREAKER, "p", now + 60, now)
    clearing = Fact(FactKind.BREAKER, "p", 0, now + 1)
    domains.learn([clearing, trip])
    assert domains.refusal(THIS) is None
    domains.learn([clearing, trip._replace(at=now + 2)])
    assert domains.refusal(THIS) is not None


def test_a_deadline_of_another_process_is_kept_up_to_a_tenth_longer(clock):
    now = clock.time()
    kept = set()
    for seed in range(200):
        domains = FailureDomains(clock=clock, rng=Random(seed))
        domains.learn([Fact(FactKind.BREAKER, "p", now + 60, now - 30)])
        kept.add(domains.refusal(THIS).retry_at - clock.monotonic())
    assert 60 <= min(kept) < 60.1
    assert 65.9 < max(kept) <= 66
    assert len(kept) == 200


def test_the_breakers_draw_their_jitter_from_the_generator_that_was_given(clock):
    def second_opening(rng):
        domains = FailureDomains(BreakerLimits(failure_threshold=1), clock=clock, rng=rng)
        take(domains).failure(TransientError("503"))
        clock.advance(60)
        take(domains).failure(TransientError("503"))
        return domains.refusal(THIS).retry_at - clock.monotonic()

    assert second_opening(Random(3)) == pytest.approx(120 + Random(3).uniform(0, 12))


def test_our_own_word_coming_back_changes_nothing(twins, clock):
    take(twins.first).failure(TransientError("503"))
    before = twins.first.refusal(THIS)
    twins.first.learn(twins.told)
    assert twins.first.refusal(THIS) == before
    clock.advance(60)
    take(twins.first).success()
    told = twins.told[-1]
    twins.first.learn([told._replace(until=told.at + 100)])
    assert twins.first.quiet, "of the same moment as our own clearing"


def test_after_learning_what_is_found_out_is_told_again(twins, clock):
    twins.first.learn([Fact(FactKind.COOLDOWN, OTHER_MODEL.key, clock.time() + 9, clock.time())])
    assert twins.told == []
    take(twins.first).failure(TransientError("503"))
    assert [fact.key for fact in twins.told] == ["p/m"]


def test_a_credential_that_is_off_for_a_reason_of_another_version_is_refused_as_one(domains, clock):
    domains.learn([Fact(FactKind.CREDENTIAL_OFF, "p#api_key", clock.time() + 9, clock.time(), "new words")])
    refusal = domains.refusal(THIS)
    assert (refusal.error_class, refusal.reason) == (
        ErrorClass.CREDENTIAL,
        "the credential p#api_key is off: new words",
    )


def test_clearing_a_cooldown_leaves_the_model_off(domains, clock):
    take(domains).failure(ModelUnavailableError("404"))
    domains.learn([Fact(FactKind.COOLDOWN, THIS.key, 0, clock.time() + 1)])
    assert domains.refusal(THIS).error_class is ErrorClass.MODEL


def test_facts_that_are_over_or_of_other_kinds_or_clear_nothing_change_nothing(domains, clock):
    now = clock.time()
    domains.learn(
        Fact(kind, key, until, now)
        for kind in FactKind
        for key in ("p", "p/m", "p/m#api_key", "p#api_key")
        for until in (0.0, now - 1, now)
    )
    domains.learn([Fact(FactKind.QUOTA, "p#api_key#five_hour", now + 999, now)])
    assert domains.quiet
    assert domains.refusal(THIS) is None


@pytest.mark.parametrize("error", [TransientError("503"), CredentialError("401"), ThrottledError("429")])
def test_an_old_clearing_does_not_undo_what_was_found_out_since(domains, clock, error):
    """The store shows clearings for an hour, so each is learned many times."""
    kinds = {"p/m": FactKind.BREAKER, "p#api_key": FactKind.CREDENTIAL_OFF, THIS.key: FactKind.COOLDOWN}
    old = [Fact(kind, key, 0, clock.time()) for key, kind in kinds.items()]
    clock.advance(10)
    take(domains).failure(error)
    domains.learn(old)
    assert domains.refusal(THIS) is not None


def test_an_older_fact_of_another_process_still_prolongs_what_we_found_out(twins, clock):
    """It knows the reset of the window; we were only told that it is spent."""
    slow = take(twins.second)
    take(twins.first).failure(WindowSpentError("limit", retry_after=7200))
    clock.advance(1)
    slow.failure(WindowSpentError("limit"))
    twins.share()
    assert twins.second.refusal(THIS).retry_at - clock.monotonic() == pytest.approx(7199)


def test_an_old_trip_does_not_undo_what_has_recovered_since(twins, clock):
    """The fact of the trip may be read again before the clearing is stored."""
    take(twins.first).failure(TransientError("503"))
    clock.advance(30)
    take(twins.first, last_resort=True).success()
    twins.first.learn(twins.told[:1])
    assert twins.first.refusal(THIS) is None


def test_a_process_that_publishes_nothing_works_alone(clock):
    domains = FailureDomains(clock=clock)
    for _ in range(5):
        take(domains).failure(TransientError("503"))
    assert states(domains) == {"p": "closed", "p/m": "open"}


def test_without_a_clock_it_runs_on_the_machines_own():
    domains = FailureDomains(BreakerLimits(1, 3600))
    take(domains).failure(TransientError("503"))
    assert domains.snapshot()[1].state is CircuitState.OPEN


# -- clocks and keys that change -----------------------------------------------------------------------


def test_what_was_learned_under_a_clock_that_ran_ahead_holds_no_longer_than_it_was_meant_to(domains, clock):
    ahead = clock.time() + 30 * 86_400
    fact = Fact(FactKind.BREAKER, "p", ahead + 60, ahead, "5 failures in a row")
    domains.learn([fact])
    assert not domains.quiet
    clock.advance(30)
    domains.learn([fact])  # read again: no reason to wait anew
    clock.advance(36)
    assert domains.refusal(THIS) is None


def test_a_credential_learned_to_be_off_under_a_clock_that_ran_ahead_comes_back(domains, clock):
    ahead = clock.time() + 30 * 86_400
    domains.learn([Fact(FactKind.CREDENTIAL_OFF, "p#api_key", ahead + 300, ahead, "refused")])
    assert domains.refusal(THIS) is not None
    clock.advance(301)
    assert domains.refusal(THIS) is None


def test_a_credential_that_went_off_is_tried_at_once_with_a_new_key(clock):
    facts: list[Fact] = []
    before = FailureDomains(clock=clock, publish=facts.append, fingerprints={"p#api_key": "old"})
    take(before).failure(CredentialError("401"))
    after = FailureDomains(clock=clock, fingerprints={"p#api_key": "new"})
    after.learn(facts)
    assert after.refusal(THIS) is None
    same = FailureDomains(clock=clock, fingerprints={"p#api_key": "old"})
    same.learn(facts)
    assert same.refusal(THIS) is not None
