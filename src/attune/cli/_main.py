"""The program: parse, run one command, and end with an exit code."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from typing import TYPE_CHECKING

from attune.cli._exit import INTERRUPTED, OUTPUT_CLOSED, ExitCode, guarded, note
from attune.cli._parser import build_parser

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``attune`` with these arguments (by default those of the process); returns the exit code."""
    _open_streams()
    try:
        code = _run(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("attune: interrupted", file=sys.stderr)
        return INTERRUPTED
    except OSError as error:
        if error.errno not in _OUTPUT_ERRORS:
            raise
        # The flush at exit must not fail as well.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return OUTPUT_CLOSED  # nobody reads any more: `attune models | head`
        note(f"cannot write the output: {error.strerror}")
        return ExitCode.UNEXPECTED
    return code


_OUTPUT_ERRORS = {errno.EPIPE, errno.ENOSPC, errno.EIO}
"""What writing to a pipe or a redirected file ends with; attune's own files have ``StoreError``."""


def _open_streams() -> None:
    """Make the standard streams ones that never fail for want of a file or a character."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # started with it closed
            setattr(sys, name, open(os.devnull, mode))  # noqa: PTH123, SIM115
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):  # replaced by something that is no text file
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]


@guarded
def _run(argv: Sequence[str]) -> int:
    parser = build_parser()
    try:
        args: argparse.Namespace = parser.parse_args(argv)
    except SystemExit:  # --help and --version have printed what they are for
        return ExitCode.OK
    code: int = args.run(args)
    return code
