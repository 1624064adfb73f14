"""What holds for every test: neither a slow machine, an unlucky draw nor who started it decides anything."""

from __future__ import annotations

import signal

from hypothesis import HealthCheck, settings

from support.scale import SCALE

settings.register_profile(
    "any machine",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=SCALE == "test",  # the larger sizes look for what nobody has seen yet
)
settings.load_profile("any machine")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As in the background of a shell: programs that tests start and interrupt would ignore it, too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
