"""Classification of a failed training: the cause in one sentence, what to do, and whether a restart may help."""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass, replace

from lora_training import families
from lora_training.supervise.attempt import Ended


@dataclass(frozen=True)
class Failure:
    """A cause of failure: its kind, a sentence, what to do about it, and whether a restart may help."""

    kind: str
    sentence: str
    mend: str
    restartable: bool = False

    @property
    def exception(self) -> str | None:
        """The exception's text without numbers, to recognise a repetition; None for any other cause."""
        return _NUMBER.sub("#", self.sentence) if self.kind == "exception" else None


# process ids, addresses and sizes differ from one failure to the next
_NUMBER = re.compile(r"0x[0-9a-f]+|\d+")
_IMAGE = Failure(
    "bad-image", "an image cannot be read: {}", "mend or remove the image, then run the same command again"
)
_MEMORY = Failure(
    "memory",
    "something killed the training, most likely the system when memory ran out",
    "give it more memory or fewer data loader workers",
    restartable=True,
)
_REMOVE = "remove the file, then run the same command again"
# the launchers' own exceptions only say that a rank has died
_RANK = r"^(?:\[rank\d+\]:\s*)?(?!\S+\.(?:ChildFailedError|CalledProcessError)\b)"

# Patterns in the last lines; the first group, if any, goes into the sentence. The first match counts, so the more
# specific ones come first.
_SIGNS = {
    r"CUDA out of memory|torch\.OutOfMemoryError|CUBLAS_STATUS_ALLOC_FAILED": Failure(
        "gpu-memory",
        "the GPU ran out of memory",
        "take a smaller batch_size or resolution, or see configs/low-vram.toml",
    ),
    r"No space left on device|Disk quota exceeded": Failure(
        "disk-full",
        "the disk is full",
        "make room, then run the same command again: it goes on from the last good state",
    ),
    # upstream's message, which names the file where Pillow's does not
    r"(?i)error loading file: (.+?\.(?:png|jpe?g|webp|bmp|avif|jxl))(?:\s|$)": _IMAGE,
    r"(?:cannot identify image file|[Ii]mage file is truncated|Error on loading image:?).*?'?([^\s']+)?'?$": _IMAGE,
    rf"(?i)error loading file: (.+?(?:{'|'.join(map(re.escape, families.TEXT_OUTPUTS))}))(?:\s|$)": Failure(
        "bad-cache", "a cache file of text encoder outputs is damaged: {}", _REMOVE
    ),
    r"(?i)error loading file: (.+?\.npz)(?:\s|$)": Failure("bad-cache", "a latent cache file is damaged: {}", _REMOVE),
    r"BadZipFile|File is not a zip file": Failure(
        "bad-cache",
        "a cache file of latents or text encoder outputs is damaged: {}",
        "the same command with `--set run.checks=all` finds it and sets it aside",
    ),
    r"NCCL error|ncclSystemError|ncclInternalError|ProcessGroupNCCL.*(?:timeout|terminat)": Failure(
        "nccl",
        "the GPUs lost touch with each other (NCCL)",
        "NCCL_DEBUG=INFO in the environment shows more",
        restartable=True,
    ),
    r"^\S+\.py: error: (.*)$": Failure(
        "bad-arguments",
        "upstream does not take the arguments: {}",
        "`lora config check` did not find this; a shell line of the command is in the run's folder, command.sh",
    ),
    r"UnpicklingError|Weights only load failed|Cannot use ``weights_only=True``": Failure(
        "bad-pickle",
        "a saved state or a pickled file of weights is damaged or holds more than numbers, and was not loaded",
        "it may have been made to run code, and the log says which; convert weights to .safetensors, or write\n"
        "`[run] allow_pickle = true` if you trust who made them",
    ),
    # `launch.spec.NO_MODULES`
    r"/dev/null/the-modules-of-a-model-are-not-run": Failure(
        "foreign-code",
        "the model brings Python code of its own, which is not run",
        "take the model as one .safetensors file, or remove the modules from its folder and its model_index.json",
    ),
    # but not the banner, which names the patch as well
    r"^error: nan-guard|a loss or a gradient that is not finite": Failure(
        "not-finite",
        "the loss is not a number any more",
        "lower the learning rate; the log names the images",
    ),
    # torchrun's report on the first rank that died, whose own exit code is 1; and PyTorch's on a worker
    r"^\s*exitcode\s*: -9 |DataLoader worker .*killed by signal: Killed": _MEMORY,
    r"Error: ((?:CUDA|cuDNN|CUBLAS|cuBLAS|HIP|MIOpen) .*|(?:CUDNN|CUBLAS)_STATUS_.*)$": Failure(
        "gpu", "the GPU failed: {}", "`nvidia-smi` and the system's log may say more", restartable=True
    ),
    _RANK + r"((?:\w+\.)*[A-Z]\w*(?:Error|Exception|Exit|Warning|Interrupt)(?:: .*)?)$": Failure(
        "exception", "training died of {}", "the last lines of the log say where", restartable=True
    ),
}


def classify(ended: Ended) -> Failure:
    """Return the cause by the exit code, the signal and the last lines. An unknown cause may be restarted."""
    see = "see the end of the log"
    if ended.stalled:
        return Failure("stalled", "there was no progress within stall_timeout", see, restartable=True)
    for pattern, failure in _SIGNS.items():
        found = next((match for line in reversed(ended.tail) if (match := re.search(pattern, line))), None)
        if found:
            named = next((group for group in found.groups() if group), "see the log")
            return replace(failure, sentence=failure.sentence.format(named))
    if ended.code == -signal.SIGKILL:
        return _MEMORY
    if ended.code < 0:
        name = signal.Signals(-ended.code).name
        return Failure("signal", f"the training died of {name}", see, restartable=True)
    return Failure("unknown", f"training ended with code {ended.code}", see, restartable=True)
