"""The reading of ``[gateway]``."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from attune.config.settings import GatewayConfig, GatewayRule
from attune.models.tasks import TASK_TIER_MAP, normalize_task

if TYPE_CHECKING:
    from attune.config._document import Table

__all__ = ["read_gateway"]

_MAX_BODY_MIB = 1024
_DAY_SECONDS = 86_400
_MAX_BODIES_MIB = 1024 * 1024
_SETS = {"workflow": "workflow", "stage": "stage", "task": "task_type"}
_PATHS = ("/v1/chat/completions", "/v1/messages", "/v1/responses")
_FITS = ("path", "user_agent", "model")


def read_gateway(table: Table) -> GatewayConfig:
    """``[gateway]``, ``[gateway.aliases]`` and ``[[gateway.rules]]``. Raises ``ConfigError``."""
    table.check_keys(GatewayConfig._fields)
    defaults = GatewayConfig()
    aliases = table.table("aliases")
    return GatewayConfig(
        host=table.text("host", defaults.host),
        port=table.whole("port", defaults.port, 1, 65_535),
        max_body_mib=table.whole("max_body_mib", defaults.max_body_mib, 1, _MAX_BODY_MIB),
        max_bodies_mib=table.whole("max_bodies_mib", defaults.max_bodies_mib, 1, _MAX_BODIES_MIB),
        client_timeout_seconds=_seconds(table, "client_timeout_seconds", defaults.client_timeout_seconds),
        max_connections=table.whole("max_connections", defaults.max_connections, 1, 1_000_000),
        aliases=MappingProxyType({name: aliases.text(name) for name in aliases.values}),
        rules=tuple(_rule(each) for each in table.tables("rules")),
    )


def _seconds(table: Table, key: str, default: float) -> float:
    seconds = table.number(key, default, 0.05, _DAY_SECONDS)
    assert seconds is not None  # there is a default
    return float(seconds)


def _rule(table: Table) -> GatewayRule:
    table.check_keys((*_FITS, *_SETS))
    if "task" in table.values and normalize_task(table.text("task")) not in TASK_TIER_MAP:
        raise table.unknown("task", table.text("task"), TASK_TIER_MAP, "task")
    if "path" in table.values and table.text("path") not in _PATHS:
        raise table.unknown("path", table.text("path"), _PATHS, "path")
    fits = {key: table.text(key) for key in _FITS if key in table.values}
    sets = {field: table.text(key) for key, field in _SETS.items() if key in table.values}
    return GatewayRule(**fits, sets=MappingProxyType(sets))
