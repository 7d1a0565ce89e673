"""The training loop. Every random number comes from the seed or a saved state, so that a resumed run is exact."""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import CLIPTextModel, CLIPTokenizer

from lora_training.miniature import dataset, network

RECORDED = ("output_name", "learning_rate", "network_module", "network_dim", "network_alpha", "max_train_", "seed")


class Trainer:
    """The training of one LoRA on the CPU. Raises OSError or ValueError for missing or invalid input."""

    def __init__(self, args: Any) -> None:
        self.args, self.step = args, 0
        torch.set_num_threads(1)  # more threads do not speed up so small a model, and take CPU time from others
        args.seed = torch.manual_seed(torch.seed() % 2**32 if args.seed is None else args.seed).initial_seed()
        self.images = dataset.Images(args.dataset_config, args.train_batch_size)
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
        self.network = network.attach(roots | {"lora_unet": self.unet}, args.network_dim or 4, args.network_alpha)
        self.optimizer = torch.optim.AdamW(network.groups(self.network, args.learning_rate, args.network_args or []))
        if args.cache_latents:
            self.images.latents = [self._encode(self.images.pixels(*sample)[None])[0] for sample in self.images.samples]

    def _encode(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.vae.encode(pixels).latent_dist.sample() * 0.18215  # SD1.x's scaling factor, as in upstream

    def train(self) -> None:
        """Train from the start or from the state to resume, saving in between and at the end."""
        args, (first, skip), losses = self.args, self._start(), {}
        print(f"running training / 学習開始\n  total optimization steps / 学習ステップ数: {args.max_train_steps}")
        plan = [batch for epoch in range(first, self.epochs) for batch in self.images.batches(args.seed, epoch)][skip:]
        workers = min(args.max_data_loader_n_workers, torch.multiprocessing.cpu_count())
        # a generator of its own, so that the loader leaves the global one alone, which a state restores
        batches = iter(DataLoader(self.images, batch_sampler=plan, num_workers=workers, generator=torch.Generator()))
        bar = tqdm(range(args.max_train_steps - self.step), smoothing=0, desc="steps")
        for epoch in range(first, self.epochs):
            print(f"\nepoch {epoch + 1}/{self.epochs}\n")
            for at in range(skip + 1, self.length + 1):
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
            skip, ended = 0, epoch + 1
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

    def _start(self) -> tuple[int, int]:
        """Restore the state to resume; return the epoch to begin with and the number of its batches to skip."""
        args, done = self.args, 0
        if args.resume:
            self.network.load_state_dict(load_file((folder := Path(args.resume)) / "model.safetensors"))
            self.optimizer.load_state_dict(torch.load(folder / "optimizer.bin", weights_only=True))
            torch.set_rng_state(torch.load(folder / "random_states_0.pkl", weights_only=True))
            done = json.loads((folder / "train_state.json").read_text())["current_step"]
        done = done if args.initial_step is None else args.initial_step
        if done >= args.max_train_steps:
            raise ValueError(f"max_train_steps must be more than the initial step, {done}")
        self.step = done if args.skip_until_initial_step else 0  # without the flag, upstream counts from 0
        return done // self.updates, self.step % self.updates * args.gradient_accumulation_steps
