"""The windows of a plan, from what the ``claude`` program says of them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from attune.models.quota import QuotaWindow
from attune.providers._claude_windows import RateLimitInfo, window_in_text, windows_of

NOW = datetime(2026, 11, 23, 4, 27, tzinfo=UTC).timestamp()


def at(*moment: int) -> float:
    return datetime(*moment, tzinfo=UTC).timestamp()  # type: ignore[arg-type]


def windows(**told: Any) -> list[tuple[str, float | None, float | None]]:
    info = msgspec.convert(told, RateLimitInfo)
    return [each[:3] for each in windows_of(info, NOW)]


@pytest.mark.parametrize(
    ("text", "name", "resets_at"),
    [
        ("You've hit your 5-hour limit \u00b7 resets 5:22am (UTC)", "five_hour", at(2026, 11, 23, 5, 22)),
        ("You've hit your 5-hour limit \u00b7 resets 4:27am (UTC)", "five_hour", at(2026, 11, 24, 4, 27)),
        ("You\u2019ve hit your session limit \u00b7 resets 12am (UTC)", "five_hour", at(2026, 11, 24)),
        ("You've hit your weekly limit \u00b7 resets Nov 26, 4pm (UTC)", "seven_day", at(2026, 11, 26, 16)),
        (
            "You've hit your weekly limit \u00b7 resets Nov 25, 11:27pm (America/New_York)",
            "seven_day",
            at(2026, 11, 26, 4, 27),
        ),
        ("You've hit your Opus limit \u00b7 resets Jan 2, 4am (UTC)", "seven_day_opus", at(2027, 1, 2, 4)),
        ("You've hit your weekly limit \u00b7 resets Jan 2, 2028, 4am (UTC)", "seven_day", at(2028, 1, 2, 4)),
        ("You've hit your Sonnet limit", "seven_day_sonnet", None),
        ("API Error: You've hit your monthly spend limit.", "monthly_spend", None),
        ("You've hit your weekly limit \u00b7 resets 4am (Atlantis/Nowhere)", "seven_day", None),
        ("You've hit your weekly limit \u00b7 resets Nov 31, 4am (UTC)", "seven_day", None),
        ("You've hit your weekly limit \u00b7 resets Foo 26, 4am (UTC)", "seven_day", None),
        ("You've hit your weekly limit \u00b7 resets when the moon is full (UTC)", "seven_day", None),
    ],
)
def test_a_spent_window_is_read_from_words(text: str, name: str, resets_at: float | None) -> None:
    assert window_in_text(text, NOW) == QuotaWindow(name, 1.0, resets_at, NOW)


@pytest.mark.parametrize("text", ["", "Overloaded", "You have hit the limit", "not your usage limit"])
def test_other_words_speak_of_no_window(text: str) -> None:
    assert window_in_text(text, NOW) is None


def test_windows_are_those_that_were_told_and_what_is_missing_is_not_nothing() -> None:
    assert windows() == []
    assert windows(status="rejected") == []
    assert windows(unifiedWindows={"five_hour": {"utilization": 0.4, "resetsAt": 9}, "seven_day": None}) == [
        ("five_hour", 0.4, 9)
    ]
    assert windows(unifiedWindows={"seven_day": {}}) == [("seven_day", None, None)]
    assert windows(status="allowed", rateLimitType="seven_day_opus", resetsAt=9) == [
        ("seven_day_opus", None, 9)
    ]


def test_the_window_that_was_refused_for_is_spent() -> None:
    told = {"status": "rejected", "rateLimitType": "seven_day_opus", "resetsAt": 9}
    others = {"five_hour": {"utilization": 0.1, "resetsAt": 7}}
    assert windows(**told, unifiedWindows=others) == [("five_hour", 0.1, 7), ("seven_day_opus", 1.0, 9)]


def test_no_more_windows_are_taken_in_than_a_plan_can_have() -> None:
    many = {f"window_{number}" * 9: {"utilization": 0.5} for number in range(1000)}
    found = windows(unifiedWindows=many)
    assert len(found) == 20
    assert max(len(name) for name, _, _ in found) == 40
