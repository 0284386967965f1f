"""`python -m provfl_cli` is `provfl`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.argv[0] = "provfl"  # the name under which a shell is told to complete
    sys.exit(main())
