"""Every command explains itself, and what is misspelt is told its nearest name."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from attune.cli._parser import COMMANDS

WORDS = [[name] for name in COMMANDS] + [["auth", word] for word in ("setup", "status", "reset", "recommend")]


@pytest.mark.parametrize("words", WORDS, ids=" ".join)
def test_the_help_of_each_command_has_an_example_that_starts_with_it(attune, words):
    code, out = attune(*words, "--help")
    assert code == 0
    assert "example" in out
    assert f"  attune {' '.join(words)}" in out or f"| attune {' '.join(words)}" in out


DEEPER = [[group, word] for group, words in {"keys": ("create", "list", "revoke")}.items() for word in words]


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_no_line_of_a_help_is_wider_than_its_terminal(attune, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    for words in ([], *WORDS, *DEEPER, ["policy", "diff"]):
        code, out = attune(*words, "--help")
        assert code == 0
        text = [line for line in out.splitlines() if not line.startswith((" ", "usage:"))]  # no examples
        assert max(map(len, text)) <= min(columns, 100)
        if columns >= 80:
            assert max(map(len, out.splitlines())) <= columns
    assert "and carries the call through failures." in " ".join(attune("--help")[1].split())
    assert '    "large": {"reward": 1,   "cost"' in attune("simulate", "--help")[1]


@pytest.mark.parametrize("words", [words for words in WORDS if words != ["auth"]], ids=" ".join)
def test_each_command_takes_json_and_a_configuration(attune, words):
    _, out = attune(*words, "--help")
    assert "--json" in out
    assert "--config FILE" in out


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["rout"], "unknown command 'rout'; did you mean 'route'?"),
        (
            ["foo"],
            "unknown command 'foo'; choose one of auth, breakers, calls, demo, doctor, keys, models, outcome",
        ),
        (["doc"], "unknown command 'doc'; did you mean 'doctor'?"),
        (["auth", "staus"], "unknown command 'staus'; did you mean 'status'?"),
        (["models", "--jsno"], "unknown option '--jsno' in `attune models`; did you mean '--json'?"),
        (["models", "--jsn=1"], "unknown option '--jsn' in `attune models`; did you mean '--json'?"),
        (["run", "two", "words"], "unexpected argument 'words' (does something need quotes?)"),
        (["run", "--max-cost", "much", "x"], "argument --max-cost: invalid float value: 'much'"),
        (["auth", "setup", "--plan", "por"], "unknown --plan 'por'; did you mean 'pro'?"),
        (["run"], "the following arguments are required: PROMPT; see `attune run --help`"),
        ([], "which command?; see `attune --help`"),
        (["auth"], "which command?; see `attune auth --help`"),
        (["models", "--config"], "argument --config: expected one argument"),
        (["run", "--workflow", "", "x"], "--workflow is empty; give a name, or leave it out"),
        (["route", "--model", " "], "--model is empty; give a name, or leave it out"),
        (["y" * 500], f"unknown command '{'y' * 100}...'; choose one of auth"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_code_2(attune, args, says):
    assert attune(*args) == (2, "")
    assert says in attune.err
    assert attune.err.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "kind"),
    [
        (["models", "--json", "--jsno"], "UnknownNameError"),
        (["run", "--json"], "InvalidRequestError"),
        (["stats", "--days", "0", "--json"], "InvalidRequestError"),
        (["run", "--json", "--config", "gone.toml", "x"], "ConfigError"),
        (["run", "--json", "x"], "NoCandidateError"),
    ],
)
def test_where_json_is_asked_for_an_error_is_json_too(attune, args, kind):
    code, out = attune(*args)
    error = json.loads(out)["error"]
    assert code > 1
    assert error["type"] == kind
    assert attune.err == f"attune: {error['message']}\n"
    assert (error["attempts"], error["retry_at"]) == ([], None)


def test_a_local_model_that_is_not_installed_ends_with_5_and_the_way_to_it(attune, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "canary-not-a-secret")
    assert attune("route", "--model", "smollm2-135m-instruct") == (5, "")
    assert "install the embedded model (`attune doctor` says how)" in attune.err


def test_an_embedded_model_that_is_installed_beside_others_has_to_be_named_in_the_file(attune, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "canary-not-a-secret")
    monkeypatch.setattr("attune.providers.local_server.missing_packages", tuple)
    assert attune("route", "--model", "smollm2-135m-instruct") == (5, "")
    assert "add [providers.local] to the configuration" in attune.err


def test_route_points_out_a_task_that_it_does_not_know_and_hides_no_name_in_a_pipe(attune, monkeypatch):
    monkeypatch.setattr("attune.providers.local_server.missing_packages", tuple)
    code, out = attune("route", "--task", "fixbug")
    assert code == 0
    said = "note: unknown task 'fixbug': treated as capable; did you mean 'fix_bug'?"
    assert said in out.splitlines()
    assert "1  local/smollm2-135m-instruct (no key needed)  cheap  p 1" in out


def test_json_after_two_dashes_is_no_option(attune):
    assert attune("models", "--", "--json") == (2, "")


def test_the_help_of_auth_and_run_says_what_goes_with_json(attune):
    assert "Each of them takes --json and --config FILE." in attune("auth", "--help")[1]
    assert "(not with --json)" in attune("run", "--help")[1]


def test_the_configuration_can_be_named_before_and_after_the_command(attune, tmp_path):
    gone = str(tmp_path / "gone.toml")
    assert attune("--config", gone, "models")[0] == 3
    assert attune("models", "--config", gone)[0] == 3
    assert attune("--config", gone, "auth", "status")[0] == 3


def test_the_version_is_that_of_the_package(attune):
    code, out = attune("--version")
    assert (code, out.split()[0]) == (0, "attune")


def test_python_dash_m_is_the_same_program(attune):
    shown = subprocess.run(
        [sys.executable, "-m", "attune", "tasks"], capture_output=True, text=True, check=False
    )
    assert shown.returncode == 0
    assert "summarize" in shown.stdout


def test_the_strategy_is_shown_without_the_libraries_that_are_slow_to_import(attune):
    code = "from attune.cli import main; main(['auth', 'status']); import sys; print(*sys.modules)"
    environ = {"ATTUNE_HOME": str(attune.home)}  # also without what would measure coverage
    shown = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=False
    )
    assert "default_mode" in shown.stdout
    heavy = {"aiohttp", "asyncio", "msgspec", "questionary", "quicktok", "rich", "socket", "typer"}
    assert set(shown.stdout.split()) & heavy == set()
