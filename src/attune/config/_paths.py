"""Where the configuration and the data are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from attune.config.settings import Paths
from attune.errors import ConfigError

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

__all__ = ["CONFIG_VARIABLE", "HOME_VARIABLE", "find_paths"]

CONFIG_VARIABLE = "ATTUNE_CONFIG"
HOME_VARIABLE = "ATTUNE_HOME"


def find_paths(config_file: str | os.PathLike[str] | None, environ: Mapping[str, str]) -> tuple[Paths, bool]:
    """The paths, and whether the configuration file was named by the user and so has to exist.

    The file is ``config_file``, else ``$ATTUNE_CONFIG``, else ``config.toml`` in the folder of the
    configuration. ``$ATTUNE_HOME`` is that folder and holds the data too; without it the
    platform's own folders do. Raises ``ConfigError`` for a ``~user`` that does not exist.
    """
    named = config_file if config_file is not None else environ.get(CONFIG_VARIABLE)
    if home := environ.get(HOME_VARIABLE):
        folder = _absolute(home)
        data = folder / "data"
    else:
        import platformdirs  # 25 ms, which a fixed home saves

        folder = platformdirs.user_config_path("attune", appauthor=False)
        data = platformdirs.user_data_path("attune", appauthor=False)
    file = _absolute(named) if named else folder / "config.toml"
    return Paths(file, folder / "auth.json", data / "ledger.db"), bool(named)


def _absolute(path: str | os.PathLike[str]) -> Path:
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError as error:
        raise ConfigError(f"{path}: {error}") from None
