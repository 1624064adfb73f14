"""Times as people say them."""

from __future__ import annotations

from datetime import UTC, datetime

__all__ = ["moment", "span"]

LATEST_S = 253_402_300_799
"""The last second that a date can be of: a plan may tell any reset."""


def span(seconds: float) -> str:
    """A time as people say it, in its two largest units."""
    minutes = max(0, round(seconds / 60))
    if minutes < 1:
        return "less than a minute"
    days, hours, rest = minutes // 1440, minutes // 60 % 24, minutes % 60
    parts = [f"{days} d" if days else "", f"{hours} h" if hours else "", f"{rest} min" if rest else ""]
    return " ".join([part for part in parts if part][:2])


def moment(utc_seconds: float, now: float) -> str:
    """A moment to come and how long that is: ``2026-11-23 14:00:00 UTC (in 2 h)``. Both in epoch seconds."""
    seconds = min(utc_seconds, LATEST_S)
    return f"{datetime.fromtimestamp(round(seconds), UTC):%Y-%m-%d %H:%M:%S UTC} (in {span(seconds - now)})"
