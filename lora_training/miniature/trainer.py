"""The training loop, its images and its LoRA. Every random number comes from the seed."""

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import toml
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import CLIPTextModel, CLIPTokenizer

RECORDED = ("output_name", "learning_rate", "network_module", "network_dim", "network_alpha", "max_train_", "seed")
EXTENSIONS = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
OPTIONS = {"image_dir": "", "num_repeats": 1, "class_tokens": "", "caption_extension": ".caption", "batch_size": 1}
OPTIONS |= {"shuffle_caption": False, "keep_tokens": 0, "enable_bucket": False, "bucket_reso_steps": 64}
OPTIONS |= {"min_bucket_reso": 256, "max_bucket_reso": 1024, "resolution": [0, 0]}
# the layers that kohya's `networks/lora.py` adapts, by the prefix of their keys
TARGETS = {"lora_te": ("CLIPAttention", "CLIPSdpaAttention", "CLIPMLP"), "lora_unet": ("Transformer2DModel",)}


class Trainer:
    """The training of one LoRA on the CPU. Raises OSError or ValueError for missing or invalid input."""

    def __init__(self, args: Any) -> None:
        self.args, self.step = args, 0
        torch.set_num_threads(1)  # more threads do not speed up so small a model, and take CPU time from others
        args.seed = torch.manual_seed(torch.seed() % 2**32 if args.seed is None else args.seed).initial_seed()
        self.images = Images(args.dataset_config, args.train_batch_size)
        self.length = len(self.images.batches(args.seed, 0))  # batches per epoch; `updates`: steps per epoch
        self.updates = -(-self.length // args.gradient_accumulation_steps)
        args.max_train_steps = (args.max_train_epochs or 0) * self.updates or args.max_train_steps
        self.epochs = -(-args.max_train_steps // self.updates)
        model, local = Path(args.pretrained_model_name_or_path), {"local_files_only": True}
        tokenizer = Path(args.tokenizer_cache_dir, "openai_clip-vit-large-patch14")
        self.tokenizer = CLIPTokenizer.from_pretrained(tokenizer, **local)
        self.scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
        self.text_encoder = CLIPTextModel.from_pretrained(model / "text_encoder", **local).requires_grad_(False)
        self.vae = AutoencoderKL.from_pretrained(model / "vae", **local).requires_grad_(False)
        self.unet = UNet2DConditionModel.from_pretrained(model / "unet", **local).requires_grad_(False)
        roots = {} if args.network_train_unet_only else {"lora_te": self.text_encoder}
        self.network = attach(roots | {"lora_unet": self.unet}, args.network_dim or 4, args.network_alpha)
        self.optimizer = torch.optim.AdamW(groups(self.network, args.learning_rate, args.network_args or []))
        if args.cache_latents:
            self.images.latents = [self._encode(self.images.pixels(*sample)[None])[0] for sample in self.images.samples]

    def _encode(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.vae.encode(pixels).latent_dist.sample() * 0.18215  # SD1.x's scaling factor, as in upstream

    def train(self) -> None:
        """Train from the start, saving in between and at the end."""
        args, losses = self.args, {}
        print(f"running training / 学習開始\n  total optimization steps / 学習ステップ数: {args.max_train_steps}")
        plan = [batch for epoch in range(self.epochs) for batch in self.images.batches(args.seed, epoch)]
        workers = min(args.max_data_loader_n_workers, torch.multiprocessing.cpu_count())
        # a generator of its own, so that the loader leaves the global one alone
        batches = iter(DataLoader(self.images, batch_sampler=plan, num_workers=workers, generator=torch.Generator()))
        bar = tqdm(range(args.max_train_steps), smoothing=0, desc="steps")
        for epoch in range(self.epochs):
            print(f"\nepoch {epoch + 1}/{self.epochs}\n")
            for at in range(1, self.length + 1):
                losses[at] = self._backward(*next(batches))
                if at % args.gradient_accumulation_steps == 0 or at == self.length:
                    torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
                    self.optimizer.step()
                    self.optimizer.zero_grad()
                    self.step += 1
                    bar.update(1)
                    if args.save_every_n_steps and self.step % args.save_every_n_steps == 0:
                        self._save(f"-step{self.step:08d}", epoch, f"state at step {self.step}")
                bar.set_postfix(avr_loss=sum(losses.values()) / len(losses))
                if self.step >= args.max_train_steps:
                    break
            ended = epoch + 1
            if args.save_every_n_epochs and ended % args.save_every_n_epochs == 0 and ended < self.epochs:
                self._save(f"-{ended:06d}", ended, f"state at epoch {ended}")
        self._save("", self.epochs, "last state.")

    def _backward(self, pixels: torch.Tensor, captions: tuple[str, ...]) -> float:
        latents = pixels if self.images.latents else self._encode(pixels)
        ids = self.tokenizer(list(captions), padding="max_length", truncation=True, return_tensors="pt").input_ids
        layers = self.text_encoder(ids, output_hidden_states=True).hidden_states
        condition = self.text_encoder.text_model.final_layer_norm(layers[-(self.args.clip_skip or 1)])
        noise, timesteps = torch.randn_like(latents), torch.randint(0, 1000, (len(latents),))
        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        loss = torch.nn.functional.mse_loss(self.unet(noisy, timesteps, condition).sample, noise)
        (loss / self.args.gradient_accumulation_steps).backward()
        return float(loss.detach())

    def _save(self, suffix: str, epoch: int, state: str) -> None:
        file = Path(self.args.output_dir, f"{self.args.output_name}{suffix}.safetensors")
        file.parent.mkdir(parents=True, exist_ok=True)
        print(f"\nsaving checkpoint: {file}")
        notes = {f"ss_{name}": str(value) for name, value in vars(self.args).items() if name.startswith(RECORDED)}
        notes |= {"ss_steps": str(self.step), "ss_epoch": str(epoch), "ss_num_epochs": str(self.epochs)}
        dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(self.args.save_precision, torch.float32)
        save_file({key: value.to(dtype) for key, value in self.network.state_dict().items()}, file, notes)
        if self.args.save_state:
            print(f"saving {state}", file=sys.stderr)
            folder = file.with_name(f"{file.stem}-state")
            folder.mkdir(exist_ok=True)
            save_file(self.network.state_dict(), folder / "model.safetensors")
            torch.save(self.optimizer.state_dict(), folder / "optimizer.bin")
            torch.save(torch.get_rng_state(), folder / "random_states_0.pkl")
            done = json.dumps({"current_epoch": -(-self.step // self.updates), "current_step": self.step})
            (folder / "train_state.json").write_text(done)


class Images:
    """The images. An item's key is (index, seed for shuffling the caption), the item (pixels or latents, caption)."""

    def __init__(self, config: Path, batch_size: int) -> None:
        self.samples: list[tuple[Path, dict[str, Any]]] = []
        self.latents: list[torch.Tensor] = []
        self.groups: list[list[int]] = []  # indices into samples, one group per dataset
        defaults = OPTIONS | {"batch_size": batch_size, "image_dir": None}
        document = (json if config.suffix == ".json" else toml).loads(config.read_text(encoding="utf-8"))
        for dataset in document.get("datasets", []):
            self.groups.append([])
            for subset in dataset.pop("subsets", []):
                options = defaults | document.get("general", {}) | dataset | subset
                options["resolution"] = side if isinstance(side := options["resolution"], list) else [side, side]
                if wrong := [key for key, value in options.items() if type(value) is not type(OPTIONS.get(key))]:
                    raise ValueError(f"{config}: unknown to the miniature or of a wrong type: {', '.join(wrong)}")
                for path in sorted(p for p in Path(options["image_dir"]).iterdir() if p.suffix.lower() in EXTENSIONS):
                    self.groups[-1] += [len(self.samples)] * options["num_repeats"]
                    self.samples.append((path, options))
        if not any(self.groups):
            raise ValueError(f"No data found. There is no image in the folders of {config}")

    def batches(self, seed: int, epoch: int) -> list[list[tuple[int, int]]]:
        """Return the batches of an epoch in order, as keys of items; a batch has images of one dataset only."""
        rng, batches = np.random.default_rng([seed, epoch]), []
        for group in filter(None, self.groups):
            keys = [(index, int(rng.integers(2**63))) for index in rng.permutation(group).tolist()]
            size = self.samples[group[0]][1]["batch_size"]
            batches += [keys[start : start + size] for start in range(0, len(keys), size)]
        return [batches[at] for at in rng.permutation(len(batches))]

    def __getitem__(self, key: tuple[int, int]) -> tuple[torch.Tensor, str]:
        path, options = self.samples[key[0]]
        file, keep = path.with_suffix(options["caption_extension"]), options["keep_tokens"]
        caption = file.read_text(encoding="utf-8") if file.is_file() else options["class_tokens"]
        tags = [tag.strip() for tag in caption.partition("\n")[0].split(",")]
        if options["shuffle_caption"]:
            tags = [*tags[:keep], *np.random.default_rng(key[1]).permutation(tags[keep:])]
        return self.latents[key[0]] if self.latents else self.pixels(path, options), ", ".join(tags)

    def pixels(self, path: Path, options: dict[str, Any]) -> torch.Tensor:
        """Return an image, (3, height, width), from -1 to 1. As upstream, it is resized only with buckets."""
        w, h = options["resolution"]
        with Image.open(path) as image:
            if image.size != (w, h) and (not options["enable_bucket"] or image.width * h != image.height * w):
                raise ValueError(f"the miniature has no bucket for an image of the size {image.size}: {path}")
            fitted = image.convert("RGB").resize((w, h), Image.Resampling.LANCZOS)
        return torch.from_numpy(np.asarray(fitted, dtype=np.float32) / 127.5 - 1).permute(2, 0, 1)


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
