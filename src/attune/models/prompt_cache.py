"""What a provider's prompt cache will hold of the next prompt: learned from the cached tokens of past calls.

Providers keep the beginning of a prompt for some minutes, and price what they read from there at a tenth or a
twentieth. Some do so by themselves and charge nothing for it (OpenAI, Gemini), some where the caller has
marked it, at a premium for what they write (Anthropic). Which is which is not configured: attempts show it.

Two things are learned of each candidate. Of a session: how many tokens its last call left in the cache; the
next one reads them, if it comes in time. Of a key (workflow, stage, task): the share of a prompt that is read
and written by a call which continues no conversation, such as a system prompt that a stage's calls share.
"""

from __future__ import annotations

from collections import OrderedDict
from sys import intern
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from attune.models.telemetry import LLMCallRecord, TokenUsage

__all__ = ["CacheView", "CachedShares", "PromptCaches"]

LIFETIME_S = 300.0
"""How long a cache lasts without use: Anthropic's 5 minutes, and the least of OpenAI's "5 to 10 minutes"."""
HOUR_S = 3600.0
"""The lifetime of what is written at the one-hour price."""
LONGEST_S = 86_400.0
"""The longest lifetime that is learned where prompts are still read after longer pauses."""
SURVIVED = 0.8
"""The share of a conversation's prompt that has to be read after such a pause: less may be others'."""
SMALLEST = 1024
"""Tokens of the shortest prompt that providers cache by themselves (OpenAI, Gemini)."""
MAX_SESSIONS = 4096
MAX_KEYS = 1024
KEPT = 0.98
"""The weight that is left of the past with each call: about the last 50 count."""

K = TypeVar("K")
V = TypeVar("V")

CachedShares: TypeAlias = "tuple[float, float, float]"
"""The shares of a prompt that are predicted to be read from a cache, written to it, and written for an hour;
the rest is plain input. A plain tuple, because each decision needs one for every candidate.
"""


class _Prompt(NamedTuple):
    """The tokens of a prompt by how they were billed; ``read`` and ``written`` are parts of ``size``."""

    size: int
    read: int
    written: int
    written_1h: int

    @classmethod
    def of(cls, usage: TokenUsage) -> _Prompt:
        """The prompt of an attempt, as far as what was reported can be."""
        read, written = max(usage.cache_read_tokens, 0), max(usage.cache_write_tokens, 0)
        size = max(usage.input_tokens, read + written)
        return cls(size, read, written, min(max(usage.cache_write_1h_tokens, 0), written))


class _Turn(NamedTuple):
    """The last call of a session at a candidate: the tokens that it ``left`` in the cache ``until`` when, the
    ``measure`` by which its size was estimated (1: rightly), and the shares of what it did not read that it
    wrote, usually and for an hour.
    """

    at: float
    until: float
    left: float
    measure: float
    written: float
    written_1h: float


class _Habit:
    """What the calls of one key find and leave in the caches of one candidate, or of all that a provider has.

    ``again`` is the mean share of what a conversation left that its next call read, ``writes`` whether any
    writing was reported. The last call's cache ``lasts`` so many seconds, ``until`` then. The sums are of
    tokens of calls that continue no conversation; those that came in time are summed up apart.
    """

    __slots__ = (
        *("again", "lasts", "until", "writes"),
        *("_in_time", "_in_time_read", "_read", "_size", "_turns", "_written", "_written_1h"),
    )

    def __init__(self) -> None:
        self.until = float("-inf")
        self.lasts = LIFETIME_S
        self.writes = False
        self.again = self._turns = 1.0
        self._size = self._read = self._written = self._written_1h = 0.0
        self._in_time = self._in_time_read = 0.0

    def learn(self, at: float, prompt: _Prompt) -> None:
        """Take in a call that continues no conversation."""
        self._size = self._size * KEPT + prompt.size
        self._read = self._read * KEPT + prompt.read
        self._written = self._written * KEPT + prompt.written
        self._written_1h = self._written_1h * KEPT + prompt.written_1h
        if at <= self.until:
            self._in_time = self._in_time * KEPT + prompt.size
            self._in_time_read = self._in_time_read * KEPT + prompt.read

    def continues(self, last: _Turn, at: float, prompt: _Prompt) -> bool:
        """Take in how much of what a conversation left was read; false if that was no longer there."""
        share = min(prompt.read / last.left, 1.0) if last.left else 0.0
        if at > last.until:
            if share < SURVIVED or at > last.at + LONGEST_S:
                return False
            self.lasts = max(self.lasts, at - last.at)
        if last.left:
            self._turns = self._turns * KEPT + 1
            self.again += (share - self.again) / self._turns
        return True

    def turn(self, at: float, prompt: _Prompt, estimated: int) -> _Turn:
        """What a call leaves for the next one: what it read and wrote, or the whole prompt where nothing is
        ever written, because the provider caches by itself. ``estimated`` is the size that was predicted.
        """
        automatic = prompt.size if prompt.size >= SMALLEST else 0
        left = prompt.read + prompt.written if self.writes else automatic
        new, measure = max(prompt.size - prompt.read, 1), estimated / max(prompt.size, 1)
        usual = (prompt.written - prompt.written_1h) / new
        return _Turn(at, at + self.lasts, left, measure, usual, prompt.written_1h / new)

    def shares(self, now: float) -> CachedShares:
        """The shares of a prompt that continues no conversation."""
        read = self._in_time_read / self._in_time if self._in_time and now <= self.until else 0.0
        return read, *self._writes(read)

    def _writes(self, read: float) -> tuple[float, float]:
        """The shares that are written, usually and for an hour, of a prompt of which so much is read."""
        if not self._written:
            return 0.0, 0.0
        written = max((self._read + self._written) / self._size - read, 0.0)
        for_an_hour = self._written_1h / self._written
        return written * (1 - for_an_hour), written * for_an_hour


class _Habits:
    """The habits at one key, by candidate, and by provider for all that it has.

    The shares of all are kept at hand until the next of the caches has had its time: with thousands of keys a
    decision's time is that of fetching memory.
    """

    __slots__ = ("_shares", "_until", "by_name")

    def __init__(self) -> None:
        self.by_name: dict[str, _Habit] = {}
        self._shares: dict[str, CachedShares] = {}
        self._until = float("-inf")

    def shares(self, now: float) -> Mapping[str, CachedShares]:
        """The shares of a prompt that continues no conversation, everywhere."""
        if now > self._until:
            self._shares = {name: habit.shares(now) for name, habit in self.by_name.items()}
            self._until = min(
                [h.until for h in self.by_name.values() if h.until >= now], default=float("inf")
            )
        return self._shares

    def learn(self, name: str, provider: str, last: _Turn | None, at: float, prompt: _Prompt) -> _Habit:
        """Take in a call of a candidate, which may go on after a session's ``last``."""
        habit = self.by_name.setdefault(name, _Habit())
        habit.writes = habit.writes or prompt.written > 0
        habit.lasts = max(habit.lasts, HOUR_S if prompt.written_1h else 0.0)
        if last is None or not habit.continues(last, at, prompt):
            habit.learn(at, prompt)
            self.by_name.setdefault(provider, _Habit()).learn(at, prompt)
        habit.until = max(habit.until, at + habit.lasts)
        self._until = float("-inf")
        return habit


class CacheView:
    """What is predicted of the caches for one prompt of ``tokens``, at one time.

    Candidates are named by their keys ("provider/model#credential"). ``kept`` are the tokens that each has of
    an earlier prompt of the same conversation.
    """

    __slots__ = ("_continued", "_shares", "kept", "tokens")

    def __init__(
        self, turns: Mapping[str, _Turn] | None, habits: _Habits | None, tokens: float, now: float
    ) -> None:
        self.tokens = tokens
        self._shares: Mapping[str, CachedShares] = {} if habits is None else habits.shares(now)
        self._continued: dict[str, CachedShares] = {}
        self.kept: dict[str, float] = {}
        if turns:
            known = {} if habits is None else habits.by_name
            for name, turn in turns.items():
                if now <= turn.until:
                    self._go_on(name, turn, known[name].again if name in known else 1.0)

    def _go_on(self, name: str, turn: _Turn, again: float) -> None:
        """Take in that the prompt goes on after a turn, of which so much is read again."""
        read = min(turn.left * turn.measure * again, self.tokens)
        if read > 0:
            self.kept[name] = read
        share = read / self.tokens if self.tokens else 0.0
        self._continued[name] = share, (1 - share) * turn.written, (1 - share) * turn.written_1h

    def at(self, name: str, provider: str) -> CachedShares | None:
        """The shares of the prompt that are cached at a candidate; ``None`` where nothing is known of it."""
        if self._continued and name in self._continued:
            return self._continued[name]
        return self._shares.get(name) or self._shares.get(provider)  # never called: as cold as its siblings

    def read(self, name: str) -> int:
        """The tokens that are read from a candidate's cache."""
        shares = self.at(name, "")
        return 0 if shares is None else round(shares[0] * self.tokens)

    def told(self, name: str, usd: float | None, others: Iterable[float | None]) -> str:
        """What to tell of a candidate's cache, given what it costs and what the ``others`` would."""
        read = self.read(name)
        if not read:
            return ""
        told = f", about {read:,} of {self.tokens:,.0f} tokens from its cache"
        least = min((other for other in others if other is not None), default=None)
        if name in self.kept and usd is not None and least is not None and least > usd:
            told += f"; leaving costs about ${least - usd:.6f} more"
        return told


class PromptCaches:
    """The prompt caches of all candidates, as far as attempts have shown them.

    Knows the ``MAX_SESSIONS`` and ``MAX_KEYS`` that were seen last, and nothing while no attempt has reported
    a cached token: a candidate is known at a key from the first one on that did.
    """

    def __init__(self) -> None:
        self._sessions: OrderedDict[str, dict[str, _Turn]] = OrderedDict()
        self._keys: OrderedDict[tuple[str, str, str], _Habits] = OrderedDict()
        self._sizes: OrderedDict[str, int] = OrderedDict()

    def begun(self, call_id: str, tokens: int) -> None:
        """Take in the estimated size of a conversation's prompt: by its measure the next one is predicted."""
        if self._keys:
            self._sizes[call_id] = tokens
            if len(self._sizes) > MAX_SESSIONS:
                self._sizes.popitem(last=False)

    def view(self, session_id: str, key: tuple[str, str, str], tokens: float, now: float) -> CacheView | None:
        """What is known for a prompt of so many tokens now (UTC epoch seconds), at a key (workflow, stage,
        task); ``None`` for nothing.
        """
        habits = self._keys.get(key)
        turns = self._sessions.get(session_id) if session_id else None
        if habits is None and turns is None:
            return None
        return CacheView(turns, habits, tokens, now)

    def observe(self, record: LLMCallRecord) -> None:
        """Learn from one attempt, successful or not, of which a usage was reported."""
        usage = record.usage
        if usage is None:
            return
        key = (record.workflow, record.stage, record.task_type)
        name = intern(f"{record.provider}/{record.model_id}#{record.credential}")
        known = key in self._keys and name in self._keys[key].by_name
        if not known and usage.cache_read_tokens <= 0 >= usage.cache_write_tokens:
            return
        turns = _renewed(self._sessions, record.session_id, {}, MAX_SESSIONS) if record.session_id else {}
        last = turns.get(name)
        if last is not None and record.at < last.at:
            return  # it ended after one that began later
        prompt = _Prompt.of(usage)
        habits = _renewed(self._keys, key, _Habits(), MAX_KEYS)
        habit = habits.learn(name, record.provider, last, record.at, prompt)
        turns[name] = habit.turn(record.at, prompt, self._sizes.get(record.call_id, prompt.size))


def _renewed(kept: OrderedDict[K, V], key: K, new: V, most: int) -> V:
    """The value of a key, ``new`` if there is none, which becomes the newest; the oldest goes when there are
    too many.
    """
    value = kept.setdefault(key, new)
    kept.move_to_end(key)
    if len(kept) > most:
        kept.popitem(last=False)
    return value
