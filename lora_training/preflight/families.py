"""What a checkpoint is of, by the names of its tensors, as far as that is beyond doubt."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

_PREFIX = "model.diffusion_model."
# the first that fits; each is a tensor that only that kind has
_SIGNS = {
    "SDXL": ("conditioner.embedders.1.model.", "conditioner.embedders.0.model."),
    "SD 2": ("cond_stage_model.model.transformer.resblocks.",),
    "SD 1": ("cond_stage_model.transformer.",),
    "SD 3": (f"{_PREFIX}joint_blocks.", "joint_blocks."),
    "a LoRA": ("lora_unet_", "lora_te", "lora_transformer_"),
}
# what each script trains; those of which we cannot tell the model are not here
_TRAINS = {
    "train_network": ("SD 1", "SD 2"),
    "sdxl_train_network": ("SDXL",),
    "sd3_train_network": ("SD 3",),
    "flux_train_network": (),
    "lumina_train_network": (),
    "hunyuan_image_train_network": (),
    "anima_train_network": (),
}
_SCRIPTS = {"SD 1": "train_network", "SD 2": "train_network", "SDXL": "sdxl_train_network", "SD 3": "sd3_train_network"}
_PIPELINES = {"StableDiffusionPipeline": ("SD 1", "SD 2"), "StableDiffusionXLPipeline": ("SDXL",)}


def of(names: Collection[str]) -> str | None:
    """The family of a checkpoint with tensors of these names, None when it could be anything."""
    for family, signs in _SIGNS.items():
        if any(name.startswith(signs) for name in names):
            return family
    return None


def mismatch(script: str, family: str, *, v2: bool) -> tuple[str, str] | None:
    """What is wrong with training a model of that family by that script, and what to do; None when it may be right."""
    trained = _TRAINS.get(script)
    if trained is None:
        return None
    if family not in trained:
        right = _SCRIPTS.get(family)
        return f"is {family}, which {script} does not train", (
            f'set script = "{right}"' if right else "give the model here, and the LoRA as network_weights"
        )
    if script == "train_network" and (family == "SD 2") != v2:
        return f"is {family}, and v2 is {'on' if v2 else 'off'}", f"set v2 = {'false' if v2 else 'true'}"
    return None


def pipeline(script: str, name: str) -> tuple[str, str] | None:
    """The same for a folder in diffusers' format, by the name of its pipeline."""
    families = _PIPELINES.get(name, ())
    if not families or any(family in _TRAINS.get(script, families) for family in families):
        return None
    return mismatch(script, families[0], v2=False)
