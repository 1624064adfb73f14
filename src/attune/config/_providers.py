"""Which providers are enrolled: those of the file, those whose key is in the environment."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from attune.config._document import shown
from attune.config.settings import NO_CREDENTIAL, ProviderConfig
from attune.models.auth_strategy import MAX_USD
from attune.providers.catalogue import KINDS, KNOWN_PROVIDERS, PROTOCOLS, usual_protocol
from attune.wire.redaction import redact

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from attune.config._document import Table
    from attune.models.credits import Grant
    from attune.providers.catalogue import KnownProvider

__all__ = ["EMBEDDED", "read_providers"]

EMBEDDED = "installed packages"
"""The source of the embedded model where no file enrols it."""

_KEYS = ("kind", "base_url", "protocol", "api_key", "api_keys", "credits_usd", "credits_expire")
_ALIASES = {"ollama": "openai"}
"""Kinds that are only another kind at an address of their own."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_VARIABLE = re.compile(r"env:([A-Za-z_][A-Za-z0-9_]*)")


def read_providers(table: Table, environ: Mapping[str, str]) -> tuple[list[ProviderConfig], list[str]]:
    """The enrolled providers and the notices: those of ``[providers]`` first, in its order.

    A provider whose every key is missing is left out with a notice, since one configuration
    serves machines that have different keys. Raises ``ConfigError``.
    """
    providers: list[ProviderConfig] = []
    notices: list[str] = []
    for name, settings in table.named_tables():
        provider, missing = _from_table(name, settings, environ)
        notices += missing
        if provider is not None:
            providers.append(provider)
    providers.extend(
        found
        for known in KNOWN_PROVIDERS.values()
        if known.name not in table.values and (found := _from_environment(known, environ))
    )
    return providers, notices


def _from_environment(known: KnownProvider, environ: Mapping[str, str]) -> ProviderConfig | None:
    if known.kind == "local":
        return ProviderConfig(known.name, "local", "", {}, EMBEDDED) if _local_runs() else None
    variable = _conventional(known, environ)
    if variable is None:
        return None
    keys = {"api_key": f"env:{variable}"}
    protocol = usual_protocol(known.base_url) if known.kind == "openai" else ""
    return ProviderConfig(known.name, known.kind, known.base_url, keys, f"environment {variable}", protocol)


def _conventional(known: KnownProvider, environ: Mapping[str, str]) -> str | None:
    """The first of the provider's usual key variables that is set."""
    return next((name for name in known.key_variables if environ.get(name, "").strip()), None)


def _local_runs() -> bool:
    from attune.providers.local_server import missing_packages

    return not missing_packages()


def _from_table(
    name: str, table: Table, environ: Mapping[str, str]
) -> tuple[ProviderConfig | None, list[str]]:
    """The provider that a table describes, or ``None`` without any of its keys, and notices."""
    if not _NAME.fullmatch(name):
        raise table.error(None, "a provider's name is letters, digits, '_', '-' and '.', at most 64")
    table.check_keys(_KEYS)
    known = KNOWN_PROVIDERS.get(name)
    kind = table.text("kind", known.kind if known else None)
    if kind not in (*KINDS, *_ALIASES):
        raise table.unknown("kind", kind, (*KINDS, *_ALIASES), "kind")
    if kind in {"local", "claude_subscription"}:
        return _without_address(name, kind, table), []
    usual = known if known and known.kind == kind else KNOWN_PROVIDERS.get(kind if kind in _ALIASES else "")
    base_url = _base_url(table, usual.base_url if usual else None)
    protocol = _protocol(table, _ALIASES.get(kind, kind), base_url)
    references, notices = dict(_references(table)), []
    if not references and usual is not None:
        if base_url == usual.base_url:
            references = _usual_reference(usual, environ)
        elif variable := _conventional(usual, environ):
            notices.append(_not_sent(f"{table.where()}: provider {name}", variable, usual.base_url))
    _refuse_clear_text(table, base_url, references)
    keys = {credential: ref for credential, ref in references.items() if _is_there(ref, environ)}
    notices += [
        f"{table.where()}: provider {name}: there is nothing at {redact(ref)}, so its credential "
        f"{credential} is left out; set it, or take the provider out"
        for credential, ref in references.items()
        if credential not in keys
    ]
    if references and not keys:
        return None, notices
    kind = _ALIASES.get(kind, kind)
    grants = {each: grant for each, grant in _credits(table, references).items() if each in keys}
    return ProviderConfig(name, kind, base_url, keys, table.where(), protocol, grants), notices


def _without_address(name: str, kind: str, table: Table) -> ProviderConfig:
    for key in table.values:
        if key != "kind":
            raise table.error(key, f"the {kind} kind has no address and no key; take it out")
    return ProviderConfig(name, kind, "", {}, table.where())


def _usual_reference(known: KnownProvider, environ: Mapping[str, str]) -> dict[str, str]:
    if not known.key_variables:
        return {}
    return {"api_key": f"env:{_conventional(known, environ) or known.key_variables[0]}"}


def _not_sent(where: str, variable: str, base_url: str) -> str:
    """At its own address the usual key is used, at another one it would go to a stranger."""
    return (
        f"{where}: {variable} is not sent to another address than {base_url}; add api_key = "
        f'"env:{variable}" if it belongs there, or give the provider a name of its own'
    )


def _base_url(table: Table, default: str | None) -> str:
    base_url = table.text("base_url", default)
    try:
        parts = urlsplit(base_url)
        plain = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        plain = False
    blank = " " in base_url or not base_url.isprintable()
    if not plain or blank or "@" in parts.netloc or parts.query or parts.fragment:
        # The address is not repeated: what makes it wrong may be a password inside it.
        raise table.error("base_url", "must be http(s)://host[:port][/path], without user, query or blanks")
    return base_url.rstrip("/")


def _protocol(table: Table, kind: str, base_url: str) -> str:
    if kind != "openai":
        if "protocol" in table.values:
            raise table.error("protocol", f"the {kind} kind has no choice of protocol; take it out")
        return ""
    protocol = table.text("protocol", usual_protocol(base_url))
    if protocol not in PROTOCOLS:
        raise table.unknown("protocol", protocol, PROTOCOLS, "protocol")
    return protocol


def _references(table: Table) -> Iterator[tuple[str, str]]:
    """The credentials of a provider and where their keys are, in the order of the file."""
    if "api_key" in table.values and "api_keys" in table.values:
        raise table.error("api_keys", "give either api_key or api_keys, not both")
    if "api_key" in table.values:
        yield "api_key", _reference(table, "api_key")
    named = table.table("api_keys")
    for name in named.values:
        if not _NAME.fullmatch(name) or name == NO_CREDENTIAL:
            raise named.error(None, f"{shown(name)!r} is no name of a credential: use letters and digits")
        yield name, _reference(named, name)


def _credits(table: Table, credentials: Iterable[str]) -> dict[str, Grant]:
    """What was granted in advance, to the first of the credentials."""
    given = [key for key in ("credits_usd", "credits_expire") if key in table.values]
    if not given:
        return {}
    if len(given) < 2:
        raise table.error(given[0], "credits need both credits_usd and credits_expire")
    first = next(iter(credentials), None)
    if first is None:
        raise table.error("credits_usd", "credits are granted to a key; give api_key, or take them out")
    from attune.models.credits import Grant

    usd = table.number("credits_usd", None, 0.01, MAX_USD) or 0.0
    return {first: Grant(float(usd), _time(table, "credits_expire"))}


def _time(table: Table, key: str) -> float:
    """A date, meant is its beginning, or a date and time, in UTC unless it says otherwise."""
    value = table.values[key]
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day, tzinfo=UTC)
    if not isinstance(value, datetime):
        raise table.error(key, "must be a date such as 2026-12-31, or a date and time, without quotes")
    return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()


def _reference(table: Table, key: str) -> str:
    """Where a key is. What stands there instead is never repeated: it may be the key itself."""
    value = table.values[key]
    if isinstance(value, str):
        value = value.strip()
        if _VARIABLE.fullmatch(value) or (value.startswith("file:") and value != "file:"):
            return value
    raise table.error(
        key, 'must say where the key is, as "env:NAME" or "file:PATH"; a key itself never belongs in the file'
    )


def _refuse_clear_text(table: Table, base_url: str, references: Mapping[str, str]) -> None:
    parts = urlsplit(base_url)
    if references and parts.scheme == "http" and not _is_loopback(parts.hostname or ""):
        raise table.error(
            "base_url",
            f"a key would travel in clear text to {shown(parts.hostname or '')}; use https, or no key",
        )


def _is_loopback(host: str) -> bool:
    import ipaddress

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


def _is_there(reference: str, environ: Mapping[str, str]) -> bool:
    """Whether there is something at a reference; whether it is a key shows when it is used."""
    if found := _VARIABLE.fullmatch(reference):
        return bool(environ.get(found[1], "").strip())
    try:
        return Path(reference.removeprefix("file:")).expanduser().is_file()
    except (OSError, RuntimeError, ValueError):
        return False
