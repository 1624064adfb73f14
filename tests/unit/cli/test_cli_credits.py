"""What ``attune quota`` and ``attune auth status`` say of prepaid credits."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest

from attune.models.credits import Credits, Grant, granted
from attune.stores.sqlite import SqliteStore
from unit.stores.ledger_records import attempt

DAY = 86_400.0


def configured(attune, usd: float, ends: float) -> Grant:
    """A provider with credits that end at a time."""
    expires = datetime.fromtimestamp(round(ends), UTC)
    attune.configure(
        '[providers.mine]\nkind = "openai"\nbase_url = "http://127.0.0.1:1"\napi_key = "env:MINE_KEY"\n'
        f"credits_usd = {usd}\ncredits_expire = {expires.isoformat()}\n"
        '[[models]]\nid = "m"\nprovider = "mine"\ntier = "capable"\ncontext_window = 100000\n'
        "input_price = 1.0\noutput_price = 1.0\n"
    )
    return Grant(usd, expires.timestamp())


def paid(attune, grant: Grant, *calls: tuple[float, float], seen: float) -> None:
    """The grant was seen first, and then these calls (time, USD) were made."""
    store = SqliteStore.open(attune.home / "data" / "ledger.db")
    fact = Credits(grant).reconcile(0, granted("mine", "api_key"), seen)
    assert fact is not None
    store.put_fact(fact)
    for number, (at, usd) in enumerate(calls):
        store.append_attempt(
            attempt(f"c{number}", at=at, provider="mine", model_id="m", credential="api_key",
                    cost_nanos=round(usd * 1e9))
        )  # fmt: skip
    store.close()


@pytest.fixture(autouse=True)
def with_a_key(attune, monkeypatch):
    monkeypatch.setenv("MINE_KEY", "k")


def test_credits_are_a_bar_with_their_expiry_and_when_they_run_out(attune):
    now = time.time()
    grant = configured(attune, 100.0, now + 30.5 * DAY)
    paid(attune, grant, *((now - (4 - n / 20) * DAY, 0.5) for n in range(80)), seen=now - 5 * DAY)
    code, out = attune("quota")
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "mine api_key"
    assert lines[1].split()[0] == "credits"
    assert lines[1].endswith("40% used of $100")
    assert sum(lines[1].count(full) for full in "\u2588#") == 8
    assert "expires in 30 d 1" in lines[2]
    assert "0.3% an hour; used up in " in out
    assert "no plan" not in out
    (window,) = attune.json("quota")["windows"]
    assert (window["window"], window["capacity_usd"], window["spent"]) == ("credits", 100.0, False)
    assert window["utilization"] == pytest.approx(0.4)
    assert now < window["runs_out"]["earliest"] < window["runs_out"]["expected"]


def test_before_the_first_call_all_of_it_is_there_and_after_the_end_none(attune):
    now = time.time()
    configured(attune, 100.0, now + 3 * DAY)
    assert "0% used of $100" in attune("quota")[1]
    grant = configured(attune, 100.0, now - 60)
    paid(attune, grant, (now - DAY, 1.0), seen=now - 2 * DAY)
    out = attune("quota")[1]
    assert "none left of $100" in out
    assert "% used" not in out, "what expired was not used"
    assert out.splitlines()[2].strip().endswith("expired")
    assert attune.json("quota")["windows"][0]["spent"] is True


def test_what_was_billed_beyond_the_credits_is_said(attune):
    now = time.time()
    grant = configured(attune, 0.3, now + 3 * DAY)
    paid(attune, grant, *((now - (4 - n) * 3600, 0.095) for n in range(4)), seen=now - DAY)
    out = attune("quota")[1]
    assert "127% used of $0.3" in out
    assert "; used up; $0.080000 billed beyond them" in out


def test_the_status_lists_them_with_what_would_pay(attune):
    now = time.time()
    grant = configured(attune, 100.0, now + 3.5 * DAY)
    paid(attune, grant, (now - DAY, 25.0), seen=now - 2 * DAY)
    code, out = attune("auth", "status")
    assert code == 0
    assert "mine credits: 25% used, expires in 3 d 1" in out
    found = attune.json("auth", "status")
    assert [each["window"] for each in found["quota"]] == ["credits"]
    assert [each["reason"][:18] for each in found["pays"]] == ["from its credits, "] * 3
    assert "of credits worth $0.00" in attune("route")[1]
