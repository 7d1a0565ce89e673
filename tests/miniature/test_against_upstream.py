"""The stand-in against the real thing: the same flags, and the same keys in the same shapes."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from lora_training.miniature import train_network

pytestmark = pytest.mark.upstream

ASK_UPSTREAM = """
import json, sys
import train_network
from diffusers import UNet2DConditionModel
from networks import lora
from transformers import CLIPTextModel

parts = [kind.from_pretrained(f"{sys.argv[1]}/{name}") for kind, name in
         ((CLIPTextModel, "text_encoder"), (UNet2DConditionModel, "unet"))]
made = lora.create_network(1.0, 4, 1, None, *parts)
made.apply_to(*parts)
flags = {action.dest: [getattr(action.type, "__name__", None), action.default, action.choices, action.nargs]
         for action in train_network.setup_parser()._actions}
shapes = {key: list(value.shape) for key, value in made.state_dict().items()}
print("ANSWER" + json.dumps({"flags": flags, "shapes": shapes}))
"""


@pytest.fixture(scope="module")
def upstream(sd_scripts, material):
    command = [sys.executable, "-c", ASK_UPSTREAM, str(material / "model")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=sd_scripts)
    return json.loads(done.stdout.partition("ANSWER")[2])


def test_a_flag_has_the_type_default_and_choices_of_upstreams(upstream):
    ours = {
        action.dest: [getattr(action.type, "__name__", None), action.default, action.choices, action.nargs]
        for action in train_network.setup_parser()._actions
    }
    assert ours == {name: upstream["flags"].get(name) for name in ours}


def test_a_lora_has_the_keys_and_shapes_of_upstreams(upstream, whole):
    from safetensors.torch import load_file

    ours = {key: list(value.shape) for key, value in load_file(whole[1] / "tiny.safetensors").items()}
    assert ours == upstream["shapes"]
