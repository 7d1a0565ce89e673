"""Recognize a model file by its tensors: the family of a base model, or which text encoder or autoencoder it is."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lora_training import families
from lora_training.preflight.job import Job

# what some programs put before every name
_PREFIX = re.compile(r"^(?:model\.diffusion_model|model|net)\.")
_TOKENS = "text_model.embeddings.token_embedding.weight"
_LATENT = "decoder.conv_in.weight"


@dataclass(frozen=True)
class _Sign:
    """A kind of file. For each of `starts`, some tensor's name begins so; the tensor of `size` has that dimension."""

    kind: str
    starts: tuple[str, ...]
    size: tuple[str, int, int] | None = None

    def fits(self, shapes: Mapping[str, Sequence[int]]) -> bool:
        """Whether a file with tensors of these names and shapes is of this kind."""
        if not all(any(name.startswith(start) for name in shapes) for start in self.starts):
            return False
        if self.size is None:
            return True
        name, dimension, size = self.size
        return tuple(shapes.get(name, ()))[dimension : dimension + 1] == (size,)


# the first that fits decides
_SIGNS = (
    _Sign("SDXL", ("conditioner.embedders.1.model.",)),
    _Sign("SDXL", ("conditioner.embedders.0.model.",)),
    _Sign("SD 2", ("cond_stage_model.model.transformer.resblocks.",)),
    _Sign("SD 1", ("cond_stage_model.transformer.",)),
    _Sign("SD 3", ("joint_blocks.",)),
    _Sign("Chroma", ("distilled_guidance_layer.",)),
    _Sign("FLUX", ("double_blocks.0.img_attn.norm.",)),
    _Sign("HunyuanImage", ("byt5_in.",)),
    _Sign("Lumina", ("cap_embedder.", "noise_refiner.")),
    _Sign("Anima", ("llm_adapter.",)),
    *(_Sign("a LoRA", (start,)) for start in ("lora_unet_", "lora_te", "lora_transformer_")),
    _Sign("CLIP-L", ("text_model.encoder.layers.",), (_TOKENS, 1, 768)),
    _Sign("CLIP-G", ("text_model.encoder.layers.",), (_TOKENS, 1, 1280)),
    _Sign("T5-XXL", ("encoder.block.",), ("shared.weight", 0, 32128)),
    _Sign("byT5", ("encoder.block.",), ("shared.weight", 0, 1510)),
    _Sign("Gemma 2", ("layers.0.pre_feedforward_layernorm.",)),
    _Sign("Qwen3", ("layers.0.self_attn.q_norm.",)),
    _Sign("Qwen2.5-VL", ("visual.blocks.", "layers.0.self_attn.")),
    _Sign("the autoencoder of SD", ("encoder.down.0.block.",), (_LATENT, 1, 4)),
    _Sign("the autoencoder of FLUX", ("encoder.down.0.block.",), (_LATENT, 1, 16)),
    _Sign("the VAE of HunyuanImage", ("encoder.down.0.block.",), (_LATENT, 1, 64)),
    _Sign("the VAE of Qwen-Image", ("decoder.norm_out.gamma",)),
    _Sign("the VAE of Qwen-Image", ("decoder.middle.0.residual.0.gamma",)),
)
# a kind that its script trains only with this flag, and the flag's value without it
_VARIANTS = {"SD 2": ("v2", "true", "false"), "Chroma": ("model_type", '"chroma"', '"flux"')}


def kind(shapes: Mapping[str, Sequence[int]]) -> str | None:
    """Return the kind of a file with tensors of these names and shapes; None if they do not tell."""
    bare = {_PREFIX.sub("", name): shape for name, shape in shapes.items()}
    return next((sign.kind for sign in _SIGNS if sign.fits(bare)), None)


def mismatch(job: Job, found: str) -> tuple[str, str] | None:
    """Return why a script cannot train a base model of this kind, and a hint; None if it may be able to."""
    if not families.is_known(job.script):
        return None
    trained = families.of(job.script).checkpoints
    if found not in trained:
        return f"is {found}, which {job.script} does not train", _place(job.script, found)
    for variant in set(trained) & _VARIANTS.keys():
        flag, value, other = _VARIANTS[variant]
        chosen = job.on(flag) if value == "true" else job.value(flag) == value.strip('"')
        if chosen != (found == variant):
            given = job.value(flag) or ("on" if job.on(flag) else "off" if flag == "v2" else "flux")
            return f"is {found}, and {flag} is {given}", f"set {flag} = {other if chosen else value}"
    return None


def part_mismatch(script: str, flag: str, found: str) -> tuple[str, str] | None:
    """Return why a file of this kind is not the text encoder or autoencoder that a flag takes; None if it may be."""
    wanted = families.of(script).parts.get(flag)
    if wanted is None or found in wanted:
        return None
    return f"is {found}, not {wanted[0]}", _place(script, found)


def _place(script: str, found: str) -> str:
    """Say where a file of this kind belongs."""
    if found == "a LoRA":
        return "give the model here, and the LoRA as network_weights"
    if right := next((family.script for family in families.FAMILIES if found in family.checkpoints), None):
        return "give it as pretrained_model_name_or_path" if right == script else f'set script = "{right}"'
    flag = next((flag for flag, wanted in families.of(script).parts.items() if found in wanted), None)
    return f"give it as {flag}" if flag else f"{script} has no use for it"


def pipeline(job: Job, name: str) -> tuple[str, str] | None:
    """Return the mismatch of a model folder in diffusers' format, by the class name of its pipeline."""
    owner = next((family for family in families.FAMILIES if family.pipeline == name), None)
    if owner is None or owner.script == job.script:
        return None
    return mismatch(job, owner.checkpoints[0])
