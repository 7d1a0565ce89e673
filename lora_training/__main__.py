"""`python -m lora_training` and the console script `lora`."""

from __future__ import annotations

import os
import sys

from lora_training import quick


def main() -> int:
    """Run the command line and return its exit code."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            # started with it closed
            setattr(sys, name, open(os.devnull, "w"))  # noqa: PTH123, SIM115 - pathlib would cost more than the rest
    try:
        code = _run(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:
        from lora_training.cli import no_reader

        return no_reader()
    return code


def _run(argv: list[str]) -> int:
    known = quick.answer(argv)
    if known is not None:
        sys.stdout.write(known)
        return 0
    from lora_training.cli import run

    return run(argv)


if __name__ == "__main__":
    sys.exit(main())
