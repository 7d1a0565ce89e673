"""Write the digests of configuration, upstream and patches into every saved LoRA.

They come as a JSON object in `LORA_IDENTITY` and are written to the file's metadata as `lora_<name>`, beside upstream's
own `ss_*`. With `no_metadata = true` they are left out with the rest.
"""

from __future__ import annotations

import json
import os

from lora_training.runtime import training
from lora_training.runtime.model import RuntimePatch
from lora_training.runtime.run import Watcher

VARIABLE = "LORA_IDENTITY"


class _Provenance(Watcher):
    def loop_begins(self) -> None:
        made_by = json.loads(os.environ.get(VARIABLE, "{}"))
        self.run.trainer._metadata.update({f"lora_{name}": value for name, value in made_by.items()})


PATCH = RuntimePatch(
    name="provenance",
    reason="Nothing in an upstream LoRA says at which commit and with which changes it was trained.",
    upstream_version="v0.11.1",
    verification="tests/runtime/test_provenance.py",
    removal_condition="upstream writes its own commit into the metadata of a LoRA",
    targets=training.TARGETS,
    watcher=lambda _settings: _Provenance(),
    on_by_default=True,
)
