"""What pays, and whether it can be used now.

Credentials have a health, not a breaker: one that is refused (401, 403) or out of money is off,
because trying again at once cannot help, and is probed again at growing intervals, because a user
may have mended it elsewhere.
"""

from __future__ import annotations

__all__ = ["FIRST_PROBE_S", "LAST_PROBE_S", "CredentialHealth"]

FIRST_PROBE_S = 300.0
LAST_PROBE_S = 3600.0

PROBE_AGAIN_S = 1.0
"""When to come again while a probe is under way, in seconds: one usually ends long before its lease."""


class CredentialHealth:
    """Whether one credential may be used.

    Off on a ``CredentialError`` or ``MoneyGoneError``: for 5 minutes, and twice as long each time
    a probe after that fails as well, up to an hour. A success or a changed configuration turns it
    on; until then one probe is under way at a time, as a lease that ends by itself when it is forgotten.
    Times are monotonic seconds, given by the caller: setting the wall clock changes no pause.
    """

    _until: float
    _pause: float
    _reason: str
    _lease_until: float

    def __init__(self) -> None:
        self.reset()

    @property
    def until(self) -> float:
        """When the credential may be probed again; 0 if it was never off or is on again."""
        return self._until

    @property
    def reason(self) -> str:
        """Why it was turned off, as given to ``off``; empty while nothing is known against it."""
        return self._reason

    def available(self, now: float) -> bool:
        """Whether the time to probe it has come."""
        return now >= self._until

    def retry_at(self, now: float) -> float:
        """When the credential may be used, be it as a probe: not later than ``now`` if it may be now."""
        if now < self._until or now >= self._lease_until:
            return self._until
        return min(self._lease_until, now + PROBE_AGAIN_S)

    def take_probe(self, lease_until: float) -> None:
        """Begin a probe, when ``retry_at`` allows one; nobody else may until it has ended."""
        self._lease_until = lease_until

    def end_probe(self, lease_until: float) -> None:
        """End the probe that was taken until then; one whose lease another has taken over ends nothing."""
        if lease_until == self._lease_until:
            self._lease_until = 0.0

    def off(self, now: float, reason: str = "") -> float:
        """Turn the credential off and return until when.

        Failures that arrive while it is off belong to attempts that were under way already: they
        may move the deadline, never double the pause.
        """
        if self.available(now):
            self._pause = min(max(FIRST_PROBE_S, 2 * self._pause), LAST_PROBE_S)
        return self.learn(now + self._pause, reason)

    def learn(self, until: float, reason: str = "") -> float:
        """Take over a deadline, as another process found it; a later one always wins."""
        if until > self._until:
            self._until = until
            self._reason = reason
        return self._until

    def reset(self) -> None:
        """The credential worked, or its configuration changed: on at once, pauses from the start."""
        self._until = 0.0
        self._pause = 0.0
        self._reason = ""
        self._lease_until = 0.0
