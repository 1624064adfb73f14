"""``attune doctor``."""

from __future__ import annotations

import os
import time
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from attune.cli._claude import find_claude_login
from attune.cli._exit import ExitCode, exit_code, guarded
from attune.cli._ledger import open_ledger
from attune.cli._parser import add_shared_options
from attune.cli._payment import SET_A_KEY, find_payer, is_replaced, paying
from attune.cli._terminal import folded, print_json, print_table, utc
from attune.errors import AttuneError, ConfigError, StoreError
from attune.models.state import FactKind
from attune.providers.catalogue import SUBSCRIPTION
from attune.providers.secret import resolve_secret

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator
    from pathlib import Path

    from attune.cli._parser import CommandParser
    from attune.config import Config
    from attune.models.state import Fact

__all__ = ["cmd_doctor", "configure"]


_REPLACED = "; its key was replaced since, so it is tried at once"


class State(StrEnum):
    """How a check went: ``note`` is worth knowing, ``fail`` stands in the way."""

    OK = "ok"
    NOTE = "note"
    FAIL = "fail"


class Check(NamedTuple):
    """One thing that was looked at; ``code`` is how the program ends when this one failed."""

    name: str
    state: State
    detail: str
    code: ExitCode = ExitCode.CONFIGURATION


def configure(parser: CommandParser) -> None:
    """Add the options of ``attune doctor``."""
    parser.description = (
        "Checks the configuration, the keys, the ledger, the embedded model, the claude program, open\n"
        "circuits and the clock, and says what to do. Ends with 0 if attune can be used. Calls no provider."
    )
    parser.epilog = "example:\n  attune doctor"
    add_shared_options(parser)
    parser.set_defaults(run=cmd_doctor)


@guarded
def cmd_doctor(args: argparse.Namespace) -> int:
    """Check everything; returns the exit code."""
    checks = list(_checks(args.config))
    failed = [check for check in checks if check.state is State.FAIL]
    if args.json:
        rows = [{"check": c.name, "state": c.state.value, "detail": c.detail} for c in checks]
        print_json({"usable": not failed, "checks": rows})
    else:
        print_table(("check", "state", "detail"), [check[:3] for check in checks], lead=2)
        print()
        print(folded(f"first: {failed[0].name}: {failed[0].detail}" if failed else "attune can be used"))
    return failed[0].code if failed else ExitCode.OK


def _checks(config_file: str | None) -> Iterator[Check]:
    from attune.config import load

    config: Config | None
    try:
        config = load(config_file)
    except ConfigError as error:
        config = None
        yield Check("configuration", State.FAIL, str(error), exit_code(error))
    else:
        yield from _configuration(config)
        off: list[Fact] = []
        yield _ledger(config, off)
        yield from _credentials(config)
        yield from _addresses(config)
        yield from _gateway(config)
        replaced = [fact for fact in off if is_replaced(fact, config)]
        yield _payer(config, [fact for fact in off if fact not in replaced])
        for fact in off:
            until = f", until {utc(fact.until)}" if fact not in replaced else _REPLACED
            yield Check("breakers", State.NOTE, f"{fact.key}: {fact.detail}{until}{_log_in(fact, config)}")
    yield _local(config)
    yield from _claude(config)
    yield _clock(time.time())


def _configuration(config: Config) -> Iterator[Check]:
    file = config.paths.config_file
    detail = str(file) if file.exists() else f"no file at {file}: the defaults hold"
    yield Check("configuration", State.OK, detail)
    for notice in config.notices:
        yield Check("configuration", State.NOTE, notice)


def _ledger(config: Config, off: list[Fact]) -> Check:
    """Whether it can be written; adds what is tripped or off to ``off``."""
    from attune.stores.sqlite import SqliteStore

    file = config.paths.ledger_file
    try:
        if open_ledger(config) is None:
            _try_folder(file.parent)
            return Check("ledger", State.OK, f"{file} will be made at the first call")
        durability, days = config.ledger
        store = SqliteStore.open(file, durability=durability, retention_days=days)
        try:
            store.flush_sync(10)
            now = time.time()
            off += [f for f in store.facts() if f.until > now and f.kind is not FactKind.QUOTA]
        finally:
            store.close()
    except StoreError as error:
        return Check("ledger", State.FAIL, str(error), exit_code(error))
    return Check("ledger", State.OK, str(file))


def _try_folder(folder: Path) -> None:
    """Raise ``StoreError`` unless ``folder`` is there or can be made, and takes a file."""
    import tempfile

    there = next((each for each in (folder, *folder.parents) if each.exists()), folder)
    try:
        with tempfile.TemporaryDirectory(dir=there):
            pass
    except OSError as error:
        raise StoreError(
            f"nothing can be written in {there}: {error.strerror or error}; "
            "choose another folder with ATTUNE_HOME"
        ) from None


def _credentials(config: Config) -> Iterator[Check]:
    for provider in config.providers:
        for credential in provider.credentials:
            name, detail = f"{provider.name} {paying(credential)}", f"there ({provider.source})"
            reference = provider.keys.get(credential)
            try:
                if reference is not None:
                    resolve_secret(reference, os.environ, where=name)
            except AttuneError as error:
                yield Check(name, State.FAIL, str(error), ExitCode.CREDENTIALS)
            else:
                yield Check(name, State.OK, detail)


def _addresses(config: Config) -> Iterator[Check]:
    for provider in config.providers:
        if provider.kind == "openai" and not urlsplit(provider.base_url).path:
            advice = f"its base_url ({provider.source}) has no path; most services want one, such as /v1"
            yield Check(f"{provider.name} address", State.NOTE, advice)


def _gateway(config: Config) -> Iterator[Check]:
    """What `attune up` leaves out, and what it would not start with."""
    served = config.for_clients()
    for notice in served.notices[len(config.notices) :]:
        yield Check("gateway", State.NOTE, notice)
    if not config.gateway.aliases:
        return
    from attune.gateway.naming import Names

    try:
        Names(config.registry, config.gateway.aliases, config.gateway.rules, served.enrolled).check()
    except ConfigError as error:
        yield Check("gateway", State.FAIL, str(error), exit_code(error))


def _payer(config: Config, off: list[Fact]) -> Check:
    payer = find_payer(config, {fact.key for fact in off if fact.kind is FactKind.CREDENTIAL_OFF})
    if payer is None:
        return Check("payment", State.FAIL, f"no credential can pay: {SET_A_KEY}", ExitCode.CREDENTIALS)
    return Check("payment", State.OK, f"{payer} would pay for capable work")


def _local(config: Config | None) -> Check:
    from attune.providers.local_server import missing_packages

    if missing := missing_packages():
        return Check("embedded model", State.NOTE, f"not installed; to have it: {' && '.join(missing)}")
    if config is None or any(each.kind == "local" for each in config.providers):
        return Check("embedded model", State.OK, "installed")
    detail = "installed; beside other providers it answers only if the file names it ([providers.local])"
    return Check("embedded model", State.OK, detail)


def _log_in(fact: Fact, config: Config) -> str:
    """What mends a login that was refused: that it has expired shows only when it is used."""
    plans = {f"{each.name}#{SUBSCRIPTION}" for each in config.plans}
    refused = fact.kind is FactKind.CREDENTIAL_OFF and fact.key in plans and "refused" in fact.detail
    return "; log in again: `claude auth login`" if refused else ""


def _claude(config: Config | None) -> Iterator[Check]:
    """The program and its login, and what stands in the way of a plan that is enrolled."""
    if config is None or not config.plans:
        yield Check("claude", State.OK, find_claude_login().summary)
        return
    from attune.cli._plan_traps import plan_traps
    from attune.providers._claude_process import find_program
    from attune.providers.claude_subscription import INSTALL

    program = find_program(os.environ)
    if program is None:
        missing = f"the claude program is not installed, so the plan cannot pay; {INSTALL}"
        yield Check("claude", State.FAIL, missing, ExitCode.CREDENTIALS)
    else:
        login = find_claude_login(os.environ, program)
        if login.logged_in:
            yield Check("claude", State.OK, login.summary)
        else:
            advice = f"{login.summary}, so the plan cannot pay; run `claude auth login`"
            yield Check("claude", State.FAIL, advice, ExitCode.CREDENTIALS)
    for trap in plan_traps(os.environ):
        yield Check("claude", State.NOTE, trap)


def _clock(now: float) -> Check:
    from attune.models.prices import price_table

    made = price_table().as_of
    if now < made:
        return Check("clock", State.FAIL, f"it says {utc(now)}, before this attune was made; set it right")
    return Check("clock", State.OK, utc(now))
