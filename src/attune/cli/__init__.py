"""The command line: ``attune``, also as ``python -m attune``."""

from attune.cli._main import main

__all__ = ["main"]
