"""The first code in the training process: arm the runtime patches, then run upstream's script as if alone.

Speaks on stderr and exits, since in this process it is the command line.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_training.errors import LoraError
from lora_training.runtime import registry

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# The chosen patches and their settings: a JSON object of objects, by the patches' names.
VARIABLE = "LORA_RUNTIME"


def main(argv: Sequence[str]) -> int:
    """Run the script `argv[0]` with the flags that follow; its exit code, or ours when a patch does not fit."""
    script, *flags = argv
    try:
        registry.install(json.loads(os.environ.get(VARIABLE, "{}")))
        _run(script, flags)
    except LoraError as exc:
        sys.stderr.write(f"error: {exc.message}\n" + (f"hint: {exc.hint}\n" if exc.hint else ""))
        return exc.exit_code
    return 0


def _run(script: str, flags: Sequence[str]) -> None:
    sys.argv = [script, *flags]
    # what `python SCRIPT` would have put there, in place of what `python -m` did
    sys.path[0] = str(Path(script).parent)
    runpy.run_path(script, run_name="__main__")


def environment(chosen: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The variables that tell `main`, in a child, which patches to install."""
    return {VARIABLE: json.dumps(chosen, sort_keys=True)} if chosen else {}
