"""Run inside the real upstream: does a flag change what a flow model's trainer computes for a batch?

Takes a JSON object {script: {flag: value}} on stdin and prints {script: {flag: changed}}. The trainer's own methods
run with a stand-in for the model that returns its input, with the same random numbers with and without the flag.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import json
import sys
from unittest import mock

import torch

CLASSES = {
    "flux_train_network": "FluxNetworkTrainer",
    "sd3_train_network": "Sd3NetworkTrainer",
    "lumina_train_network": "LuminaNetworkTrainer",
    "hunyuan_image_train_network": "HunyuanImageNetworkTrainer",
    "anima_train_network": "AnimaNetworkTrainer",
}


def model(*args, **kwargs):
    """The first tensor that it is given, as a model of any of these families would return one of its shape."""
    return next(v for v in (*args, kwargs.get("img"), kwargs.get("x")) if isinstance(v, torch.Tensor)) * 0.5


def conditions(script):
    """What each trainer unpacks as its text encoders' outputs."""
    vector, mask = torch.zeros(2, 4, 8), torch.ones(2, 4, dtype=torch.int64)
    return {
        "flux_train_network": [vector[:, 0], vector, torch.zeros(2, 4, 3), mask],
        "sd3_train_network": [vector, vector, vector[:, 0], mask, mask, mask],
        "lumina_train_network": [vector, mask, mask],
        "hunyuan_image_train_network": [vector, mask, vector, mask, [False, False]],
        "anima_train_network": [vector, mask, mask, mask],
    }[script]


def computed(script, trainer, args):
    """Everything that the loss of one batch is made from, and the loss after the trainer's own weighting."""
    from library import strategy_base

    torch.manual_seed(0)
    latents = torch.randn(2, 16, 8, 8)
    unet = mock.Mock(side_effect=model)
    unet.get_mod_vectors.return_value = None
    accelerator = mock.Mock(device=torch.device("cpu"), autocast=contextlib.nullcontext)
    scheduler = trainer.get_noise_scheduler(args, torch.device("cpu"))
    strategy = mock.Mock()
    strategy.concat_encodings.return_value = (torch.zeros(2, 4, 8), torch.zeros(2, 8))
    with mock.patch.object(strategy_base.TextEncodingStrategy, "get_strategy", return_value=strategy):
        found = trainer.get_noise_pred_and_target(
            args, accelerator, scheduler, latents, {}, conditions(script), unet, None, torch.float32, True
        )
    loss = trainer.post_process_loss(torch.tensor([1.0, 2.0]), args, found[2], scheduler)
    return [*found, loss]


def same(one, other):
    """Whether two results are equal, tensor for tensor."""
    return all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) else a is b is None for a, b in zip(one, other, strict=True)
    )


def changes(script, settings):
    module = importlib.import_module(script)
    plain = module.setup_parser().parse_args([])
    found = {}
    for flag, value in settings.items():
        args = copy.deepcopy(plain)
        setattr(args, flag, value)
        trainer, other = (getattr(module, CLASSES[script])() for _ in range(2))
        found[flag] = not same(computed(script, trainer, plain), computed(script, other, args))
    return found


def huber(script, schedule):
    """The error that upstream raises for a Huber schedule on this family's noise schedule, or None."""
    from library import loss

    module = importlib.import_module(script)
    args = module.setup_parser().parse_args(["--loss_type", "huber", "--huber_schedule", schedule])
    scheduler = getattr(module, CLASSES[script])().get_noise_scheduler(args, torch.device("cpu"))
    try:
        loss.get_huber_threshold_if_needed(args, torch.tensor([10, 500]), scheduler)
    except NotImplementedError as exc:
        return str(exc)
    return None


if __name__ == "__main__":
    sys.path.insert(0, ".")
    asked = json.load(sys.stdin)
    answer = {script: changes(script, settings) for script, settings in asked["changes"].items()}
    raised = {script: huber(script, asked["huber"]) for script in asked["changes"]}
    sys.stdout.write("\n@@" + json.dumps({"changes": answer, "huber": raised}))
