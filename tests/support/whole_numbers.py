"""A hook of schemathesis: a whole number in a body it makes is written as one.

JSON Schema calls ``7.0`` an integer; the protocols' own services refuse it, and so does the gateway.
"""

from __future__ import annotations

from typing import Any

import schemathesis


@schemathesis.hook
def map_body(context: schemathesis.HookContext, body: Any) -> Any:
    """``body`` with ``7`` for ``7.0``."""
    if isinstance(body, dict):
        return {name: map_body(context, each) for name, each in body.items()}
    if isinstance(body, list):
        return [map_body(context, each) for each in body]
    return int(body) if isinstance(body, float) and body.is_integer() else body
