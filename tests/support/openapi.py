"""The gateway's OpenAPI document as tests read it."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

__all__ = ["document", "documented", "reachable", "route"]

NAMES = ["auto", "attune/cheap", "attune/capable", "attune/premium", "alpha", "beta", "gamma"]
LIMITS = {"#/components/parameters/MaxCost", "#/components/parameters/MaxLatency"}


def document() -> dict[str, Any]:
    """The document as it is packaged."""
    found: dict[str, Any] = json.loads(files("attune.gateway").joinpath("openapi.json").read_bytes())
    return found


def route(path: str) -> str:
    """A path of the document as logs and metrics have it: without what the client fills in."""
    return path.partition("/{")[0]


@cache
def documented() -> frozenset[tuple[str, int]]:
    """Every (route, status) that the document names; of a provider's own 4XX those that tests have."""
    found = set()
    for path, operations in document()["paths"].items():
        for operation in operations.values():
            statuses = set(operation["responses"])
            more = {"404", "409", "422"} if "4XX" in statuses else set()
            found |= {(route(path), int(status)) for status in (statuses | more) - {"4XX"}}
    return frozenset(found)


def reachable(whole: dict[str, Any], call_id: str) -> dict[str, Any]:
    """The document with names that exist, so that what is valid by it is also answered: any other name is
    404, and a limit that nothing fits 400.
    """
    schemas = whole["components"]["schemas"]
    schemas["ModelName"] = {"enum": NAMES}
    schemas["EmbeddingsRequest"]["properties"]["model"] = {"enum": ["vector"]}
    schemas["Outcome"]["properties"]["call_id"] = {"enum": [call_id]}
    for path, name in (("/v1/models/{id}", NAMES[0]), ("/v1/attune/decisions/{call_id}", call_id)):
        whole["paths"][path]["get"]["parameters"][0]["schema"] = {"enum": [name]}
    for operations in whole["paths"].values():
        for operation in operations.values():
            given = operation.get("parameters", [])
            operation["parameters"] = [each for each in given if each.get("$ref") not in LIMITS]
    return whole
