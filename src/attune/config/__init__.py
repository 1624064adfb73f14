"""Files and environment made into one frozen value, validated once."""

from attune.config._load import load
from attune.config.auth_file import load_auth, reset_auth, save_auth, saved_files
from attune.config.settings import (
    BreakerConfig,
    CallConfig,
    Config,
    LedgerConfig,
    Paths,
    ProviderConfig,
    RoutingConfig,
)

__all__ = [
    "BreakerConfig",
    "CallConfig",
    "Config",
    "LedgerConfig",
    "Paths",
    "ProviderConfig",
    "RoutingConfig",
    "load",
    "load_auth",
    "reset_auth",
    "save_auth",
    "saved_files",
]
