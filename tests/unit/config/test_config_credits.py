"""Prepaid credits in a provider's table."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from attune.models.credits import Grant

MINE = '[providers.mine]\nkind = "openai"\nbase_url = "http://127.0.0.1:1"\n'
KEY = 'api_key = "env:MINE"\n'
CREDITS = "credits_usd = 500\ncredits_expire = 2026-12-31\n"
END = datetime(2026, 12, 31, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("written", "expires_at"),
    [
        ("2026-12-31", END),
        ("2026-12-31T12:00:00", END + 12 * 3600),
        ("2026-12-31T12:00:00Z", END + 12 * 3600),
        ("2026-12-31T12:00:00+02:00", END + 10 * 3600),
    ],
)
def test_a_grant_ends_when_the_file_says_in_utc_and_a_date_is_its_beginning(configured, written, expires_at):
    config = configured(MINE + KEY + f"credits_usd = 500\ncredits_expire = {written}\n", MINE="k")
    assert config.grants == {("mine", "api_key"): Grant(500.0, expires_at)}


def test_a_known_provider_needs_only_the_grant_and_one_without_has_none(configured):
    text = f'[providers.anthropic]\n{CREDITS}[providers.openai]\napi_key = "env:O"\n'
    config = configured(text, ANTHROPIC_API_KEY="k", O="k")
    assert config.grants == {("anthropic", "api_key"): Grant(500.0, END)}


def test_of_several_keys_the_first_has_the_credits_and_no_other_gets_them_when_it_is_missing(configured):
    text = MINE + 'api_keys = { team = "env:TEAM", own = "env:OWN" }\n' + CREDITS
    assert list(configured(text, TEAM="k", OWN="k").grants) == [("mine", "team")]
    config = configured(text, OWN="k")
    assert (config.grants, config.enrolled["mine"]) == ({}, ("own",))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (KEY + "credits_usd = 5\n", "line 5: [providers.mine] credits_usd: credits need both"),
        (KEY + "credits_expire = 2026-12-31\n", "credits_expire: credits need both"),
        (KEY + "credits_usd = 0\ncredits_expire = 2026-12-31\n", "must be a number from 0.01"),
        (KEY + "credits_usd = nan\ncredits_expire = 2026-12-31\n", "must be a number from 0.01"),
        (KEY + 'credits_usd = 5\ncredits_expire = "2026-12-31"\n', "must be a date such as 2026-12-31"),
        (KEY + "credits_usd = 5\ncredits_expire = 12:00:00\n", "must be a date such as 2026-12-31"),
        (KEY + "credits_usd = 5\ncredit_expire = 2026-12-31\n", "did you mean 'credits_expire'"),
        (CREDITS, "line 4: [providers.mine] credits_usd: credits are granted to a key; give api_key"),
    ],
)
def test_half_a_grant_or_an_impossible_one_is_refused_in_a_line(mistake, text, said):
    assert said in mistake(MINE + text, MINE="k")


def test_a_plan_has_no_credits(mistake):
    assert "take it out" in mistake('[providers.claude]\nkind = "claude_subscription"\n' + CREDITS)
