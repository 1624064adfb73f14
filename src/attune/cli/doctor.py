"""``attune doctor``."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from attune.cli._check import Check, State
from attune.cli._claude import find_claude_login, log_in_command
from attune.cli._exit import ExitCode, exit_code, guarded
from attune.cli._ledger import open_ledger
from attune.cli._parser import add_shared_options
from attune.cli._payment import NO_PLAN, SET_A_KEY, is_replaced, paying
from attune.cli._terminal import folded, print_json, print_table, utc
from attune.cli._who_pays import WhoPays, work_sizes
from attune.errors import AttuneError, ConfigError, ErrorClass, StoreError
from attune.models.off_reasons import class_of
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


def configure(parser: CommandParser) -> None:
    """Add the options of ``attune doctor``."""
    parser.description = (
        "Checks the configuration, the keys, the ledger, the embedded model, the claude program, open\n"
        "circuits and the clock, and says what to do. Ends with 0 if attune can be used. Calls no provider,\n"
        "unless told to: --online asks each for its list of models, which costs nothing, and does not end\n"
        "with 0 if one cannot be reached or refuses its key."
    )
    parser.epilog = "example:\n  attune doctor --online"
    parser.add_argument(
        "--online",
        action="store_true",
        help="ask the providers too, whether each key is accepted (5 s at most)",
    )
    add_shared_options(parser)
    parser.set_defaults(run=cmd_doctor)


@guarded
def cmd_doctor(args: argparse.Namespace) -> int:
    """Check everything; returns the exit code."""
    checks = list(_checks(args.config, online=args.online))
    failed = [check for check in checks if check.state is State.FAIL]
    if args.json:
        rows = [{"check": c.name, "state": c.state.value, "detail": c.detail} for c in checks]
        print_json({"usable": not failed, "checks": rows})
    else:
        print_table(("check", "state", "detail"), [check[:3] for check in checks], lead=2)
        print()
        print(folded(f"first: {failed[0].name}: {failed[0].detail}" if failed else "attune can be used"))
    return failed[0].code if failed else ExitCode.OK


def _checks(config_file: str | None, *, online: bool) -> Iterator[Check]:
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
        if online:
            from attune.cli._online import online_checks

            yield from online_checks(config)
        yield from _addresses(config)
        yield from _gateway(config)
        replaced = [fact for fact in off if is_replaced(fact, config)]
        yield _payer(config)
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


def _payer(config: Config) -> Check:
    """Who would pay for capable work of each size: what the last calls were makes no difference."""
    who, sizes = WhoPays(config), work_sizes(config.auth)
    found = [(size, who.pays(config.auth.estimate_tokens(size.within))) for size in sizes]
    payers = {paid.payer for _, paid in found}
    why = next((paid.obstacle for _, paid in found if paid.payer is None), "")
    if payers == {None}:
        why = why if config.providers else SET_A_KEY
        return Check("payment", State.FAIL, f"no credential can pay: {why}", ExitCode.CREDENTIALS)
    if len(payers) == 1:
        return Check("payment", State.OK, f"{payers.pop()} would pay for capable work of any size")
    parts = []
    for payer in dict.fromkeys(paid.payer for _, paid in found):
        of_payer = [size for size, paid in found if paid.payer == payer]
        names = " and ".join(size.name for size in of_payer)
        tokens = " and ".join(size.tokens for size in of_payer)
        pays = f"{payer} would pay" if payer else f"nothing can pay: {why}"
        parts.append(f"{names} capable work ({tokens} tokens): {pays}")
    state = State.OK if None not in payers else State.FAIL if _counts_on_plan(config) else State.NOTE
    return Check("payment", state, "; ".join(parts), ExitCode.CREDENTIALS)


def _counts_on_plan(config: Config) -> bool:
    """Whether work is meant for a plan that is enrolled: where nothing can pay for it, calls fail."""
    return bool(config.plans) and config.auth.counts_on_plan


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
    if fact.kind is not FactKind.CREDENTIAL_OFF or fact.key not in plans:
        return ""
    refused = class_of(fact.detail, ErrorClass.CREDENTIAL) is ErrorClass.CREDENTIAL
    return f"; log in again: `{log_in_command()}`, then `attune breakers --reset`" if refused else ""


def _claude(config: Config | None) -> Iterator[Check]:
    """The program and its login, and what stands in the way of a plan that is enrolled."""
    login = find_claude_login()
    if config is None or not config.plans:
        yield Check("claude", State.OK, login.line)
        if config is not None and config.auth.counts_on_plan:
            yield Check("claude", State.NOTE, f"the strategy counts on a plan, but {NO_PLAN}")
        return
    from attune.cli._plan_traps import plan_traps

    if login.logged_in:
        yield Check("claude", State.OK, login.line)
    else:
        advice = f"{login.summary}, so the plan cannot pay; {login.next_step}"
        yield Check("claude", State.FAIL, advice, ExitCode.CREDENTIALS)
    for trap in plan_traps(os.environ):
        yield Check("claude", State.NOTE, trap)


def _clock(now: float) -> Check:
    from attune.models.prices import price_table

    made = price_table().as_of
    if now < made:
        return Check("clock", State.FAIL, f"it says {utc(now)}, before this attune was made; set it right")
    return Check("clock", State.OK, utc(now))
