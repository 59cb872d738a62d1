"""``python -m pytest_promptbench`` is the console script ``promptbench``."""

from __future__ import annotations

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
