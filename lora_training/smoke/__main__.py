"""`python -m lora_training.smoke FOLDER [FAMILY]`: write a smoke run's files to FOLDER, in the training environment."""

from __future__ import annotations

import sys
from pathlib import Path

from lora_training.smoke.make import make

if __name__ == "__main__":
    make(Path(sys.argv[1]), *sys.argv[2:])
