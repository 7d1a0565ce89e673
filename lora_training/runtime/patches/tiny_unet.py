"""Let SD1.x training use a UNet of other widths, so that the smoke run's model trains in seconds.

Upstream defines the widths of SD1.x in three constants of its own UNet, and does not read them from the model's
configuration. The constants are changed after the module's import, before a model is built.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

from lora_training.runtime.model import RuntimePatch, Target


@dataclass(frozen=True)
class Settings:
    """`block_out_channels`: the UNet's widths, one per block, from the outermost inwards."""

    block_out_channels: tuple[int, ...]


def install(module: ModuleType, settings: Settings) -> None:
    """Set the widths of the UNet."""
    widths = settings.block_out_channels
    vars(module).update(BLOCK_OUT_CHANNELS=widths, TIMESTEP_INPUT_DIM=widths[0], TIME_EMBED_DIM=widths[0] * 4)


PATCH = RuntimePatch(
    name="tiny-unet",
    reason="The widths of SD1.x are constants in upstream's UNet, and a smoke run needs smaller ones.",
    upstream_version="v0.11.1",
    verification="tests/runtime/test_sizes.py, and tests/cli/test_train.py: the smoke run",
    removal_condition="upstream reads the widths from the model's own configuration",
    targets=(
        Target("library.original_unet", "BLOCK_OUT_CHANNELS", "33fc9bd7e521afa7"),
        Target("library.original_unet", "TIMESTEP_INPUT_DIM", "6ebf56e7ee8d9f2f"),
        Target("library.original_unet", "TIME_EMBED_DIM", "540c494b4be1e8d7"),
    ),
    install=install,
    settings=Settings,
)
