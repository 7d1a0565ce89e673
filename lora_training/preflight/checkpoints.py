"""Recognize the model family of a checkpoint by its tensor names, where they are unambiguous."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lora_training import families

if TYPE_CHECKING:
    from collections.abc import Collection

_PREFIX = "model.diffusion_model."
# the first match decides; each name prefix occurs in one kind only
_SIGNS = {
    "SDXL": ("conditioner.embedders.1.model.", "conditioner.embedders.0.model."),
    "SD 2": ("cond_stage_model.model.transformer.resblocks.",),
    "SD 1": ("cond_stage_model.transformer.",),
    "SD 3": (f"{_PREFIX}joint_blocks.", "joint_blocks."),
    "a LoRA": ("lora_unet_", "lora_te", "lora_transformer_"),
}


def kind(names: Collection[str]) -> str | None:
    """Return the kind of a checkpoint with these tensor names; None if they are ambiguous."""
    for found, signs in _SIGNS.items():
        if any(name.startswith(signs) for name in names):
            return found
    return None


def mismatch(script: str, found: str, *, v2: bool) -> tuple[str, str] | None:
    """Return why a script cannot train a checkpoint of this kind, and a hint; None if it may be able to."""
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
    """Return the mismatch of a model folder in diffusers' format, by the class name of its pipeline."""
    owner = next((family for family in families.FAMILIES if family.pipeline == name), None)
    if owner is None or owner.script == script or not families.is_known(script):
        return None
    return mismatch(script, owner.checkpoints[0], v2=False)
