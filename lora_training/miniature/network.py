"""LoRA for the linear layers and 1x1 convolutions of a model, with the key names of kohya's `networks/lora.py`."""

from functools import partial
from typing import Any

import torch
from torch import nn

TARGETS = {"lora_te": ("CLIPAttention", "CLIPSdpaAttention", "CLIPMLP"), "lora_unet": ("Transformer2DModel",)}


def attach(roots: dict[str, Any], dim: int, alpha: float) -> nn.ModuleDict:
    """Add a LoRA of rank `dim` to each target layer of the models, given by prefix. An `alpha` of 0 means `dim`."""
    loras = nn.ModuleDict()
    for prefix, root in roots.items():
        for name, block in root.named_modules():
            for child, layer in block.named_modules() if type(block).__name__ in TARGETS[prefix] else ():
                if isinstance(layer, nn.Linear) or getattr(layer, "kernel_size", None) == (1, 1):
                    loras[f"{prefix}.{name}.{child}".replace(".", "_")] = _lora(layer, dim, alpha or dim)
    return loras


def _lora(layer: Any, dim: int, alpha: float) -> nn.Module:
    make = nn.Linear if isinstance(layer, nn.Linear) else partial(nn.Conv2d, kernel_size=1)
    down, up = make(layer.weight.shape[1], dim, bias=False), make(dim, layer.weight.shape[0], bias=False)
    nn.init.zeros_(up.weight)
    layer.register_forward_hook(lambda _layer, inputs, out: out + up(down(inputs[0])) * (alpha / dim))
    lora = nn.ModuleDict({"lora_down": down, "lora_up": up})
    lora.register_buffer("alpha", torch.tensor(alpha))
    return lora


def groups(network: nn.Module, rate: float, network_args: list[str]) -> list[dict[str, Any]]:
    """Return the parameter groups; `loraplus_lr_ratio` multiplies the up matrices' rate. Raises ValueError."""
    options = dict(option.partition("=")[::2] for option in network_args)
    ratio = float(options.pop("loraplus_lr_ratio", 1))
    if options:
        raise ValueError(f"the miniature has no --network_args {', '.join(options)}")
    down, up = ([p for name, p in network.named_parameters() if part in name] for part in ("lora_down", "lora_up"))
    return [{"params": down, "lr": rate}, {"params": up, "lr": rate * ratio}]
