"""`python -m torchops`: the command line."""

import sys

from torchops.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
