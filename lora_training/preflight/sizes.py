"""Estimate the size in bytes of the files that a training writes; None where it is unknown."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path

from lora_training import families
from lora_training.preflight import contents, weights
from lora_training.preflight.contents import Tensor
from lora_training.preflight.job import Job
from lora_training.preflight.listing import Subset
from lora_training.safetensors_header import Damaged

_WHOLE, _HALF = 4, 2  # bytes per number
_DEFAULT_DIM = 4
# parts of a model that a LoRA does not adapt: embeddings, time steps, norms, the VAE
_LEFT_OUT = re.compile(
    r"embed|emb_layers|time_|label_emb|skip_connection|vector_in|guidance_in|first_stage_model|norm|lm_head"
)
_TEXT = re.compile(r"cond_stage_model|conditioner|text_encoders?|text_model|encoder\.layers")
_DIMS = re.compile(r"\w*(?:dims?|rank)=")
# bytes of optimizer state per parameter; AdamW's two moments for optimizers not named here
_OPTIMIZERS = {"8bit": 2, "prodigy": 16, "lion": 4, "sgd": 4, "adafactor": 1}
_ADAM = 8
_T5_WIDTH = 4096


def lora(job: Job) -> int | None:
    """Estimate a LoRA of the standard kind from the tensor shapes in the headers of its base models."""
    values = _values(job)
    half = (job.value("save_precision") or "float") in ("fp16", "bf16") or job.on("full_fp16") or job.on("full_bf16")
    return values * (_HALF if half else _WHOLE) if values else None


def state(job: Job) -> int | None:
    """Estimate a saved state: the network in full precision and the optimizer state."""
    values = _values(job)
    kind = (job.value("optimizer_type") or "AdamW").lower()
    kept = next((size for word, size in _OPTIMIZERS.items() if word in kind), _ADAM)
    return values * (_WHOLE + kept) if values else None


def _values(job: Job) -> int | None:
    """Return the number of the network's parameters."""
    settings = job.values("network_args")
    plain = (job.value("network_module") or "").startswith("networks.lora")
    if not plain or job.on("dim_from_weights") or any(_DIMS.match(word) for word in settings):
        return None
    dim = int(job.number("network_dim") or _DEFAULT_DIM)
    sides = sum(_sides(name, tensor) for name, tensor in _tensors(job))
    return dim * sides or None


def _tensors(job: Job) -> Iterator[tuple[str, Tensor]]:
    """Return the model's matrices that a LoRA adapts. Damaged files are reported elsewhere."""
    text, left_out = not job.on("network_train_unet_only"), families.of(job.script).not_adapted
    for path in _files(job):
        try:
            header = contents.tensors(path)
        except (Damaged, OSError):
            continue
        for name, tensor in header.items():
            if not name.endswith("weight") or _LEFT_OUT.search(name) or (left_out and re.search(left_out, name)):
                continue
            if text or not _TEXT.search(name):
                yield name, tensor


def _files(job: Job) -> Iterator[Path]:
    value = job.value(weights.MODEL)
    path = job.cwd / value if value else None
    if path and path.is_dir():
        for part in ("unet", "transformer", "text_encoder", "text_encoder_2"):
            yield from sorted((path / part).glob("*.safetensors"))[:1]
    elif path and path.suffix == ".safetensors":
        yield path


def _sides(name: str, tensor: Tensor) -> int:
    """Return the inputs plus outputs of a matrix or a 1x1 convolution; 0 for other tensors."""
    match tensor.shape:
        case (outputs, inputs) | (outputs, inputs, 1, 1):
            # `in_proj_weight` is three matrices in one
            return outputs + (3 if name.endswith("in_proj_weight") else 1) * inputs
    return 0


def latents(job: Job, subset: Subset) -> int:
    """Return the bytes of one image's cached latents."""
    pixels = math.prod(subset.size or (0,))
    each = families.of(job.script).latent_bytes * (2 if subset.options.get("flip_aug") else 1)
    return math.ceil(pixels * (each + (_WHOLE if subset.options.get("alpha_mask") else 0)))


def outputs(job: Job) -> int:
    """Return the bytes of one image's cached text encoder outputs; 0 if they depend on the caption."""
    family = families.of(job.script)
    if family.text_output_bytes:
        return family.text_output_bytes
    tokens = family.t5_tokens
    asked = job.number("t5xxl_max_token_length")
    return int(min(tokens, asked) if asked else tokens) * _T5_WIDTH * _WHOLE
