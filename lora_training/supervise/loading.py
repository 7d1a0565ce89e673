"""The progress of a training process before its first step, read from upstream's log: the stage, and how far."""

from __future__ import annotations

import re
from dataclasses import dataclass

# words of upstream's log -> the stage that begins with them; a line of the same stage changes nothing
_STAGES = (
    (re.compile(r"prepare images|read caption|get image size|loading image sizes"), "reading images and captions"),
    (re.compile(r"checking cache validity"), "checking the cache"),
    (re.compile(r"caching latents"), "caching latents"),
    (re.compile(r"caching Text Encoder outputs|cache Text Encoder outputs"), "caching text encoder outputs"),
    (re.compile(r"prepare optimizer"), "preparing the optimizer"),
    (re.compile(r"running training"), "starting"),
    (
        re.compile(
            r"(?i)\bload(?:ing)? (?:model|state dict|StableDiffusion|Diffusers|pipeline|VAE|U-?Net|text enc|DiT|Qwen)"
        ),
        "loading the model",
    ),
)
# not the bar of the training itself
_BAR = re.compile(r"^(?!steps:).*\d+%\|.*\| *(\d+)/(\d+) \[")
_BEGINNING = "loading upstream and the model"
_QUARTERS = 4


@dataclass
class Loading:
    """The current stage, and the last bar of tqdm in it."""

    stage: str = _BEGINNING
    done: int = 0
    total: int = 0

    def take(self, line: str) -> bool:
        """Update it by a line of the log; return whether it is worth a plain line: a stage, or a quarter of one."""
        if found := _BAR.search(line):
            done, total = int(found[1]), int(found[2])
            passed = done * _QUARTERS // max(1, total) > self.done * _QUARTERS // max(1, self.total)
            self.done, self.total = done, total
            return passed and done < total
        stage = next((stage for words, stage in _STAGES if words.search(line)), self.stage)
        changed = stage != self.stage
        if changed:
            self.stage, self.done, self.total = stage, 0, 0
        return changed

    def words(self) -> str:
        """Return the stage, and how far it is where that is known."""
        return f"{self.stage}: {self.done} of {self.total}" if self.total else self.stage
