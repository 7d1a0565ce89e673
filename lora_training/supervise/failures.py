"""Classification of a failed training: the cause in one sentence, what to do, and whether a restart may help."""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lora_training.supervise.loop import Ended


@dataclass(frozen=True)
class Failure:
    """A cause of failure: its kind, a sentence, what to do about it, and whether a restart may help."""

    kind: str
    sentence: str
    mend: str
    restartable: bool

    @property
    def exception(self) -> str | None:
        """The exception's text without numbers, to recognise a repetition; None for any other cause."""
        return _NUMBER.sub("#", self.sentence) if self.kind == "exception" else None


@dataclass(frozen=True)
class _Sign:
    """A pattern that identifies a cause in the last lines; its first group, if any, goes into the sentence."""

    kind: str
    pattern: re.Pattern[str]
    sentence: str
    mend: str
    restartable: bool = False


# process ids, addresses and sizes differ from one failure to the next
_NUMBER = re.compile(r"0x[0-9a-f]+|\d+")
_IMAGE = "an image cannot be read: {}"
_MEND_IMAGE = "mend or remove the image, then run the same command again"
_KILLED = "something killed the training, most likely the system when memory ran out"
_MORE_MEMORY = "give it more memory or fewer data loader workers"

# The first match counts, so the more specific ones come first.
_SIGNS = (
    _Sign(
        "gpu-memory",
        re.compile(r"CUDA out of memory|torch\.OutOfMemoryError|CUBLAS_STATUS_ALLOC_FAILED"),
        "the GPU ran out of memory",
        "take a smaller batch_size or resolution, or see configs/low-vram.toml",
    ),
    _Sign(
        "disk-full",
        re.compile(r"No space left on device|Disk quota exceeded"),
        "the disk is full",
        "make room, then run the same command again: it goes on from the last good state",
    ),
    _Sign(
        # upstream's message, which names the file where Pillow's does not
        "bad-image",
        re.compile(r"[Ee]rror loading file: (.+?\.(?:png|jpe?g|webp|bmp|avif|jxl))(?:\s|$)", re.IGNORECASE),
        _IMAGE,
        _MEND_IMAGE,
    ),
    _Sign(
        "bad-image",
        re.compile(
            r"(?:cannot identify image file|[Ii]mage file is truncated|Error on loading image:?).*?'?([^\s']+)?'?$"
        ),
        _IMAGE,
        _MEND_IMAGE,
    ),
    _Sign(
        "bad-cache",
        re.compile(r"(?:BadZipFile|File is not a zip file|[Ee]rror loading file:?)\s*([^\s'\"]+\.npz)?"),
        "a latent cache file is damaged: {}",
        "remove the file, then run the same command again",
    ),
    _Sign(
        "nccl",
        re.compile(r"NCCL error|ncclSystemError|ncclInternalError|ProcessGroupNCCL.*(?:timeout|terminat)"),
        "the GPUs lost touch with each other (NCCL)",
        "NCCL_DEBUG=INFO in the environment shows more",
        restartable=True,
    ),
    _Sign(
        "bad-arguments",
        re.compile(r"^\S+\.py: error: (.*)$"),
        "upstream does not take the arguments: {}",
        "`lora config check` shows what it knows; this one it did not",
    ),
    _Sign(
        "bad-pickle",
        re.compile(r"UnpicklingError|Weights only load failed|Cannot use ``weights_only=True``"),
        "a saved state or a pickled file of weights is damaged or holds more than numbers, and was not loaded",
        "it may have been made to run code, and the log says which; convert weights to .safetensors, or write\n"
        "`[run] allow_pickle = true` if you trust who made them",
    ),
    _Sign(
        "foreign-code",
        # `launch.spec.NO_MODULES`
        re.compile(r"/dev/null/the-modules-of-a-model-are-not-run"),
        "the model brings Python code of its own, which is not run",
        "take the model as one .safetensors file, or remove the modules from its folder and its model_index.json",
    ),
    _Sign(
        "not-finite",
        # but not the banner, which names the patch as well
        re.compile(r"^error: nan-guard|a loss or a gradient that is not finite"),
        "the loss is not a number any more",
        "lower the learning rate; the log names the images",
    ),
    _Sign(
        # torchrun's report on the first rank that died, whose own exit code is 1; and PyTorch's on a worker
        "memory",
        re.compile(r"^\s*exitcode\s*: -9 |DataLoader worker .*killed by signal: Killed"),
        _KILLED,
        _MORE_MEMORY,
        restartable=True,
    ),
    _Sign(
        "gpu",
        re.compile(r"Error: ((?:CUDA|cuDNN|CUBLAS|cuBLAS|HIP|MIOpen) .*|(?:CUDNN|CUBLAS)_STATUS_.*)$"),
        "the GPU failed: {}",
        "`nvidia-smi` and the system's log may say more",
        restartable=True,
    ),
    _Sign(
        "exception",
        # the launchers' own exceptions only say that a rank has died
        re.compile(
            r"^(?:\[rank\d+\]:\s*)?(?!\S+\.(?:ChildFailedError|CalledProcessError)\b)"
            r"((?:\w+\.)*[A-Z]\w*(?:Error|Exception|Exit|Warning|Interrupt)(?:: .*)?)$"
        ),
        "training died of {}",
        "the last lines of the log say where",
        restartable=True,
    ),
)


def classify(ended: Ended) -> Failure:
    """Return the cause by the exit code, the signal and the last lines. An unknown cause may be restarted."""
    if ended.stalled:
        return Failure(
            "stalled", "there was no progress within stall_timeout", "see the end of the log", restartable=True
        )
    for sign in _SIGNS:
        found = next((match for line in reversed(ended.tail) if (match := sign.pattern.search(line))), None)
        if found:
            named = next((group for group in found.groups() if group), "see the log")
            return Failure(sign.kind, sign.sentence.format(named), sign.mend, sign.restartable)
    if ended.code == -signal.SIGKILL:
        return Failure("memory", _KILLED, _MORE_MEMORY, restartable=True)
    if ended.code < 0:
        name = signal.Signals(-ended.code).name
        return Failure("signal", f"the training died of {name}", "see the end of the log", restartable=True)
    return Failure("unknown", f"training ended with code {ended.code}", "see the end of the log", restartable=True)
