"""The worth of a window and its burn rate, learned from reports."""

from __future__ import annotations

import random

import pytest

from attune.models.quota import QuotaWindow, Rate
from attune.models.quota_meter import QuotaMeter

HOUR, WEEK = 3600.0, 604_800.0
MONDAY = 1_767_571_200.0
"""2026-01-05 00:00 UTC."""


def used_up(
    meter: QuotaMeter, capacity: float, elsewhere: float, hours: int, rng: random.Random
) -> QuotaWindow:
    """A week's window used by six calls an hour and by its owner elsewhere, told after each call."""
    used, window = 0.0, QuotaWindow("seven_day", 0.0, MONDAY + WEEK, MONDAY)
    for number in range(hours * 6):
        usd = rng.lognormvariate(-2, 1)
        used += usd + elsewhere / 6
        meter.paid(usd)
        told = round(used / capacity, 2)
        window = meter.report(QuotaWindow("seven_day", told, MONDAY + WEEK, MONDAY + (number + 1) * 600))
    return window


def test_the_capacity_is_learned_from_rounded_reports():
    window = used_up(QuotaMeter(MONDAY), 50.0, 0.0, 30, random.Random(1))
    assert window.capacity_usd == pytest.approx(50.0, rel=0.1)
    assert window.elsewhere_usd == pytest.approx(0.0, abs=0.2)


def test_use_elsewhere_is_told_from_use_through_here():
    rng, meter, capacity, used, at = random.Random(2), QuotaMeter(MONDAY), 200.0, 0.0, MONDAY
    window = QuotaWindow("seven_day", 0.0, MONDAY + WEEK, MONDAY)
    for block in range(24):  # busy hours and quiet ones: what is paid here does not follow the clock
        for _ in range(20 if block % 3 == 0 else 3):
            usd = rng.uniform(0.1, 0.4)
            at += 600
            used += usd + 1.5 / 6
            meter.paid(usd)
            told = QuotaWindow("seven_day", round(used / capacity, 3), MONDAY + WEEK, at)
            window = meter.report(told)
        at += 2 * HOUR
        used += 3.0
    assert window.capacity_usd == pytest.approx(capacity, rel=0.25)
    assert window.elsewhere_usd == pytest.approx(1.5, rel=0.4)


def test_a_reset_between_two_reports_is_no_use():
    meter = QuotaMeter(MONDAY)
    meter.report(QuotaWindow("five_hour", 0.5, MONDAY + HOUR, MONDAY))
    meter.paid(3.0)
    window = meter.report(QuotaWindow("five_hour", 0.6, MONDAY + 6 * HOUR, MONDAY + 2 * HOUR))
    assert window.capacity_usd is None
    meter.paid(2.0)
    window = meter.report(QuotaWindow("five_hour", 0.8, MONDAY + 6 * HOUR, MONDAY + 3 * HOUR))
    assert window.capacity_usd == pytest.approx(10.0)
    assert meter.burn.total == pytest.approx(0.2, rel=0.01)
    fallen = meter.report(QuotaWindow("five_hour", 0.1, MONDAY + 6 * HOUR, MONDAY + 4 * HOUR))
    assert fallen.capacity_usd == pytest.approx(10.0)


def test_a_report_without_a_utilisation_keeps_what_is_known():
    meter = QuotaMeter(MONDAY, QuotaWindow("five_hour", 0.5, MONDAY + HOUR, MONDAY, 16.0))
    window = meter.report(QuotaWindow("five_hour", None, MONDAY + HOUR, MONDAY + 60))
    assert (window.utilization, window.capacity_usd) == (None, 16.0)
    first = QuotaMeter(MONDAY).report(QuotaWindow("five_hour", None, None, MONDAY))
    assert first.capacity_usd is None


def test_a_stored_capacity_outlives_a_restart_and_a_first_loud_report():
    meter = QuotaMeter(MONDAY, QuotaWindow("five_hour", 0.5, MONDAY + HOUR, MONDAY - HOUR, 16.0))
    meter.report(QuotaWindow("five_hour", 0.5, MONDAY + HOUR, MONDAY))
    meter.paid(0.05)
    window = meter.report(QuotaWindow("five_hour", 0.51, MONDAY + HOUR, MONDAY + 60))  # rounded up
    assert window.capacity_usd == pytest.approx(16.0, rel=0.1)


def test_a_capacity_that_was_told_is_not_learned():
    meter = QuotaMeter(MONDAY)
    for number, used in enumerate((0.1, 0.5)):
        window = meter.report(QuotaWindow("credits", used, None, MONDAY + number * HOUR, 500.0))
        meter.paid(1.0)
    assert window.capacity_usd == 500.0


def test_use_elsewhere_alone_tells_no_capacity():
    meter = QuotaMeter(MONDAY)
    for number in range(4):
        window = meter.report(QuotaWindow("five_hour", 0.2 * number, MONDAY + WEEK, MONDAY + number * HOUR))
    assert window.capacity_usd is None


def test_a_stored_burn_rate_is_gone_on_with():
    stored = Rate(MONDAY - WEEK)
    stored.observe(MONDAY - HOUR, 0.5)
    meter = QuotaMeter(MONDAY, None, stored)
    for number, used in enumerate((0.1, 0.2)):
        meter.report(QuotaWindow("five_hour", used, None, MONDAY + number))
    assert meter.burn.total == pytest.approx((0.5 + 0.1) * stored.weight(MONDAY), rel=0.01)
