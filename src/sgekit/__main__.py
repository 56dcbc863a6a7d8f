"""`python -m sgekit` is the same program as `sgekit`."""

import sys

from sgekit.cli import main

if __name__ == "__main__":
    sys.exit(main())
