"""Tell the kind of a base model by the names of its tensors, where that is beyond doubt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lora_training import families

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


def kind(names: Collection[str]) -> str | None:
    """Return the kind of a checkpoint with tensors of these names; None when it could be anything."""
    for found, signs in _SIGNS.items():
        if any(name.startswith(signs) for name in names):
            return found
    return None


def mismatch(script: str, found: str, *, v2: bool) -> tuple[str, str] | None:
    """Say why a script cannot train a checkpoint of a kind, and what to do; None when it may be right."""
    if not families.is_known(script):
        return None
    trained = families.of(script).checkpoints
    if found not in trained:
        right = next((family.script for family in families.FAMILIES if found in family.checkpoints), None)
        return f"is {found}, which {script} does not train", (
            f'set script = "{right}"' if right else "give the model here, and the LoRA as network_weights"
        )
    if "SD 2" in trained and (found == "SD 2") != v2:
        return f"is {found}, and v2 is {'on' if v2 else 'off'}", f"set v2 = {'false' if v2 else 'true'}"
    return None


def pipeline(script: str, name: str) -> tuple[str, str] | None:
    """Return the same for a folder in diffusers' format, by the class name of its pipeline."""
    owner = next((family for family in families.FAMILIES if family.pipeline == name), None)
    if owner is None or owner.script == script or not families.is_known(script):
        return None
    return mismatch(script, owner.checkpoints[0], v2=False)
