"""Tiny models of the real layout: a WD14 tagger with six tags in ONNX, and a BLIP; each written by a process."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path

ROWS = [("general", 9), ("sensitive", 9), ("questionable", 9), ("explicit", 9), ("red_thing", 0), ("blue_thing", 0)]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "picture", "of", *(f"word{n}" for n in range(30514))]
# the sizes that upstream fixes, made small when its modules are imported
SHRINKS = """
from wrapt import register_post_import_hook

SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2}


def vit(module):
    init = module.VisionTransformer.__init__
    small = {"embed_dim": 32, "depth": 2, "num_heads": 2}
    module.VisionTransformer.__init__ = lambda self, *args, **given: init(self, *args, **{**given, **small})


def med(module):
    read = module.BertConfig.from_json_file
    module.BertConfig.from_json_file = lambda path: module.BertConfig(**{**read(path).to_dict(), **SMALL})


def blip(module):
    create = module.create_vit
    module.create_vit = lambda *args, **given: (create(*args, **given)[0], 32)


for name, hook in (("blip.vit", vit), ("blip.med", med), ("blip.blip", blip)):
    register_post_import_hook(hook, name)
"""


def tagger(folder: Path) -> None:
    """`red_thing` is as probable as the picture is red, and `blue_thing` as it is blue."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    matrix = np.zeros((3, len(ROWS)), "f4")
    matrix[2, 4] = matrix[0, 5] = 1 / 255  # upstream gives blue, green, red
    nodes = [helper.make_node("ReduceMean", ["x"], ["mean"], axes=[1, 2], keepdims=0)]
    nodes += [helper.make_node("MatMul", ["mean", "matrix"], ["y"])]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 448, 448, 3])
    made = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", len(ROWS)])
    graph = helper.make_graph(nodes, "tagger", [given], [made], [numpy_helper.from_array(matrix, "matrix")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    folder.mkdir()
    onnx.save(model, str(folder / "model.onnx"))
    lines = [f"{number},{name},{category},1" for number, (name, category) in enumerate(ROWS)]
    (folder / "selected_tags.csv").write_text("\n".join(["tag_id,name,category,count", *lines, ""]))


def blip(folder: Path) -> None:
    """Weights, the tokenizer in a hub's cache, and the module that makes upstream's sizes small."""
    hub = folder / "hub" / "models--bert-base-uncased"
    snapshot = hub / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (hub / "refs").mkdir()
    (hub / "refs" / "main").write_text("0" * 40)
    (snapshot / "vocab.txt").write_text("\n".join([*WORDS, ""]))
    (snapshot / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    (folder / "small").mkdir()
    (folder / "small" / "sitecustomize.py").write_text(SHRINKS)


def blip_weights(finetune: Path, file: Path) -> None:
    """Upstream's own model with random weights. Runs with the environment that `blip` has made."""
    from lora_training.runtime.patches import blip as patch

    os.chdir(finetune)
    sys.path[:0] = [str(finetune), str(finetune.parent)]
    patch.PATCH.prepare()
    patch.install(import_module("blip.med"), None)
    import torch
    from blip.blip import blip_decoder

    torch.manual_seed(0)
    model = blip_decoder(pretrained="", image_size=384, vit="large", med_config="./blip/med_config.json").eval()
    torch.save({"model": model.state_dict()}, file)


if __name__ == "__main__":
    blip_weights(Path(sys.argv[1]), Path(sys.argv[2]))
