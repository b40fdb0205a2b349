"""``python -m swarmbus``: the command line, for units, which name an interpreter and not a script."""

from __future__ import annotations

import sys

from swarmbus.cli import main

if __name__ == "__main__":
    sys.exit(main())
