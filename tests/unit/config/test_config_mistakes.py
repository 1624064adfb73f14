"""Every mistake in the file is one line: the file, the line, the key, and the nearest name or the remedy."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attune.config import load
from attune.errors import ConfigError

CANARY = "canary-value-of-a-key"  # not-a-secret

P = '[providers.p]\nkind = "openai"\nbase_url = "http://127.0.0.1:1"\n'
M = '[[models]]\nid = "m"\nprovider = "openai"\ntier = "cheap"\ncontext_window = 10\n'

MISTAKES = {
    "a syntax error": ("a = 1\nb = ", "not valid TOML: Invalid value (at end of document)"),
    "a number too long for Python": (f"a = {'9' * 5000}", "not valid TOML"),
    "nesting without end": (f"a = {'[' * 5000}", "not valid TOML: it is nested too deeply"),
    "an unknown table": ("\n[gatway]\nport = 1", "line 2: unknown table 'gatway' in the file"),
    "a table that is none": ("routing = 3", "line 1: routing: must be a table"),
    "an unknown key": (
        "[call]\nmax_atempts = 3",
        "line 2: unknown key 'max_atempts' in [call]; did you mean",
    ),
    "an unknown hedge": ('[call]\nhedge = "p100"', "line 2: [call] hedge: unknown hedge 'p100'"),
    "an unknown tier with limits": ("[call.tiers.chep]\nidle_seconds = 1", "unknown tier 'chep'"),
    "an unknown limit of a tier": (
        "[call.tiers.cheap]\nidle_second = 1",
        "line 2: unknown key 'idle_second' in [call.tiers.cheap]; did you mean 'idle_seconds'",
    ),
    "a wrong type": ("[call]\n# why\nretries = true", "line 3: [call] retries: must be a whole number"),
    "a negative limit": ("[call]\nretries = -1", "line 2: [call] retries: must be a whole number from 0"),
    "a number that is none": ("[call]\nidle_seconds = nan", "[call] idle_seconds: must be a number from"),
    "an infinite limit": ("[routing]\nmax_usd_per_day = inf", "must be a number from 0 to 1e+09"),
    "a text for a number": ('[breaker]\nhalf_open_calls = "1"', "[breaker] half_open_calls: must be a whole"),
    "a rate above 1": (
        "[routing]\nmin_success_rate = 80",
        "line 2: [routing] min_success_rate: must be a number from 0 to 1",
    ),
    "a text for a flag": ('[routing]\nlocal_only = "yes"', "local_only: must be true or false"),
    "an unknown durability": (
        '[ledger]\ndurability = "cal"',
        "unknown durability 'cal'; did you mean 'call'?",
    ),
    "an empty list": ("[routing]\nallow_providers = []", "allow_providers: must be a list of at least one"),
    "an unknown provider": (
        '[routing]\nallow_providers = [\n"opena1"]',
        "line 2: [routing] allow_providers: unknown provider 'opena1'; did you mean 'openai'?",
    ),
    "a workflow without its list": (
        "[routing.workflows.x]",
        "[routing.workflows.x]: allow_providers is missing",
    ),
    "an unknown kind": ('[providers.p]\nkind = "opnai"', "line 2: [providers.p] kind: unknown kind 'opnai'"),
    "an unknown protocol": (P + 'protocol = "respones"', "line 4: [providers.p] protocol: unknown protocol"),
    "an unknown protocol and the nearest": (P + 'protocol = "respones"', "did you mean 'responses'?"),
    "a protocol where there is no choice": (
        '[providers.anthropic]\nprotocol = "chat"',
        "line 2: [providers.anthropic] protocol: the anthropic kind has no choice of protocol",
    ),
    "no kind": ("[providers.p]", "line 1: [providers.p]: kind is missing"),
    "no address": ('[providers.p]\nkind = "openai"', "[providers.p]: base_url is missing"),
    "an empty address": (
        '[providers.p]\nkind = "openai"\nbase_url = " "',
        "base_url: must be a text in quotes",
    ),
    "a bad provider name": ('[providers."a/b"]\nkind = "local"', "a provider's name is letters, digits"),
    "no address at all": ('[providers.p]\nkind="openai"\nbase_url="nowhere"', "base_url: must be http(s)://"),
    "a blank in the address": (
        '[providers.p]\nkind="openai"\nbase_url="http://h /v1"',
        "base_url: must be http(s)://",
    ),
    "a bad port": ('[providers.p]\nkind="openai"\nbase_url="http://h:x"', "base_url: must be http(s)://"),
    "a password in the address": (
        f'[providers.p]\nkind="openai"\nbase_url="https://u:{CANARY}@h"',
        "line 3: [providers.p] base_url: must be http(s)://host",
    ),
    "a literal key": (
        P + f'api_key = "{CANARY}"',
        "line 4: [providers.p] api_key: must say where the key is",
    ),
    "a literal key as a variable": (P + f'api_key = "env:{CANARY}"', "api_key: must say where the key is"),
    "a literal key among several": (
        P + f'api_keys = {{ a = "{CANARY}" }}',
        "line 4: [providers.p.api_keys] a: must say where",
    ),
    "both kinds of keys": (P + 'api_key = "env:A"\napi_keys = {a = "env:A"}', "either api_key or api_keys"),
    "a bad credential name": (P + 'api_keys = { "a#b" = "env:A" }', "'a#b' is no name of a credential"),
    "a key in clear text": (
        '[providers.p]\nkind = "openai"\nbase_url = "http://example.com/v1"\napi_key = "env:A"',
        "line 3: [providers.p] base_url: a key would travel in clear text to example.com; use https",
    ),
    "a key for the embedded model": (
        '[providers.local]\napi_key = "env:A"',
        "the local kind has no address and no key",
    ),
    "a single model table": ('[models]\nid = "x"', "models: must be a list of tables: write [[models]]"),
    "a model without a tier": (
        '[[models]]\nid = "m"\nprovider = "openai"\ncontext_window = 9',
        "line 1: [[models]]: tier is missing",
    ),
    "a model of nobody": (M.replace('"openai"', '"opena"'), "line 3: [[models]] provider: unknown provider"),
    "a second model that is wrong": (
        M + M.replace('"m"', '"n"').replace('"cheap"', '"cheep"'),
        "line 9: [[models]] tier: unknown tier 'cheep'; did you mean 'cheap'?",
    ),
    "a model twice": (M + M, "line 7: [[models]] id: the model 'openai/m' is there twice"),
    "an unknown ability": (M + 'abilities = ["tool"]', "unknown ability 'tool'; did you mean 'tools'?"),
    "half a price": (M + "input_price = 1", "prices need both input_price and output_price"),
    "a price in the wrong unit": (M + "input_price = 1e9\noutput_price = 1", "input_price: must be a number"),
    "an answer above the window": (M + "max_output_tokens = 11", "must be a whole number from 1 to 10"),
    "a model name of two lines": (M.replace('"m"', '"m\\nn"'), "id: must be one line of printable text"),
    "an unknown tier": (
        '[tiers]\ncapabel = ["x"]',
        "unknown key 'capabel' in [tiers]; did you mean 'capable'?",
    ),
    "an unknown model in a tier": (
        '[tiers]\ncapable = ["claude-sonet-5-5"]',
        "line 2: [tiers] capable: unknown model 'claude-sonet-5-5'; did you mean 'claude-sonnet-5-5'?",
    ),
    "a model in two tiers": (
        '[tiers]\ncheap = ["gpt-6-luna"]\ncapable = ["gpt-6-luna"]',
        "is listed in the tiers",
    ),
    "an unknown field of the strategy": ("[auth]\nmode = 1", "line 2: unknown key 'mode' in [auth]; did"),
    "an unknown plan": (
        '[auth]\n\nsubscription_tier = "pr0"',
        "line 3: unknown subscription_tier 'pr0' in [auth]; did you",
    ),
    "a wrong type in the strategy": (
        "[auth]\ncost_optimization = 1",
        "cost_optimization must be true or false",
    ),
}


@pytest.mark.parametrize(("text", "says"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line_with_file_line_key_and_remedy(mistake, tmp_path, text, says):
    line = mistake(text, A="a")
    assert says in line
    assert str(tmp_path / "config.toml") in line


def test_what_looks_like_a_key_is_not_shown_wherever_it_stands(mistake):
    key = "sk-ant-" + "not-a-secret-0123456789"
    assert key not in mistake(f'[providers.p]\nkind = "{key}"')
    assert key not in mistake(f'[call]\n"{key}" = 1')
    assert "\x1b" not in mistake('[call]\n"\\u001b[31m" = 1')


def test_keys_are_found_behind_long_texts_and_lists(mistake):
    before = 'tiers = { cheap = [\n"gpt-6-luna",\n] }\n\n# [call]\n[auth]\nprefer_subscription = true\n'
    assert "line 9: [call] retries" in mistake(before + '[call]\nretries = """\n[call]\nretries = 1\n"""\n')


def test_tables_written_inline_or_within_a_list_of_tables_have_lines_too(mistake):
    inline = 'models = [\n{ id = "m", provider = "openai", tier = "cheap" }]'
    assert "line 2: [[models]]: context_window is missing" in mistake("\n" + inline)
    assert "line 6: unknown key 'extra' in [[models]]" in mistake(M + "[models.extra]\na = 1")


def test_dotted_keys_and_windows_line_ends_have_lines_too(mistake):
    assert "line 2: [call] retries" in mistake("# one\r\ncall.retries = -1\r\n")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"a = 1\nb = '\xff'", "line 2: this is not UTF-8 text"),
        (b"#" * 300_000, "too large to be a configuration"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(tmp_path, content, says):
    (tmp_path / "config.toml").write_bytes(content)
    with pytest.raises(ConfigError, match=says):
        load(environ={"ATTUNE_HOME": str(tmp_path)})


def test_a_byte_order_mark_is_no_mistake(tmp_path):
    (tmp_path / "config.toml").write_bytes(b"\xef\xbb\xbf[routing]\nwindow_days = 3")
    assert load(environ={"ATTUNE_HOME": str(tmp_path)}).routing.window_days == 3


def test_a_folder_in_the_place_of_the_file_is_refused(tmp_path):
    (tmp_path / "config.toml").mkdir()
    with pytest.raises(ConfigError, match=r"cannot read the configuration .*Is a directory"):
        load(environ={"ATTUNE_HOME": str(tmp_path)})


EVERYTHING = (
    P
    + 'api_keys = { a = "env:A" }\n'
    + M
    + '[tiers]\ncheap = ["m"]\n[routing]\nwindow_days = 3\n'
    + '[routing.workflows.w]\nallow_providers = ["p"]\n'
    + "[call]\nretries = 2\n[auth]\nsubscription_tier = 'pro'\n"
)
PIECES = st.sampled_from(
    [*'[]{}"=#.,\n', '"""', "''", "[[", "-1", "true", "models", "[x]\n", "\x1b", "é", "inf"]
)


@given(st.integers(0, len(EVERYTHING)), st.integers(0, 12), PIECES)
def test_whatever_is_mistyped_is_read_or_refused_in_one_line(place, cut, piece):
    text = EVERYTHING[:place] + piece + EVERYTHING[place + cut :]
    with tempfile.TemporaryDirectory() as home:
        (Path(home) / "config.toml").write_text(text)
        try:
            load(environ={"ATTUNE_HOME": home, "A": CANARY})
        except ConfigError as error:
            line = str(error)
            assert line.startswith(home)
            assert line.isprintable()
            assert CANARY not in line
