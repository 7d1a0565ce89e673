"""Move a run's sample images to the run's own folder, and report each with its prompt and seed.

Upstream puts those of all runs into `sample` in `output_dir`, and no flag changes that. Here it gets another
`output_dir` while it generates samples; the images are then moved to `samples` in the run's folder and reported.
"""

from __future__ import annotations

import contextlib
import copy
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lora_training.runtime import events, training
from lora_training.runtime.model import NoSettings, RuntimePatch, Start, Target
from lora_training.runtime.patches.exact_resume import RUN_FOLDER
from lora_training.runtime.run import Run, Watcher

# The subfolder of the run's folder.
FOLDER = "samples"
# Upstream's names end in the prompt's number from 0, the time, and the seed if the prompt has one.
_NAME = re.compile(r".*_(\d{2,})_\d{14}(?:_(-?\d+))?\.png")


class _Samples(Watcher):
    def accelerator_built(self) -> None:
        folder = Path(os.environ[RUN_FOLDER])
        self._kept = folder / FOLDER
        self._drawing = folder / f"drawing-{self.run.accelerator.process_index}"
        # left by an attempt that was killed while it generated samples
        shutil.rmtree(self._drawing, ignore_errors=True)
        training.wrap(self.run.trainer, "sample_images", self._sample_images)

    def _sample_images(self, run: Run, method: Callable[..., Any], accelerator: Any, args: Any, *rest: Any) -> None:
        given = copy.copy(args)
        given.output_dir = str(self._drawing)
        try:
            method(accelerator, given, *rest)
        finally:
            if self._drawing.exists():
                self._keep(run)

    def _keep(self, run: Run) -> None:
        self._kept.mkdir(exist_ok=True)
        for path in sorted(self._drawing.glob("sample/*")):
            kept = path.rename(self._kept / path.name)
            events.emit("sample", path=str(kept), step=run.step, **_asked_for(path.name, run.args.sample_prompts))
        shutil.rmtree(self._drawing, ignore_errors=True)


def _asked_for(name: str, prompts: str) -> dict[str, Any]:
    """Return the prompt, its number and the seed of the sample file `name`; the seed is None if it was random."""
    found = _NAME.fullmatch(name)
    if found is None:
        return {}
    prompt = None
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError, AssertionError):
        prompt = sys.modules["library.sampling"].load_prompts(prompts)[int(found[1])].get("prompt")
    return {"prompt": prompt, "number": int(found[1]), "seed": int(found[2]) if found[2] else None}


def _unneeded(start: Start, _settings: NoSettings) -> str | None:
    if not start.environ.get(RUN_FOLDER):
        return "the run has no folder"
    return None if start.value("--sample_prompts") else "no samples are asked for"


PATCH = RuntimePatch(
    name="samples",
    reason="Upstream puts the sample pictures of all runs into one folder, and says of none what it was asked for.",
    upstream_version="v0.11.1",
    verification="tests/runtime/test_samples.py",
    removal_condition="upstream can be told where samples go, and reports prompt and seed of each",
    targets=(*training.TARGETS, Target("library.sampling", "load_prompts", "995d6505ec071cea")),
    watcher=lambda _settings: _Samples(),
    on_by_default=True,
    unneeded=_unneeded,
)
