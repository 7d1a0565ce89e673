"""Give each rank its own noise and timesteps.

Upstream seeds all ranks alike, so at every step they add the same noise, at the same timesteps, to different images:
the averaged gradient holds less information than the total batch size suggests. Here every rank but the first seeds
torch's generators anew when the loop begins, from the run's seed, its rank and the step. Python's generator, which
shuffles buckets and captions, is left alone: the ranks must agree on the order of the data.
"""

from __future__ import annotations

import hashlib
import sys

from lora_training.runtime import training
from lora_training.runtime.model import RuntimePatch, Target, one_process
from lora_training.runtime.run import Watcher


class _RankNoise(Watcher):
    def loop_begins(self) -> None:
        torch = sys.modules["torch"]
        rank = self.run.accelerator.process_index
        if rank:
            # exact-resume restores the generators of a resumed run after this
            made_of = f"{torch.initial_seed()} {rank} {self.run.initial_step}"
            torch.manual_seed(int.from_bytes(hashlib.sha256(made_of.encode()).digest()[:8], "little") >> 1)


PATCH = RuntimePatch(
    name="rank-noise",
    reason="Upstream's ranks draw the same noise and the same timesteps at every step.",
    upstream_version="v0.11.1",
    verification="tests/runtime/test_rank_noise.py",
    removal_condition="upstream's ranks draw different noise",
    targets=(
        *training.TARGETS,
        Target("library.loss", "get_noise_noisy_latents_and_timesteps", "ed57b13d7f132b3d"),
        Target("library.loss", "get_timesteps", "2b9a2403b7cc6042"),
    ),
    watcher=lambda _settings: _RankNoise(),
    unneeded=one_process,
)
