"""Files of other trainers, written by us after their formats."""

from __future__ import annotations

import json
import struct

KOHYA = {
    "LoRA_type": "Kohya LoCon",
    "sdxl": True,
    "flux1_checkbox": False,
    "pretrained_model_name_or_path": "m.safetensors",
    "train_data_dir": "data",
    "output_dir": "out",
    "optimizer": "AdamW8bit",
    "optimizer_args": '"weight_decay=0.1" betas=0.9,0.99',
    "max_resolution": "1024,1024",
    "epoch": 4,
    "max_train_epochs": "",
    "max_train_steps": "",
    "lr_warmup": 10,
    "learning_rate": 0.0,
    "unet_lr": 1e-4,
    "text_encoder_lr": 0,
    "max_data_loader_n_workers": "0",
    "max_grad_norm": 0,
    "min_snr_gamma": 0,
    "noise_offset_type": "Multires",
    "noise_offset": 0.1,
    "multires_noise_iterations": 6,
    "multires_noise_discount": 0.2,
    "keep_tokens": "1",
    "max_token_length": "75",
    "sdxl_no_half_vae": True,
    "flux1_cache_text_encoder_outputs": True,
    "conv_dim": 8,
    "conv_alpha": 4,
    "use_tucker": True,
    "rank_dropout": 0.1,
    "loraplus_lr_ratio": 16,
    "xformers": "sdpa",
    "cache_latents": True,
    "color_aug": False,
    "num_processes": 2,
    "gpu_ids": "0,1",
    "sample_prompts": "a cat --w 512",
    "stop_text_encoder_training": 5,
    "model_list": "custom",
    "additional_parameters": "--ip_noise_gamma=0.1 --unheard_of 3",
    "t5xxl": "somewhere",
    "seed": "1234",
}

COMMAND = r"""#!/bin/sh
export CUDA_VISIBLE_DEVICES=0
accelerate launch --num_cpu_threads_per_process 1 --mixed_precision=bf16 --gpu_ids 0,1 --multi_gpu --dynamo_mode x \
  "./sd-scripts/flux_train_network.py" --pretrained_model_name_or_path "a b.safetensors" \
  --network_args loraplus_lr_ratio=16 "x=a b" --optimizer_args weight_decay=0.1 \
  --text_encoder_lr 1e-5 2e-5 --cache_latents --learning=3 --max_train_steps 5 --max_train_steps 6 && echo done
"""

TOOL_1 = """
model: {pretrained_model_name_or_path: "runwayml/stable-diffusion-v1-5", revision: null}
lora: {rank: 16, alpha: 32, dropout: 0.0, target_modules: [to_q]}
dataset: {train_data_dir: data/train, resolution: 512, center_crop: true, random_flip: true, caption_extension: ".txt"}
training: {num_train_epochs: 10, train_batch_size: 1, optimizer: adamw, learning_rate: 1e-4, weight_decay: 0.01,
  adam_beta1: 0.9, adam_beta2: 0.999, lr_scheduler: cosine, save_steps: 2, output_dir: out, mixed_precision: fp16}
logging: {log_dir: logs, use_wandb: false}
advanced: {noise_offset: 0.0, snr_gamma: 5, use_ema: false, train_text_encoder: false, text_encoder_lr: 5.0e-6}
"""
TOOL_23 = """
model: {pretrained_model_name_or_path: stabilityai/stable-diffusion-xl-base-1.0}
lora: {rank: 32, alpha: 16}
dataset: {train_data_dir: d, resolution: 1024, use_buckets: true, cache_latents: true, shuffle_captions: true,
  keep_tokens: 2}
training: {num_train_epochs: 8, train_batch_size: 2, optimizer: prodigy, learning_rate: 1.0, use_loraplus: true,
  loraplus_lr_ratio: 16.0, loraplus_unet_lr_ratio: 16.0, loraplus_text_encoder_lr_ratio: 4.0, loss_type: smooth_l1,
  huber_c: 0.1, huber_schedule: snr, use_ema: true, ema_decay: 0.999, min_snr_gamma: 5.0, noise_offset: 0.1,
  use_pyramid_noise: true, pyramid_noise_discount: 0.35, adaptive_loss_weight: true, train_text_encoder: true}
output: {output_dir: out}
logging: {use_tensorboard: true}
"""

# the settings that each version's entry in the tool's changelog names, and which of them have no place here
TOOL_VERSIONS = {
    "1.0": (TOOL_1, {"lora.target_modules", "dataset.center_crop"}),
    "2.0": (
        """
model: {pretrained_model_name_or_path: "stabilityai/stable-diffusion-2-1"}
lora: {rank: 16, alpha: 32}
dataset: {train_data_dir: data/train, resolution: 768, center_crop: true, random_flip: true, color_jitter: false}
training: {num_train_epochs: 15, train_batch_size: 2, optimizer: adamw, learning_rate: 1.0e-4, lr_scheduler: cosine,
  lr_warmup_steps: 100, gradient_accumulation_steps: 2, checkpointing_steps: 5, resume_from_checkpoint: null, seed: 42}
output: {output_dir: out}
""",
        {"dataset.center_crop"},
    ),
    "2.1": (
        """
model: {pretrained_model_name_or_path: "runwayml/stable-diffusion-v1-5"}
lora: {rank: 16, alpha: 32}
dataset: {train_data_dir: data/train, resolution: 512, use_buckets: true}
training: {num_train_epochs: 15, train_batch_size: 2, optimizer: adamw, learning_rate: 1.0e-4, lr_scheduler: cosine}
logging: {use_tensorboard: true, tensorboard_dir: logs}
""",
        set(),
    ),
    "2.2": (
        """
model: {pretrained_model_name_or_path: "runwayml/stable-diffusion-v1-5"}
lora: {rank: 32, alpha: 16}
dataset: {train_data_dir: data/train, resolution: 512, use_buckets: true,
  bucket_sizes: [[512, 512], [768, 512], [512, 768]], shuffle_caption: true, keep_tokens: 1, cache_latents: true,
  cache_latents_to_disk: false}
training: {num_train_epochs: 10, train_batch_size: 1, optimizer: prodigy, learning_rate: 1.0, use_ema: true,
  ema_decay: 0.9999, min_snr_gamma: 5.0, noise_offset: 0.1, use_pyramid_noise: true}
""",
        {"dataset.bucket_sizes"},
    ),
    "2.3": (TOOL_23, {"training.adaptive_loss_weight"}),
}


def safetensors(metadata: dict[str, str]) -> bytes:
    header = json.dumps({"__metadata__": metadata}).encode()
    return struct.pack("<Q", len(header)) + header
