from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="needs the training packages: `make setup`")

import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextModel

from lora_training.miniature import trainer


@pytest.fixture
def roots(material):
    return {
        "lora_te": CLIPTextModel.from_pretrained(material / "model" / "text_encoder"),
        "lora_unet": UNet2DConditionModel.from_pretrained(material / "model" / "unet"),
    }


def test_keys_are_kohyas(roots):
    keys = trainer.attach(roots, 4, 1).state_dict().keys()
    block = "lora_unet_down_blocks_0_attentions_0"
    layers = [f"{block}_proj_in", f"{block}_transformer_blocks_0_attn1_to_q"]
    layers += ["lora_te_text_model_encoder_layers_0_self_attn_q_proj", "lora_te_text_model_encoder_layers_1_mlp_fc2"]
    assert {f"{layer}.{part}" for layer in layers for part in ("lora_down.weight", "lora_up.weight", "alpha")} <= keys
    assert not [key for key in keys if "resnets" in key]


def test_a_fresh_lora_changes_nothing_and_a_trained_one_does(roots):
    ids = torch.tensor([[49406, 320, 49407]])
    text_encoder = roots["lora_te"]
    before = text_encoder(ids).last_hidden_state
    loras = trainer.attach({"lora_te": text_encoder}, 4, 2)
    assert torch.equal(text_encoder(ids).last_hidden_state, before)
    for lora in loras.values():
        torch.nn.init.ones_(lora["lora_up"].weight)
    assert not torch.allclose(text_encoder(ids).last_hidden_state, before)


def test_the_delta_is_up_times_down_times_alpha_over_rank():
    layer = torch.nn.Linear(3, 5)
    lora = trainer._lora(layer, dim=4, alpha=2)
    torch.nn.init.normal_(lora["lora_up"].weight)
    inputs = torch.randn(7, 3)
    delta = inputs @ (lora["lora_up"].weight @ lora["lora_down"].weight).T * 2 / 4
    assert torch.allclose(layer(inputs), inputs @ layer.weight.T + layer.bias + delta, atol=1e-6)


def test_with_lora_plus_the_up_matrices_learn_faster(roots):
    loras = trainer.attach(roots, 4, 1)
    down, up = trainer.groups(loras, 1e-3, ["loraplus_lr_ratio=4"])
    assert (down["lr"], up["lr"]) == (1e-3, 4e-3)
    named = {id(value): name for name, value in loras.named_parameters()}
    assert all(named[id(value)].endswith("lora_up.weight") for value in up["params"])
    assert len(down["params"]) + len(up["params"]) == len(named)


def test_without_lora_plus_all_learn_alike(roots):
    down, up = trainer.groups(trainer.attach(roots, 4, 1), 1e-3, [])
    assert down["lr"] == up["lr"] == 1e-3


@pytest.mark.parametrize(
    "argument", ["conv_dim=4", "loraplus_unet_lr_ratio=4", "loraplus_lr_ratio", "loraplus_lr_ratio=x"]
)
def test_a_network_argument_that_it_cannot_obey_is_refused(argument):
    with pytest.raises(ValueError, match=r"miniature|float"):
        trainer.groups(torch.nn.ModuleDict(), 1e-3, [argument])
