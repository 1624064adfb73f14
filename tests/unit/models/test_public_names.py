"""The public names of ``attune.models``: said in three places, which must agree, and each of them there."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import attune.models

TREE = ast.parse(Path(attune.models.__file__).read_text())


def imported_for_type_checkers() -> dict[str, str]:
    """Name -> module, of the imports under ``if TYPE_CHECKING``."""
    [block] = [node for node in TREE.body if isinstance(node, ast.If)]
    assert ast.unparse(block.test) == "TYPE_CHECKING"
    return {alias.name: node.module for node in block.body for alias in node.names}


def test_type_checkers_and_the_lazy_table_and_all_name_the_same():
    lazy = {name: f"attune.models.{home}" for name, home in attune.models._HOME_OF.items()}
    assert imported_for_type_checkers() == lazy
    assert sorted(attune.models.__all__) == sorted(lazy)
    assert len(set(attune.models.__all__)) == len(attune.models.__all__)
    assert sum(map(len, attune.models._HOMES.values())) == len(lazy), "no name has two homes"


def test_no_public_name_has_disappeared():
    """What users' programs were written against: none of these may disappear."""
    assert set(attune.models.__all__) >= {
        "AdaptiveModelRouter",
        "AuthMode",
        "AuthStrategy",
        "CAPABLE_TASKS",
        "CHEAP_TASKS",
        "CircuitBreaker",
        "EmpathyLLMExecutor",
        "ExecutionContext",
        "FallbackPolicy",
        "FallbackStrategy",
        "LLMCallRecord",
        "LLMExecutor",
        "LLMResponse",
        "ModelPerformance",
        "ModelRegistry",
        "ModelTier",
        "PREMIUM_TASKS",
        "REALTIME_REQUIRED_TASKS",
        "ResilientExecutor",
        "RetryPolicy",
        "SubscriptionTier",
        "TASK_TIER_MAP",
        "TaskType",
        "get_model",
        "get_module_size_category",
        "get_tier_for_task",
    }


@pytest.mark.parametrize("name", attune.models.__all__)
def test_every_public_name_is_there_and_is_exported_by_its_own_module(name):
    module = import_module(f"attune.models.{attune.models._HOME_OF[name]}")
    assert getattr(module, name) is getattr(attune.models, name)
    assert name in module.__all__
    assert name in dir(attune.models)


def test_an_unknown_name_is_an_attribute_error_that_names_it():
    with pytest.raises(AttributeError, match=r"module 'attune\.models' has no attribute 'Nonsense'"):
        _ = attune.models.Nonsense


def test_importing_the_package_imports_none_of_its_modules():
    program = (
        "import sys, attune.models;"
        "print([name for name in sys.modules if name.startswith('attune.models.')]);"
        "attune.models.ModelTier; print('attune.models.registry' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.split("\n")[:2] == ["[]", "True"]
