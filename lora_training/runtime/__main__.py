"""Run upstream's script with the chosen runtime patches: `python -m lora_training.runtime SCRIPT [FLAGS]`."""

from __future__ import annotations

import sys

from lora_training.runtime.bootstrap import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
