"""What ``attune auth`` and ``attune quota`` say of a plan that is used up."""

from __future__ import annotations

import asyncio
import time

import pytest

from attune.cli._terminal import utc
from attune.clock import SYSTEM_CLOCK
from attune.models.quota import USED_UP
from attune.models.spending import OVERFLOW, SpendCap
from attune.models.state import Fact, FactKind
from attune.stores.sqlite import SqliteStore

PLAN = '[providers.claude]\nkind = "claude_subscription"\n'
COMMANDS = (("auth", "status"), ("quota",))


@pytest.fixture
def planned(attune):
    attune.configure(PLAN)
    return attune


def spend(attune, usd: float) -> None:
    """Hold dollars in the overflow cap, as a call does."""
    store = SqliteStore.open(attune.home / "data" / "ledger.db")
    cap = SpendCap(store, SYSTEM_CLOCK, usd_per_day=10.0, name=OVERFLOW)
    asyncio.run(cap.reserve(round(usd * 1e9), ttl_s=60))
    store.close()


def off(key: str, reason: str = USED_UP, kind: FactKind = FactKind.CREDENTIAL_OFF) -> Fact:
    now = time.time()
    return Fact(kind, key, now + 900, now, reason)


@pytest.mark.parametrize("command", COMMANDS)
def test_both_say_what_is_set_what_is_used_of_the_cap_and_that_calls_overflow_now(planned, command):
    planned.configure(f'{PLAN}[auth]\nsubscription_tier = "max"\noverflow = "api"\n')
    assert "overflow is api: API keys pay for what" in planned(*command)[1]
    assert "; $0.00 of $10.00 are used today (UTC)\n" in planned(*command)[1]
    fact = off("claude#subscription")
    planned.keep(fact)
    spend(planned, 1.25)
    out = planned(*command)[1]
    assert (
        f"; $1.25 of $10.00 are used today (UTC); claude#subscription is used up until {utc(fact.until)}; "
        "calls overflow now\n"
    ) in out
    assert planned.json(*command)["overflow"] == {
        "overflow": "api",
        "usd_per_day": 10.0,
        "used_usd": 1.25,
        "used_up": {"claude#subscription": fact.until},
        "refused": {},
        "overflows": True,
    }


@pytest.mark.parametrize("command", COMMANDS)
def test_a_plan_that_refuses_makes_calls_overflow_too(planned, command):
    planned.configure(f'{PLAN}[auth]\ndefault_mode = "subscription"\n')
    fact = off("claude#subscription", "it was refused (401 or 403)")
    planned.keep(fact)
    out = planned(*command)[1]
    assert f"; claude#subscription refuses, next try {utc(fact.until)}; calls overflow now\n" in out
    found = planned.json(*command)["overflow"]
    assert (found["used_up"], found["refused"]) == ({}, {"claude#subscription": fact.until})
    assert found["overflows"]


@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_off_for_another_reason_or_of_another_provider_is_not_used_up(planned, command):
    past = off("claude#subscription")._replace(until=time.time() - 1)
    planned.keep(off("claude#subscription", "it was refused (401 or 403)"), off("mine#subscription"), past)
    found = planned.json(*command)["overflow"]
    assert (found["used_up"], found["overflows"]) == ({}, False)


def test_the_window_of_some_models_is_told_and_calls_of_others_do_not_overflow(planned):
    planned.configure(f'{PLAN}[auth]\ndefault_mode = "subscription"\noverflow = "wait"\n')
    planned.keep(off("claude#subscription#opus", kind=FactKind.MODEL_OFF))
    out = planned("quota")[1]
    assert "overflow is wait: calls wait for the reset of a plan that is used up, and fail where it" in out
    assert "claude#subscription#opus is used up until" in out
    assert "overflow now" not in out


def test_calls_that_do_not_count_on_the_plan_do_not_overflow(planned):
    planned.keep(off("claude#subscription"))
    out = planned("auth", "status")[1]
    assert "overflow is fail: calls fail" in out
    assert "by the strategy no calls count on the plan, so none overflow" in out
    assert planned.json("quota")["overflow"]["overflows"] is False


def test_without_a_plan_nothing_is_said_of_it(attune):
    for command in COMMANDS:
        assert "overflow is" not in attune(*command)[1]
        assert attune.json(*command)["overflow"] is None


def test_status_goes_on_without_a_ledger_that_cannot_be_read(planned):
    (planned.home / "data").mkdir()
    (planned.home / "data" / "ledger.db").write_text("no database, whatever its name says")
    code, out = planned("auth", "status")
    assert (code, "overflow is" in out) == (0, False)
    assert planned.json("auth", "status")["overflow"] is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            'overflow = "sometimes"',
            "line 4: unknown overflow 'sometimes' in [auth]; choose one of api, fail, wait",
        ),
        (
            "overflow_usd_per_day = -1",
            "line 4: [auth]: overflow_usd_per_day must be from 0 to 1000000000 USD",
        ),
        (
            "overflow_usd_per_day = nan",
            "line 4: [auth]: overflow_usd_per_day must be from 0 to 1000000000 USD",
        ),
        ('overflow_usd_per_day = "ten"', "line 4: [auth]: overflow_usd_per_day must be a number, not 'ten'"),
    ],
)
def test_a_mistake_in_the_configuration_is_one_clear_line(attune, text, said):
    attune.configure(f"{PLAN}[auth]\n{text}\n")
    code, _ = attune("auth", "status")
    assert (code, said in attune.err) == (3, True), attune.err


def test_setup_saves_it_and_says_what_shadows_it(planned):
    assert planned("auth", "setup", "--overflow", "wait", "--overflow-usd-per-day", "0")[0] == 0
    strategy = planned.json("auth", "status")["strategy"]
    assert strategy["overflow"] == {"value": "wait", "source": "auth.json"}
    assert strategy["overflow_usd_per_day"] == {"value": 0.0, "source": "auth.json"}
    planned.configure(f'{PLAN}[auth]\noverflow = "fail"\n')
    assert (
        "sets overflow = fail, which wins over what was saved"
        in planned("auth", "setup", "--overflow", "api")[1]
    )
    code, _ = planned("auth", "setup", "--overflow-usd-per-day", "-3")
    assert (code, "must be from 0 to" in planned.err) == (2, True)
