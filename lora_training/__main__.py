"""The entry point of `python -m lora_training` and of the console script `lora`."""

from __future__ import annotations

import os
import sys

from lora_training.cli import let_go, run


def main() -> int:
    """Run the command line and return its exit code."""
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        # file names in patches, locks and records mean the same in every locale, as with Python 3.15 and later
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - this very command
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # the process was started with this stream closed
            setattr(sys, name, open(os.devnull, mode))  # noqa: PTH123, SIM115 - pathlib would cost more than the rest
    code = run(sys.argv[1:])
    let_go()
    return code


if __name__ == "__main__":
    sys.exit(main())
