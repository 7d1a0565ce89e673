"""`python -m lora_training` and the console script `lora`."""

from __future__ import annotations

import sys

from lora_training import quick


def main() -> int:
    """Run the command line and return its exit code."""
    known = quick.answer(sys.argv[1:])
    if known is not None:
        sys.stdout.write(known)
        return 0
    from lora_training.cli import run

    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
