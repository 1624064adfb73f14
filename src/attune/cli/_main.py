"""The program: parse, run one command, and end with an exit code."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING

from attune.cli._exit import INTERRUPTED, OUTPUT_CLOSED, ExitCode, guarded
from attune.cli._parser import build_parser

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``attune`` with these arguments (by default those of the process); returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):  # replaced by something that is no text file
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    try:
        code = _run(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("attune: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Nobody reads any more (`attune models | head`); the flush at exit must not fail as well.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OUTPUT_CLOSED
    return code


@guarded
def _run(argv: Sequence[str]) -> int:
    parser = build_parser()
    try:
        args: argparse.Namespace = parser.parse_args(argv)
    except SystemExit:  # --help and --version have printed what they are for
        return ExitCode.OK
    code: int = args.run(args)
    return code
