"""The command line of the stand-in. Its flags mean the same as in sd-scripts v0.11.1."""

import argparse
import os
import sys
from pathlib import Path

REQUIRED = ("pretrained_model_name_or_path", "tokenizer_cache_dir", "dataset_config", "output_dir", "output_name")
SUPPORTED: dict[str, tuple[object, ...]] = {"network_module": ("networks.lora",), "optimizer_type": ("", "AdamW")}
SUPPORTED |= {"lr_scheduler": ("constant",), "mixed_precision": ("no",), "save_model_as": ("safetensors",)}
SUPPORTED |= {"xformers": (False,), "max_token_length": (None,), "log_with": (None,), "logging_dir": (None,)}
ANY = ("seed", "max_data_loader_n_workers")


def setup_parser() -> argparse.ArgumentParser:
    """Return the parser of the flags that the stand-in supports."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pretrained_model_name_or_path", type=str, default=None)
    parser.add_argument("--tokenizer_cache_dir", type=str, default=None)
    parser.add_argument("--dataset_config", type=Path, default=None)
    parser.add_argument("--cache_latents", action="store_true")
    parser.add_argument("--output_dir", type=str, default=None)
    parser.add_argument("--output_name", type=str, default=None)
    parser.add_argument("--save_precision", type=str, default=None, choices=[None, "float", "fp16", "bf16"])
    parser.add_argument("--save_every_n_epochs", type=int, default=None)
    parser.add_argument("--save_every_n_steps", type=int, default=None)
    parser.add_argument("--save_state", action="store_true")
    parser.add_argument("--save_model_as", type=str, default="safetensors", choices=[None, "ckpt", "pt", "safetensors"])
    parser.add_argument("--train_batch_size", type=int, default=1)
    parser.add_argument("--max_token_length", type=int, default=None, choices=[None, 150, 225])
    parser.add_argument("--clip_skip", type=int, default=None)
    parser.add_argument("--xformers", action="store_true")
    parser.add_argument("--sdpa", action="store_true")
    parser.add_argument("--no_half_vae", action="store_true")
    parser.add_argument("--max_train_steps", type=int, default=1600)
    parser.add_argument("--max_train_epochs", type=int, default=None)
    parser.add_argument("--max_data_loader_n_workers", type=int, default=8)
    parser.add_argument("--persistent_data_loader_workers", action="store_true")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--gradient_accumulation_steps", type=int, default=1)
    parser.add_argument("--mixed_precision", type=str, default="no", choices=["no", "fp16", "bf16"])
    parser.add_argument("--logging_dir", type=str, default=None)
    parser.add_argument("--log_with", type=str, default=None, choices=["tensorboard", "wandb", "all"])
    parser.add_argument("--optimizer_type", type=str, default="")
    parser.add_argument("--learning_rate", type=float, default=2.0e-6)
    parser.add_argument("--lr_scheduler", type=str, default="constant")
    parser.add_argument("--network_module", type=str, default=None)
    parser.add_argument("--network_dim", type=int, default=None)
    parser.add_argument("--network_alpha", type=float, default=1)
    parser.add_argument("--network_args", type=str, default=None, nargs="*")
    parser.add_argument("--network_train_unet_only", action="store_true")
    return parser


def refusals(args: argparse.Namespace) -> list[str]:
    """Return the reasons why these arguments cannot be used."""
    given = vars(args)
    found = [f"the miniature needs --{name}" for name in REQUIRED if given[name] is None]
    found += [f"the miniature has no --{n} {given[n]}" for n in SUPPORTED if given[n] not in SUPPORTED[n]]
    found += [f"--{n} must be at least 1" for n, v in given.items() if type(v) is int and v < 1 and n not in ANY]
    return found + ["the miniature trains in one process"] * (os.environ.get("WORLD_SIZE", "1") != "1")


if __name__ == "__main__":
    arguments = setup_parser().parse_args()
    for reason in refusals(arguments):
        setup_parser().error(reason)
    from lora_training.miniature.trainer import Trainer  # imports torch, so only after the checks

    try:
        Trainer(arguments).train()
    except (OSError, ValueError) as exc:
        sys.exit(f"error: {exc}")
