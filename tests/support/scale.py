"""How much of a test that can be any size is run: ATTUNE_SCALE is test (the default), faults or soak."""

import os

SCALES = ("test", "faults", "soak")
SCALE = os.environ.get("ATTUNE_SCALE", "test")
if SCALE not in SCALES:
    raise SystemExit(f"ATTUNE_SCALE is {SCALE!r}: set it to one of {', '.join(SCALES)}")


def scaled(*, test: int, faults: int, soak: int) -> int:
    """The size for this run: the one of `make test`, of `make faults` or of `make soak`."""
    return {"test": test, "faults": faults, "soak": soak}[SCALE]
