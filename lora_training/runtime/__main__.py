"""`python -m lora_training.runtime SCRIPT [FLAGS]`: run upstream's script, changed by the chosen runtime patches."""

from __future__ import annotations

import sys

from lora_training.runtime.bootstrap import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
