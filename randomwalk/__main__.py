"""Entry point of ``python -m randomwalk``."""

import sys

from randomwalk.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
