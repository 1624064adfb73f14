"""attune: which credential pays, which tier is enough, which model serves, and what if it fails.

::

    import attune

    with attune.open() as ai:
        print(ai.ask("Why is the sky blue?").text)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from attune.models.fallback import FallbackPolicy
    from attune.runtime import Runtime

__all__ = ["open"]

__version__ = "0.1.0"


def open(  # noqa: A001
    path: str | None = None,
    *,
    fallback: FallbackPolicy | None = None,
    on_step: Callable[[str], None] | None = None,
) -> Runtime:
    """A runtime from the user's configuration; see ``attune.runtime.open``."""
    from attune import runtime

    return runtime.open(path, fallback=fallback, on_step=on_step)
