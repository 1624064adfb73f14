"""What the scripts beside the package take from it: nothing else looks at them before they are run."""

from __future__ import annotations

import ast
import importlib
import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PEERS = {"_decision_attune_ai.py"}
"""What runs in the environment of a peer, whose package has the same name."""
SCRIPTS = [*(ROOT / "benchmarks").glob("*.py"), *(ROOT / "tools").glob("*.py")]


@pytest.mark.parametrize("script", sorted(s for s in SCRIPTS if s.name not in PEERS), ids=lambda s: s.name)
def test_what_a_script_takes_from_attune_is_there(script: Path) -> None:
    for node in ast.walk(ast.parse(script.read_text())):
        if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("attune"):
            continue
        module = importlib.import_module(str(node.module))
        for alias in node.names:
            found = hasattr(module, alias.name)
            if not found and hasattr(module, "__path__"):
                found = importlib.util.find_spec(f"{node.module}.{alias.name}") is not None
            assert found, f"{node.module} has no {alias.name}"
