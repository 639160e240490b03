"""`python -m xpmlp`."""

import sys

from xpmlp.cli import main

if __name__ == "__main__":
    sys.exit(main())
