"""The state of every random number generator that upstream uses, as one object."""

from __future__ import annotations

import random
from typing import Any


def capture() -> dict[str, Any]:
    """Return the states of the generators of Python, NumPy and torch, including those of all GPUs."""
    import numpy as np
    import torch

    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),  # noqa: NPY002 - upstream draws on the global one
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore(states: dict[str, Any]) -> None:
    """Restore every generator to the state that `capture` returned. GPUs without a captured state are left alone."""
    import numpy as np
    import torch

    random.setstate(states["python"])
    np.random.set_state(states["numpy"])  # noqa: NPY002
    torch.set_rng_state(states["torch"])
    if states["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"][: torch.cuda.device_count()])
