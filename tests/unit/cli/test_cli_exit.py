"""One place says how each error ends, and no line on standard error is more than a line."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

import attune.errors as errors_module
from attune.cli._exit import MEANINGS, ExitCode, exit_code, guarded, plain
from attune.errors import (
    AllProvidersFailedError,
    AttuneError,
    BudgetExhaustedError,
    CallerError,
    CircuitOpenError,
    ConfigError,
    CorruptFileError,
    CredentialError,
    InvalidRequestError,
    MoneyGoneError,
    NoCandidateError,
    ProviderError,
    StoreError,
    ThrottledError,
    TransientError,
    UnknownNameError,
    WindowSpentError,
)

ENDS = {
    InvalidRequestError("x"): ExitCode.USAGE,
    UnknownNameError("model", "x", []): ExitCode.USAGE,
    ConfigError("x"): ExitCode.CONFIGURATION,
    StoreError("x"): ExitCode.CONFIGURATION,
    CorruptFileError("a", "b", "c"): ExitCode.CONFIGURATION,
    NoCandidateError("x"): ExitCode.CREDENTIALS,  # nobody is enrolled
    NoCandidateError("x", drops=[("p/m#k", "too dear")]): ExitCode.NO_ANSWER,
    CircuitOpenError("p", retry_after=1, retry_at=2): ExitCode.NO_ANSWER,
    BudgetExhaustedError("attempts", "x"): ExitCode.NO_ANSWER,
    TransientError("x"): ExitCode.NO_ANSWER,
    CallerError("x"): ExitCode.NO_ANSWER,
    CredentialError("x"): ExitCode.CREDENTIALS,
    MoneyGoneError("x"): ExitCode.CREDENTIALS,
    WindowSpentError("x"): ExitCode.CREDENTIALS,
    AllProvidersFailedError("x"): ExitCode.NO_ANSWER,
    AllProvidersFailedError("x", attempts=[CredentialError("a"), MoneyGoneError("b")]): ExitCode.CREDENTIALS,
    AllProvidersFailedError("x", attempts=[CredentialError("a"), TransientError("b")]): ExitCode.NO_ANSWER,
}


@pytest.mark.parametrize("length", [9, 5000])
def test_a_call_that_failed_is_named_so_that_it_can_be_looked_up(capsys, length):
    error = AllProvidersFailedError("x" * length)
    error.call_id = "0a1b2c3d"

    @guarded
    def command(_) -> int:
        raise error

    command(SimpleNamespace(json=True))
    captured = capsys.readouterr()
    assert captured.err.endswith("xxx (call 0a1b2c3d)\n")
    assert captured.err.count("\n") == 1
    assert json.loads(captured.out)["error"]["call_id"] == "0a1b2c3d"


@pytest.mark.parametrize(("error", "code"), ENDS.items(), ids=lambda value: type(value).__name__)
def test_each_error_ends_with_its_code(error, code, capsys):
    @guarded
    def command() -> int:
        raise error

    assert command() == code == exit_code(error)
    assert capsys.readouterr().err.startswith("attune: ")


def test_every_class_of_the_error_tree_has_a_code_of_its_own():
    classes = [
        each
        for each in vars(errors_module).values()
        if isinstance(each, type) and issubclass(each, AttuneError) and each is not AttuneError
    ]
    assert len(classes) > 20
    made = [
        each.__new__(each)
        for each in classes
        if each not in {AllProvidersFailedError, NoCandidateError}  # they need their attempts and drops
    ]
    assert [type(error) for error in made if exit_code(error) is ExitCode.UNEXPECTED] == []
    assert issubclass(ProviderError, AttuneError)


def test_a_call_that_failed_is_json_with_its_attempts_and_when_to_try_again(capsys):
    @guarded
    def command(_args: object) -> int:
        raise AllProvidersFailedError(
            "all failed",
            attempts=[
                ThrottledError("too fast", status=429, retry_after=7.0, provider="p", model="m"),
                CircuitOpenError("q/n", retry_after=2, retry_at=1234.5),
            ],
            retry_at=1234.5,
        )

    assert command(SimpleNamespace(json=True)) == ExitCode.NO_ANSWER
    error = json.loads(capsys.readouterr().out)["error"]
    assert (error["type"], error["message"], error["retry_at"]) == (
        "AllProvidersFailedError",
        "all failed",
        1234.5,
    )
    throttled, refused = error["attempts"]
    assert (throttled["error_class"], throttled["provider"], throttled["model"]) == ("throttled", "p", "m")
    assert (throttled["status"], throttled["retry_after"]) == (429, 7.0)
    assert (refused["type"], refused["retry_at"]) == ("CircuitOpenError", 1234.5)
    assert command(SimpleNamespace(json=False)) == ExitCode.NO_ANSWER
    assert capsys.readouterr().out == ""


def test_the_help_documents_every_code(attune):
    _, out = attune("--help")
    for code, meaning in MEANINGS.items():
        assert f"  {code.value}  {meaning}" in out


def test_a_message_is_one_line_without_controls_or_keys_and_has_an_end():
    key = "sk-ant-" + "not-a-secret-0123456789"
    assert plain(f"a\nb\x1b[31m\t{key}  c") == "a b [31m [redacted] c"
    assert len(plain("x" * 100_000)) == 1000


def test_an_interrupt_ends_as_a_shell_expects(attune, monkeypatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("attune.cli._main.build_parser", interrupted)
    assert attune("models") == (130, "")
    assert attune.err == "attune: interrupted\n"
