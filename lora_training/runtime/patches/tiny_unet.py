"""Let SD1.x training take a UNet of other widths, so that the smoke run has a model it can train in seconds.

Upstream fixes the widths of SD1.x in three constants of its own UNet and reads the model's configuration for the
rest only. The constants are set when the module has been imported, before a model is built.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lora_training.runtime.registry import Target

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import ModuleType

NAME = "tiny-unet"
REASON = "the widths of SD1.x are constants in upstream's UNet, and a smoke run needs smaller ones"
TARGETS = (
    Target("library.original_unet", "BLOCK_OUT_CHANNELS", "33fc9bd7e521afa7"),
    Target("library.original_unet", "TIMESTEP_INPUT_DIM", "6ebf56e7ee8d9f2f"),
    Target("library.original_unet", "TIME_EMBED_DIM", "540c494b4be1e8d7"),
)


def install(module: ModuleType, settings: Mapping[str, Any]) -> None:
    """Set the widths: `block_out_channels` in `settings`, one a block, from the outermost in."""
    widths = tuple(settings["block_out_channels"])
    vars(module).update(BLOCK_OUT_CHANNELS=widths, TIMESTEP_INPUT_DIM=widths[0], TIME_EMBED_DIM=widths[0] * 4)
