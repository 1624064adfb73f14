"""``attune tasks``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attune.cli._exit import ExitCode, guarded
from attune.cli._parser import add_shared_options
from attune.cli._terminal import print_json, print_table

if TYPE_CHECKING:
    import argparse

    from attune.cli._parser import CommandParser

__all__ = ["cmd_tasks", "configure"]


def configure(parser: CommandParser) -> None:
    """Add the options of ``attune tasks``."""
    parser.description = (
        "Lists the tasks that attune knows and the tier that is enough for each. Any other name may be\n"
        "used as a task too: it is kept apart in the telemetry, and treated as capable."
    )
    parser.epilog = "example:\n  attune tasks"
    add_shared_options(parser)
    parser.set_defaults(run=cmd_tasks)


@guarded
def cmd_tasks(args: argparse.Namespace) -> int:
    """List the tasks; returns the exit code."""
    from attune.models.tasks import TASK_TIER_MAP, TaskType, is_realtime

    rows = [
        {"task": task.value, "tier": TASK_TIER_MAP[task].value, "realtime": is_realtime(task)}
        for task in sorted(TaskType, key=lambda task: (is_realtime(task), TASK_TIER_MAP[task].rank))
    ]
    if args.json:
        print_json({"tasks": rows})
        return ExitCode.OK
    print_table(
        ("task", "tier", "realtime"),
        [
            (
                str(row["task"]),
                str(row["tier"]),
                "yes: latency leads, no cost limit" if row["realtime"] else "",
            )
            for row in rows
        ],
        lead=2,
    )
    return ExitCode.OK
