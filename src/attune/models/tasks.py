"""Task types and the tier that is enough for each.

Callers name their tasks as they like: names are normalised, and one that is not known is
``CAPABLE``. The realtime tasks are a row of their own: a person waits for the answer, so that a
cost limit is not applied to them in the selection and latency leads. Their tier in
``TASK_TIER_MAP`` is ``CAPABLE``, because a cheap model's mistake costs such a caller more than it
saves, and a premium model's thinking is what they cannot wait for.
"""

from __future__ import annotations

from enum import StrEnum
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING

from attune.models.registry import ModelTier

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "CAPABLE_TASKS",
    "CHEAP_TASKS",
    "PREMIUM_TASKS",
    "REALTIME_REQUIRED_TASKS",
    "TASK_TIER_MAP",
    "TaskType",
    "get_tier_for_task",
    "is_known_task",
    "is_realtime",
    "normalize_task",
]


class TaskType(StrEnum):
    """The tasks attune knows by name."""

    SUMMARIZE = "summarize"
    CLASSIFY = "classify"
    TRIAGE = "triage"
    MATCH_PATTERN = "match_pattern"
    EXTRACT_TOPICS = "extract_topics"
    LINT_CHECK = "lint_check"
    FORMAT_CODE = "format_code"
    SIMPLE_QA = "simple_qa"
    CATEGORIZE = "categorize"
    BACKGROUND_ANALYSIS = "background_analysis"
    BATCH_SUMMARIZATION = "batch_summarization"

    GENERATE_CODE = "generate_code"
    CODE_GENERATION = "code_generation"
    FIX_BUG = "fix_bug"
    REVIEW_SECURITY = "review_security"
    ANALYZE_PERFORMANCE = "analyze_performance"
    WRITE_TESTS = "write_tests"
    TEST_WRITING = "test_writing"
    REFACTOR = "refactor"
    EXPLAIN_CODE = "explain_code"
    DOCUMENT_CODE = "document_code"
    ANALYZE_ERROR = "analyze_error"
    SUGGEST_FIX = "suggest_fix"

    COORDINATE = "coordinate"
    SYNTHESIZE_RESULTS = "synthesize_results"
    ARCHITECTURAL_DECISION = "architectural_decision"
    ARCHITECTURE_REVIEW = "architecture_review"
    NOVEL_PROBLEM = "novel_problem"
    FINAL_REVIEW = "final_review"
    COMPLEX_REASONING = "complex_reasoning"
    MULTI_STEP_PLANNING = "multi_step_planning"
    CRITICAL_DECISION = "critical_decision"

    CHAT = "chat"
    LIVE_CODING = "live_coding"
    SECURITY_INCIDENT = "security_incident"
    EMERGENCY_RESPONSE = "emergency_response"


CHEAP_TASKS = frozenset(
    {
        TaskType.SUMMARIZE,
        TaskType.CLASSIFY,
        TaskType.TRIAGE,
        TaskType.MATCH_PATTERN,
        TaskType.EXTRACT_TOPICS,
        TaskType.LINT_CHECK,
        TaskType.FORMAT_CODE,
        TaskType.SIMPLE_QA,
        TaskType.CATEGORIZE,
        TaskType.BACKGROUND_ANALYSIS,
        TaskType.BATCH_SUMMARIZATION,
    }
)

PREMIUM_TASKS = frozenset(
    {
        TaskType.COORDINATE,
        TaskType.SYNTHESIZE_RESULTS,
        TaskType.ARCHITECTURAL_DECISION,
        TaskType.ARCHITECTURE_REVIEW,
        TaskType.NOVEL_PROBLEM,
        TaskType.FINAL_REVIEW,
        TaskType.COMPLEX_REASONING,
        TaskType.MULTI_STEP_PLANNING,
        TaskType.CRITICAL_DECISION,
    }
)

REALTIME_REQUIRED_TASKS = frozenset(
    {TaskType.CHAT, TaskType.LIVE_CODING, TaskType.SECURITY_INCIDENT, TaskType.EMERGENCY_RESPONSE}
)

CAPABLE_TASKS = frozenset(TaskType) - CHEAP_TASKS - PREMIUM_TASKS - REALTIME_REQUIRED_TASKS

TASK_TIER_MAP: Mapping[str, ModelTier] = MappingProxyType(
    {
        **dict.fromkeys(CAPABLE_TASKS | REALTIME_REQUIRED_TASKS, ModelTier.CAPABLE),
        **dict.fromkeys(CHEAP_TASKS, ModelTier.CHEAP),
        **dict.fromkeys(PREMIUM_TASKS, ModelTier.PREMIUM),
    }
)
"""The tier of every known task, by its normalised name."""


@lru_cache(maxsize=1024)
def normalize_task(task: str) -> str:
    """The one spelling of a task's name: lower case, with ``_`` for each run of spaces and dashes.

    ``" Fix-Bug "`` and ``"fix  bug"`` are both ``"fix_bug"``.
    """
    return "_".join(task.lower().replace("-", " ").replace("_", " ").split())


def is_known_task(task: str) -> bool:
    """Whether the task, in any spelling, is one of ``TaskType``."""
    return normalize_task(task) in TASK_TIER_MAP


def get_tier_for_task(task: str) -> ModelTier:
    """The tier that is enough for a task in any spelling; ``CAPABLE`` for one that is not known."""
    return TASK_TIER_MAP.get(normalize_task(task), ModelTier.CAPABLE)


def is_realtime(task: str | None) -> bool:
    """Whether a cost limit is not applied to this task, in any spelling, and latency leads."""
    return task is not None and normalize_task(task) in REALTIME_REQUIRED_TASKS
