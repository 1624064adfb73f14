"""Ports for servers that have to be told theirs."""

from __future__ import annotations

import random
import socket
from contextlib import suppress

BELOW_WHAT_THE_SYSTEM_GIVES = range(10_000, 32_000)
"""Here no connection of another test is given a port between the choice of it and its use."""

_rng = random.SystemRandom()


def free_port() -> int:
    """A port that nobody listens on now."""
    while True:
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", _rng.choice(BELOW_WHAT_THE_SYSTEM_GIVES)))
            return int(probe.getsockname()[1])
