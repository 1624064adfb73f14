"""``python -m attune`` is the command ``attune``."""

import sys

from attune.cli import main

if __name__ == "__main__":
    sys.exit(main())
