"""`python -m tests.outside.tools`: install what the distribution has of the foreign programs."""

import shutil
import sys

from eventbus.testing.services.packages import install_packages

PACKAGES = {"kcat": "kcat", "amqp-publish": "amqp-tools", "promtool": "prometheus"}


def main() -> int:
    """0: all of them are there; 1: one is missing, and why."""
    missing = [package for tool, package in PACKAGES.items() if shutil.which(tool) is None]
    if not missing:
        return 0
    reason = install_packages("outside", missing, lambda text: print(text, file=sys.stderr))
    if reason is not None:
        print(reason, file=sys.stderr)
    return 0 if reason is None else 1


if __name__ == "__main__":
    sys.exit(main())
