"""A network module that writes down each rank's data, noise and gradients of every step.

It is `networks.lora` otherwise. `TEST_PROBE` names the folder for the notes.
"""

from __future__ import annotations

import atexit
import os
from pathlib import Path

import torch
from accelerate import Accelerator
from library import loss as loss_util
from networks import lora
from networks.lora import *  # noqa: F403 - it stands in for that module

NOTES: dict[str, list] = {"latents": [], "noise": [], "timesteps": [], "own": [], "mean": [], "weights": []}


def create_network(*args, **kwargs):
    network = lora.create_network(*args, **kwargs)
    _note_draws()
    _note_gradients(network)
    return network


def _note_draws() -> None:
    original = loss_util.get_noise_noisy_latents_and_timesteps

    def draw(args, scheduler, latents):
        noise, noisy, timesteps = original(args, scheduler, latents)
        NOTES["latents"].append(latents.clone())
        NOTES["noise"].append(noise.clone())
        NOTES["timesteps"].append(timesteps.clone())
        return noise, noisy, timesteps

    loss_util.get_noise_noisy_latents_and_timesteps = draw


def _note_gradients(network) -> None:
    original = Accelerator.reduce

    def reduce(self, tensor, reduction="sum", scale=1.0):
        NOTES["own"].append(tensor.clone())
        reduced = original(self, tensor, reduction=reduction, scale=scale)
        NOTES["mean"].append(reduced.clone())
        return reduced

    Accelerator.reduce = reduce
    atexit.register(_write, network)


def _write(network) -> None:
    NOTES["weights"] = [each.detach() for each in network.parameters()]
    torch.save(NOTES, Path(os.environ["TEST_PROBE"]) / f"rank-{os.environ['RANK']}.pt")
