"""`python -m lora_training` and the console script `lora`."""

from __future__ import annotations

import os
import sys

from lora_training import quick


def main() -> int:
    """Run the command line and return its exit code."""
    if sys.stdout is None:
        # started with its output closed
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115 - pathlib would cost more than all the rest
    known = quick.answer(sys.argv[1:])
    if known is not None:
        sys.stdout.write(known)
        return 0
    from lora_training.cli import run

    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
