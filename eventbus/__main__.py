"""`python -m eventbus`."""

import sys

from eventbus.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
