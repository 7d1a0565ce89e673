"""`python -m lora_training` and the console script `lora`."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line and return its exit code."""
    from lora_training.cli import run

    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
