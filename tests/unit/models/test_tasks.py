import pytest

from attune.models.registry import ModelTier
from attune.models.tasks import (
    CAPABLE_TASKS,
    CHEAP_TASKS,
    PREMIUM_TASKS,
    REALTIME_REQUIRED_TASKS,
    TASK_TIER_MAP,
    TaskType,
    get_tier_for_task,
    is_known_task,
    is_realtime,
    normalize_task,
)

CHEAP_NAMES = [
    *("summarize", "classify", "triage", "match_pattern", "extract_topics", "lint_check", "format_code"),
    *("simple_qa", "categorize", "background_analysis", "batch_summarization"),
]
CAPABLE_NAMES = [
    *("generate_code", "fix_bug", "review_security", "analyze_performance", "write_tests", "refactor"),
    *("explain_code", "document_code", "analyze_error", "suggest_fix", "code_generation", "test_writing"),
]
PREMIUM_NAMES = [
    *("coordinate", "synthesize_results", "architectural_decision", "architecture_review", "novel_problem"),
    *("final_review", "complex_reasoning", "multi_step_planning", "critical_decision"),
]
REALTIME_NAMES = ["chat", "live_coding", "security_incident", "emergency_response"]


@pytest.mark.parametrize(
    ("tasks", "names"),
    [
        (CHEAP_TASKS, CHEAP_NAMES),
        (CAPABLE_TASKS, CAPABLE_NAMES),
        (PREMIUM_TASKS, PREMIUM_NAMES),
        (REALTIME_REQUIRED_TASKS, REALTIME_NAMES),
    ],
)
def test_the_sets_hold_the_documented_tasks(tasks, names):
    assert isinstance(tasks, frozenset)
    assert tasks == set(names)


def test_every_task_is_in_exactly_one_set():
    sets = [CHEAP_TASKS, CAPABLE_TASKS, PREMIUM_TASKS, REALTIME_REQUIRED_TASKS]
    assert all(sum(task in tasks for tasks in sets) == 1 for task in TaskType)


@pytest.mark.parametrize(
    ("names", "tier"),
    [
        (CHEAP_NAMES, ModelTier.CHEAP),
        (CAPABLE_NAMES + REALTIME_NAMES, ModelTier.CAPABLE),
        (PREMIUM_NAMES, ModelTier.PREMIUM),
    ],
)
def test_a_task_has_the_tier_of_its_set(names, tier):
    assert {TASK_TIER_MAP[name] for name in names} == {get_tier_for_task(name) for name in names} == {tier}


def test_the_map_holds_every_task_and_cannot_be_changed():
    assert set(TASK_TIER_MAP) == set(TaskType)
    with pytest.raises(TypeError):
        TASK_TIER_MAP["chat"] = ModelTier.CHEAP


@pytest.mark.parametrize(
    "spelling", ["fix_bug", "Fix-Bug", "  FIX  BUG ", "fix - bug", "fix__bug", "fix\tbug"]
)
def test_the_spelling_of_a_task_does_not_matter(spelling):
    assert normalize_task(spelling) == "fix_bug"
    assert is_known_task(spelling)


def test_the_seeds_examples_are_known_by_their_words():
    assert get_tier_for_task("Background analysis") is ModelTier.CHEAP
    assert get_tier_for_task("batch summarization") is ModelTier.CHEAP
    assert get_tier_for_task("Code generation") is ModelTier.CAPABLE
    assert is_known_task("Test writing")
    assert get_tier_for_task("Complex reasoning") is ModelTier.PREMIUM
    assert get_tier_for_task("architecture review") is ModelTier.PREMIUM


def test_an_unknown_task_is_capable():
    assert get_tier_for_task("knit_a_scarf") is ModelTier.CAPABLE
    assert get_tier_for_task("") is ModelTier.CAPABLE
    assert not is_known_task("knit_a_scarf")


def test_only_realtime_tasks_are_realtime():
    assert all(is_realtime(name) for name in REALTIME_NAMES)
    assert is_realtime("Live Coding")
    assert is_realtime(TaskType.CHAT)
    assert not any(is_realtime(task) for task in ("summarize", "chatter", "", None))
