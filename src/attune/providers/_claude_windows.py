"""The quota windows of a plan, as the ``claude`` program reports them: typed, or in a refusal's words."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import msgspec

from attune.models.executor import BilledBeside
from attune.models.quota import QuotaWindow

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import tzinfo

__all__ = ["RateLimitInfo", "billed_beside", "window_in_text", "windows_of"]

_REJECTED = "rejected"
_MAX_WINDOWS = 20
_MAX_NAME_CHARS = 40
_MAX_TEXT_CHARS = 2000

_NAMES = {
    "5-hour": "five_hour",
    "session": "five_hour",
    "weekly": "seven_day",
    "opus": "seven_day_opus",
    "sonnet": "seven_day_sonnet",
}
"""What the program calls a window when it speaks to people; any other becomes ``a_name_like_this``."""

_LIMIT = re.compile(
    r"\byou've hit your (?P<name>[\w-]+(?: [\w-]+){0,3}?) limit\b"
    r"(?:[^a-z]{1,4}resets (?P<when>[^()]{1,40}) \((?P<zone>[\w/+-]{1,40})\))?",
    re.IGNORECASE,
)
_TIME = re.compile(
    r"(?:(?P<month>[A-Z][a-z]{2}) (?P<day>\d{1,2}), (?:(?P<year>\d{4}), )?)?"
    r"(?P<hour>\d{1,2})(?::(?P<minute>\d\d))?(?P<half>am|pm)"
)
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class _Window(msgspec.Struct, rename="camel"):
    utilization: float | None = None
    resets_at: float | None = None


class RateLimitInfo(msgspec.Struct, rename="camel"):
    """What a ``rate_limit_event`` says; every field may be missing.

    ``rate_limit_type`` is the window that decided ``status``, with its ``utilization`` and ``resets_at``.
    ``is_using_overage`` says that not the plan pays, but credits that are billed beside it.
    """

    status: str = ""
    rate_limit_type: str | None = None
    utilization: float | None = None
    resets_at: float | None = None
    is_using_overage: bool | None = None
    unified_windows: dict[str, _Window | None] | None = None

    @property
    def window(self) -> str:
        """The name of the window that decided; empty if it was not told."""
        return (self.rate_limit_type or "")[:_MAX_NAME_CHARS]

    @property
    def window_is_spent(self) -> bool:
        """Whether the plan refused, and not the servers for being busy: only the plan names a window."""
        return self.status == _REJECTED and (self.rate_limit_type or self.resets_at) is not None


def windows_of(info: RateLimitInfo, now: float) -> tuple[QuotaWindow, ...]:
    """Every window that the report names; ``now`` is UTC epoch seconds."""
    told: Mapping[str, _Window | None] = info.unified_windows or {}
    found = {name: each for name, each in list(told.items())[:_MAX_WINDOWS] if each is not None}
    if info.rate_limit_type and info.rate_limit_type not in found:
        used = 1.0 if info.utilization is None and info.window_is_spent else info.utilization
        found[info.rate_limit_type] = _Window(used, info.resets_at)
    return tuple(
        QuotaWindow(name[:_MAX_NAME_CHARS], each.utilization, each.resets_at, now)
        for name, each in found.items()
    )


def billed_beside(info: RateLimitInfo, now: float) -> BilledBeside | None:
    """That credits pay beside the plan, if the report says so; ``now`` is UTC epoch seconds."""
    if not info.is_using_overage:
        return None
    return BilledBeside(info.window, None if info.resets_at is None else max(0.0, info.resets_at - now))


def window_in_text(text: str, now: float) -> QuotaWindow | None:
    """The spent window in a sentence such as "You've hit your weekly limit · resets Nov 26, 4am (UTC)".

    ``now`` is UTC epoch seconds. A time without a date is the next such time, a date without a year the
    nearest; a time that cannot be read is ``None``.
    """
    found = _LIMIT.search(text[:_MAX_TEXT_CHARS].replace("\u2019", "'"))
    if found is None:
        return None
    name = found["name"].lower()
    resets_at = None if found["when"] is None else _reset(found["when"], found["zone"], now)
    return QuotaWindow(_NAMES.get(name, re.sub(r"\W+", "_", name)), 1.0, resets_at, now)


def _reset(when: str, zone: str, now: float) -> float | None:
    time = _TIME.fullmatch(when.strip())
    if time is None:
        return None
    try:
        return _moment(time, datetime.fromtimestamp(now, _zone(zone))).timestamp()
    except (KeyError, ValueError, OverflowError):  # KeyError: a zone that this machine does not know
        return None


def _zone(name: str) -> tzinfo:
    return UTC if name == "UTC" else ZoneInfo(name)


def _moment(time: re.Match[str], now: datetime) -> datetime:
    hour = int(time["hour"]) % 12 + (12 if time["half"] == "pm" else 0)
    at = now.replace(hour=hour, minute=int(time["minute"] or 0), second=0, microsecond=0)
    if time["month"] is None:
        return at if at > now else at + timedelta(days=1)
    at = at.replace(
        year=int(time["year"] or now.year), month=_MONTHS.index(time["month"]) + 1, day=int(time["day"])
    )
    if time["year"] is None and at < now - timedelta(days=1):
        at = at.replace(year=at.year + 1)
    return at
