"""``attune keys create`` and ``attune keys revoke``."""

from __future__ import annotations

import re
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from attune.accounts import ROUTES, NewKey, looks_like_a_key
from attune.cli._exit import INTERRUPTED, ExitCode, note
from attune.cli._keys_list import as_json
from attune.cli._ledger import open_ledger
from attune.cli._terminal import load_config, print_json, utc
from attune.errors import InvalidRequestError, UnknownNameError
from attune.models.registry import ModelTier
from attune.models.state import KeyLimits, KeyScopes

if TYPE_CHECKING:
    import argparse
    from collections.abc import Collection, Iterator, Sequence

    from attune.config import Config
    from attune.models.state import KeyRecord, KeyStore

__all__ = ["create", "revoke"]

_DURATION = re.compile(r"([0-9]{1,5})([mhdw])")
_SECONDS = {"m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}


def create(args: argparse.Namespace) -> int:
    """Make a key, keep its record, and print it; returns the exit code."""
    config = load_config(args)
    now = time.time()
    made = NewKey.make(
        args.name,
        now=now,
        expires=None if args.expires is None else now + _duration(args.expires),
        scopes=_scopes(args, config),
        limits=KeyLimits(
            args.requests_per_minute, args.tokens_per_minute, args.usd_per_day, args.usd_per_month
        ),
    )
    with _writing(config) as store:
        if not store.add_key(made.record):
            raise InvalidRequestError(
                f"there is a key named {args.name!r} already; revoke it first, or choose another name"
            )
    if args.json:
        print_json({"key": made.reveal(), **as_json(made.record, now)})
    else:
        _show(made)
    return ExitCode.OK


def revoke(args: argparse.Namespace) -> int:
    """Revoke the key with this name or id, once that is confirmed; returns the exit code."""
    if looks_like_a_key(args.key.encode("utf-8", "replace")):
        raise InvalidRequestError(
            "that is a key itself, which may now be in your shell's history; give its name or id"
        )
    config = load_config(args)
    ledger = open_ledger(config)
    record = _find(args.key, [] if ledger is None else ledger.all_keys())
    if record.revoked is None:
        if not args.yes and not _confirmed(record, args):
            note("nothing was revoked")
            return INTERRUPTED
        with _writing(config) as store:
            store.revoke_key(record.id, time.time())
            record = _find(record.id, store.all_keys())  # another process may have been first
    if args.json:
        print_json(as_json(record, time.time()))
    else:
        print(f"{record.name} (id {record.id}) is revoked since {utc(record.revoked or 0.0)}")
    return ExitCode.OK


@contextmanager
def _writing(config: Config) -> Iterator[KeyStore]:
    """The ledger; what is changed in it outlives a crash of the machine too."""
    from attune.stores.sqlite import SqliteStore

    days = config.ledger.retention_days
    store = SqliteStore.open(config.paths.ledger_file, durability="call", retention_days=days)
    for notice in store.notices:
        note(notice)
    try:
        yield store
    finally:
        store.close()


def _show(made: NewKey) -> None:
    """The key alone on standard output, so that it can be piped to where it belongs."""
    print(made.reveal())
    record = made.record
    until = "" if record.expires is None else f", valid until {utc(record.expires)}"
    note(f"this is the key {record.name!r} (id {record.id}{until}); it is not kept and not shown again")


def _scopes(args: argparse.Namespace, config: Config) -> KeyScopes:
    """What the options allow. Raises ``UnknownNameError`` for what does not exist."""
    registry = config.registry
    models = _names(args.models)
    for model in models or ():
        registry.find(model)
    return KeyScopes(
        models=models,
        tiers=_known("tier", _names(args.tiers), [tier.value for tier in ModelTier]),
        routes=_known("route", _names(args.routes), ROUTES),
        providers=_known("provider", _names(args.providers), {*registry.providers, *config.enrolled}),
        realtime=args.realtime,
    )


def _names(given: list[str] | None) -> frozenset[str] | None:
    """The names of an option, also with commas between them; ``None`` if it was not given."""
    if given is None:
        return None
    names = frozenset(name for word in given for name in map(str.strip, word.split(",")) if name)
    if not names:
        raise InvalidRequestError("an empty list would allow nothing; leave the option out to allow all")
    return names


def _known(what: str, names: frozenset[str] | None, known: Collection[str]) -> frozenset[str] | None:
    for name in names or ():
        if name not in known:
            raise UnknownNameError(what, name, known)
    return names


def _duration(text: str) -> float:
    match = _DURATION.fullmatch(text)
    if match is None:
        raise InvalidRequestError(
            f"--expires is a number and a unit (m, h, d or w), such as 30d, not {text[:40]!r}"
        )
    return float(int(match[1]) * _SECONDS[match[2]])


def _find(wanted: str, records: Sequence[KeyRecord]) -> KeyRecord:
    """The key with this id or name; of several with one name the last: only that may still be valid."""
    for record in reversed(records):
        if wanted in {record.id, record.name}:
            return record
    known = [name for record in records for name in (record.name, record.id) if record.revoked is None]
    raise UnknownNameError("key", wanted, known, otherwise="`attune keys list` shows what there is")


def _confirmed(record: KeyRecord, args: argparse.Namespace) -> bool:
    if args.json or not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise InvalidRequestError(
            f"this would revoke the key {record.name!r} for good; give --yes to do it without asking"
        )
    import questionary

    question = f"Revoke the key {record.name!r} (id {record.id}) for good?"
    return bool(questionary.confirm(question, default=False).ask())
