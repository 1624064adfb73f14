from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from attune.models.credentials import FIRST_PROBE_S, LAST_PROBE_S, CredentialHealth

T = 1_800_000_000.0


def test_a_credential_is_available_until_something_is_known_against_it():
    health = CredentialHealth()
    assert health.available(T)
    assert (health.until, health.reason) == (0.0, "")


def test_a_refused_credential_is_off_for_five_minutes():
    health = CredentialHealth()
    assert health.off(T, "401 from anthropic") == T + 300
    assert not health.available(T + 299.9)
    assert health.available(T + 300)
    assert health.reason == "401 from anthropic"


def test_the_pause_doubles_with_each_failed_probe_up_to_an_hour():
    health, now, pauses = CredentialHealth(), T, []
    for _ in range(6):
        until = health.off(now)
        pauses.append(until - now)
        now = until
    assert pauses == [300, 600, 1200, 2400, 3600, 3600]


def test_failures_of_attempts_under_way_move_the_deadline_but_double_nothing():
    health = CredentialHealth()
    for late in range(10):
        health.off(T + late)
    assert health.until == T + 9 + 300
    assert health.off(health.until) == T + 9 + 300 + 600


def test_a_success_or_a_changed_configuration_turns_it_on_at_once():
    health = CredentialHealth()
    health.off(health.off(T))
    health.reset()
    assert health.available(T)
    assert health.reason == ""
    assert health.off(T) == T + 300


def test_a_later_deadline_of_another_process_wins_and_an_earlier_one_changes_nothing():
    health = CredentialHealth()
    health.off(T, "no money")
    assert health.learn(T + 10, "earlier") == T + 300
    assert health.reason == "no money"
    assert health.learn(T + 900, "still no money") == T + 900
    assert health.reason == "still no money"


def test_one_probe_is_under_way_at_a_time_until_it_ends_or_its_lease_does():
    health = CredentialHealth()
    now = health.off(T)
    assert health.retry_at(now - 1) == now
    assert health.retry_at(now) == now
    health.take_probe(now + 30)
    assert (health.retry_at(now), health.retry_at(now + 29.5)) == (now + 1, now + 30)
    assert health.retry_at(now + 30) <= now + 30
    health.end_probe(now + 29)
    assert health.retry_at(now) > now, "that was the lease of another"
    health.end_probe(now + 30)
    assert health.retry_at(now) == now
    health.take_probe(now + 30)
    health.reset()
    assert health.retry_at(now) <= now


class Health(RuleBasedStateMachine):
    """Whatever happens, the deadline never moves back except by a reset, and asking changes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.health = CredentialHealth()
        self.now = T
        self.latest = 0.0

    @rule(seconds=st.floats(0, 10_000))
    def time_passes(self, seconds):
        self.now += seconds

    @rule()
    def fails(self):
        was_available = self.health.available(self.now)
        until = self.health.off(self.now)
        assert until >= self.latest
        if was_available:
            assert FIRST_PROBE_S - 1e-3 <= until - self.now <= LAST_PROBE_S + 1e-3
        self.latest = until

    @rule(ahead=st.floats(-1000, 10_000))
    def learns(self, ahead):
        self.latest = max(self.latest, self.now + ahead)
        assert self.health.learn(self.now + ahead) == self.latest

    @rule()
    def works(self):
        self.health.reset()
        self.latest = 0.0

    @invariant()
    def asking_changes_nothing(self):
        assert self.health.until == self.latest
        assert self.health.available(self.now) == (self.now >= self.latest)
        assert self.health.until == self.latest


TestHealth = Health.TestCase
