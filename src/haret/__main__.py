"""`python -m haret` is the `haret` command."""

import sys

from haret.cli import main

if __name__ == "__main__":
    sys.exit(main())
