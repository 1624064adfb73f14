"""What is predicted of prompt caches, against providers that keep one: what they bill is predicted."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attune.models.candidate import Candidate
from attune.models.prompt_cache import MAX_KEYS, MAX_SESSIONS, PromptCaches
from attune.models.telemetry import TokenUsage
from support.routing import an_attempt

KEY = ("review", "check", "")
A, B = Candidate("a", "mid", "api_key"), Candidate("b", "mid", "api_key")
AT = 1_000_000.0


class MarkedCache:
    """A provider that caches what is marked: the first ``marked`` tokens, by default the whole prompt."""

    def __init__(self, marked: int | None = None, lasts: float = 300.0) -> None:
        self.marked, self.lasts = marked, lasts
        self.kept: dict[str, tuple[int, float]] = {}

    def bill(self, prefix: str, size: int, at: float) -> TokenUsage:
        """The usage of a prompt that begins with what is cached under ``prefix``, as far as that goes."""
        length, until = self.kept.get(prefix, (0, 0.0))
        marked = size if self.marked is None else self.marked
        read = min(length, marked) if at <= until else 0
        self.kept[prefix] = marked, at + self.lasts
        written = marked - read
        return TokenUsage(size, 100, read, written, written if self.lasts > 300 else 0)


class AutomaticCache:
    """A provider that caches whole prompts by itself, in steps of 128 tokens from 1,024 on."""

    def __init__(self, lasts: float = 300.0) -> None:
        self.lasts = lasts
        self.kept: dict[str, tuple[int, float]] = {}

    def bill(self, prefix: str, size: int, at: float) -> TokenUsage:
        length, until = self.kept.get(prefix, (0, 0.0))
        common = min(length, size)
        read = common - common % 128 if at <= until and common >= 1024 else 0
        self.kept[prefix] = size, at + self.lasts
        return TokenUsage(size, 100, read)


class Parts(NamedTuple):
    """Predicted tokens, as a usage has them."""

    read: float
    written: float
    written_1h: float
    continues: bool = False


class Program:
    """Calls of one stage at two candidates, and what is predicted of the next."""

    def __init__(self, **providers) -> None:
        self.providers = providers
        self.caches = PromptCaches()
        self.at = AT

    def predicted(self, candidate, size, session="s", key=KEY) -> Parts:
        view = self.caches.view(session, key, size, self.at)
        shares = None if view is None else view.at(candidate.key, candidate.provider)
        if shares is None:
            return Parts(0.0, 0.0, 0.0)
        read, written, written_1h = (share * size for share in shares)
        assert view.read(candidate.key) == round(read)
        return Parts(read, written + written_1h, written_1h, view.kept.get(candidate.key, 0.0) > 0)

    def call(self, candidate, size, session="s", prefix=None, **fields) -> TokenUsage:
        usage = self.providers[candidate.provider].bill(prefix or session, size, self.at)
        self.saw(candidate, usage, session, **fields)
        return usage

    def saw(self, candidate, usage, session="s", key=KEY, **fields) -> None:
        workflow, stage, task = key
        record = an_attempt(
            f"{candidate.provider}/{candidate.model_id}",
            at=self.at,
            workflow=workflow,
            stage=stage,
            task=task,
            usage=usage,
        )
        self.caches.observe(record._replace(session_id=session, credential=candidate.credential, **fields))


def billed(usage: TokenUsage) -> tuple[float, float, float]:
    return usage.cache_read_tokens, usage.cache_write_tokens, usage.cache_write_1h_tokens


@pytest.mark.parametrize("cache", [MarkedCache(), MarkedCache(lasts=3600.0), AutomaticCache()])
def test_the_turns_of_a_conversation_are_billed_as_predicted(cache):
    program = Program(a=cache)
    size = 10_000
    for turn in range(12):
        expected = program.predicted(A, size)
        usage = program.call(A, size)
        if turn >= 2:  # of caching by itself the second turn is the first to show
            assert expected[:3] == pytest.approx(billed(usage), abs=130)
            assert expected.continues
        size += 700
        program.at += 60


@pytest.mark.parametrize("tokens_per_estimated", [0.7, 1.4])
@pytest.mark.parametrize("cache", [MarkedCache(), AutomaticCache()])
def test_a_size_that_is_estimated_too_low_or_too_high_does_not_change_the_shares(cache, tokens_per_estimated):
    program = Program(a=cache)
    for turn in range(6):
        size = 10_000 + 700 * turn
        real = round(size * tokens_per_estimated)
        expected = program.predicted(A, size)
        program.caches.begun(f"call {turn}", size)
        usage = program.call(A, real, call_id=f"call {turn}")
        if turn >= 3:
            shares = [part / real for part in billed(usage)]
            assert [part / size for part in expected[:3]] == pytest.approx(shares, abs=0.015)


def test_a_system_prompt_alone_that_is_marked_is_all_that_is_read():
    program = Program(a=MarkedCache(marked=5_000))
    for size in (6_000, 7_000, 8_000, 9_000):
        program.call(A, size)
    assert program.predicted(A, 10_000)[:3] == pytest.approx((5_000, 0, 0))


def test_while_nothing_cached_was_reported_nothing_is_kept_or_predicted():
    program = Program()
    for n in range(10):
        program.saw(A, TokenUsage(10_000, 100), f"s{n}")
    program.saw(A, None)
    assert program.caches.view("s1", KEY, 10_000, program.at) is None
    assert not vars(program.caches)["_sessions"]


@pytest.mark.parametrize("lasts", [300.0, 3600.0])
def test_a_conversation_that_paused_for_too_long_is_written_again(lasts):
    program = Program(a=MarkedCache(lasts=lasts))
    for size in (10_000, 11_000):
        program.call(A, size)
    program.at += lasts
    assert program.predicted(A, 12_000).read == pytest.approx(11_000)
    program.at += 1
    read, written, written_1h, continues = program.predicted(A, 12_000)
    assert (read, continues) == (0, False)
    assert written == pytest.approx(12_000)
    assert written_1h == pytest.approx(12_000 if lasts > 300 else 0)


def test_a_cache_that_is_seen_to_last_longer_is_trusted_for_longer():
    program = Program(a=AutomaticCache(lasts=7200.0))
    for size in (10_000, 11_000, 12_000):
        program.call(A, size)
    program.at += 3000
    assert program.predicted(A, 13_000).read == 0
    program.call(A, 13_000)
    program.at += 2900
    assert program.predicted(A, 14_000).read == pytest.approx(13_000, rel=0.02)


def test_a_system_prompt_that_others_kept_warm_is_no_sign_that_a_conversation_lasts_longer():
    program = Program(a=AutomaticCache())
    for size in (10_000, 11_000, 12_000):
        program.call(A, size)
    program.at += 3000
    program.saw(A, TokenUsage(13_000, 100, 7_040))  # as much of it as the other conversations have, too
    program.at += 2900
    assert not program.predicted(A, 14_000).continues


def test_misses_lower_what_is_expected_to_be_read():
    program = Program()
    for n in range(200):
        program.saw(A, TokenUsage(10_000, 100, 9_984 if n % 2 else 0))
        program.at += 10
    assert program.predicted(A, 10_000).read == pytest.approx(5_000, rel=0.1)


def test_elsewhere_nothing_is_read_and_who_charges_for_writing_is_paid_for_it():
    program = Program(a=MarkedCache(), b=AutomaticCache())
    for size in (10_000, 11_000, 12_000):
        program.call(A, size)
        program.call(B, size, session="other")
    moved = program.predicted(Candidate("a", "big", "api_key"), 13_000)
    assert moved[:3] == pytest.approx((0, 13_000, 0)), "another model of a provider that charges for it"
    assert program.predicted(Candidate("a", "mid", "second"), 13_000).read == 0, "each account has its own"
    assert program.predicted(B, 13_000, session="s") == (0, 0, 0, False)


def test_calls_of_a_stage_without_a_session_read_the_system_prompt_that_they_share():
    program = Program(a=MarkedCache(marked=5_000), b=AutomaticCache())
    for _ in range(20):
        program.call(A, 6_000, session="", prefix="system")
        usage = program.providers["b"].bill("system", 5_000, program.at)
        program.saw(B, usage._replace(input_tokens=6_000), session="")
        program.at += 20
    assert program.predicted(A, 6_000, session="")[:3] == pytest.approx((5_000, 0, 0), rel=0.01, abs=100)
    assert program.predicted(A, 6_000, session="a new one").read == pytest.approx(5_000, rel=0.01)
    assert program.predicted(B, 6_000, session="").read == pytest.approx(4_992, rel=0.02)
    elsewhere = ("review", "another", "")
    assert program.predicted(A, 6_000, session="", key=elsewhere) == (0, 0, 0, False)
    program.at += 400
    assert program.predicted(A, 6_000, session="")[:3] == pytest.approx((0, 5_000, 0), rel=0.01)
    assert program.predicted(B, 6_000, session="").read == 0


def test_a_short_prompt_leaves_nothing_where_providers_cache_by_themselves():
    program = Program(a=AutomaticCache())
    for size in (2_000, 3_000):
        program.call(A, size, session="long")
    for size in (1_000, 1_010):
        program.call(A, size, session="short")
    assert program.predicted(A, 1_020, session="short").read == 0
    assert program.predicted(A, 4_000, session="long").read == pytest.approx(3_000, rel=0.05), (
        "which is no miss"
    )


def test_an_attempt_that_ended_late_does_not_hide_a_later_one():
    program = Program()
    program.saw(A, TokenUsage(10_000, 100, 0, 10_000))
    program.at += 60
    program.saw(A, TokenUsage(20_000, 100, 10_000, 10_000))
    program.at -= 30
    program.saw(A, TokenUsage(12_000, 100, 10_000, 2_000))
    program.at += 60
    assert program.predicted(A, 21_000).read == pytest.approx(20_000)


def test_a_failed_attempt_with_usage_has_filled_the_cache_too():
    program = Program()
    program.saw(A, TokenUsage(10_000, 3, 0, 10_000), success=False, error_class="cancelled")
    assert program.predicted(A, 11_000).read == pytest.approx(10_000)


def test_in_a_session_another_stage_reads_what_the_last_one_left():
    program = Program(a=MarkedCache())
    program.call(A, 10_000)
    assert program.predicted(A, 11_000, key=("review", "fix", "")).read == 10_000


def test_the_sessions_and_keys_that_were_seen_last_are_kept():
    program = Program()
    usage = TokenUsage(10_000, 100, 5_000, 5_000)
    for n in range(2 * MAX_SESSIONS):
        program.saw(A, usage, f"s{n}", ("review", f"stage {n}", ""))
        program.saw(A, usage, "kept", KEY) if n % 1000 == 0 else None
        program.caches.begun(f"call {n}", 10_000)
    kept = vars(program.caches)
    assert len(kept["_sessions"]) == len(kept["_sizes"]) == MAX_SESSIONS
    assert len(kept["_keys"]) == MAX_KEYS
    assert program.predicted(A, 11_000, "s0", ("review", "stage 0", "")) == (0, 0, 0, False)
    assert program.predicted(A, 11_000, "kept", ("x", "y", "")).read == pytest.approx(10_000)


tokens = st.integers(-10, 200_000)
usages = st.builds(TokenUsage, tokens, tokens, tokens, tokens, tokens)


@given(
    st.lists(st.tuples(usages, st.sampled_from(["", "s", "t"]), st.integers(0, 4000)), max_size=20), tokens
)
def test_whatever_is_reported_the_parts_of_a_prompt_are_never_more_than_it(calls, size):
    program = Program()
    size = max(size, 0)
    for usage, session, pause in calls:
        program.at += pause
        program.saw(A, usage, session)
        for candidate in (A, Candidate("a", "big", "api_key")):
            read, written, written_1h, _ = program.predicted(candidate, size)
            assert read >= 0 <= written_1h <= written * (1 + 1e-9)
            assert read + written <= size * (1 + 1e-9)
