"""The command ``python -m ptlib.sweep``."""

import sys

from .engine import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
