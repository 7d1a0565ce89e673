"""A configuration that was resolved and loaded again, elsewhere, gives upstream the very same words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lora_training.config import show
from lora_training.config.argv import dataset_document, to_argv
from lora_training.config.loading import load
from lora_training.config.schema import read
from tests.helpers import ROOT

BASE = 'script = "train_network"\n'


def again(config, schema, folder: Path, **more):
    folder.mkdir()
    file = folder / "config.toml"
    text = show.resolved(config, schema, processes=more.pop("processes", 1), runtime=more.pop("runtime", {}))
    file.write_text(text, encoding="utf-8")
    loaded = load(file, environ={})
    assert loaded.problems == ()
    assert to_argv(loaded, schema) == to_argv(config, schema)
    assert json.dumps(dataset_document(loaded)) == json.dumps(dataset_document(config))
    return loaded


@pytest.mark.parametrize(
    ("text", "sets"),
    [
        ("seed = 0\nlearning_rate = 1e-7\ncache_latents = false", ()),
        ('output_dir = "out"\npretrained_model_name_or_path = "org/name"', ()),
        ('output_dir = "${LORA_CACHE}/x"\nnetwork_module = "a \\"quoted\\" \\u00e4 \\\\ name"', ()),
        ("[b]\nseed = 1\n[a]\nlearning_rate = 2.0", ("text_encoder_lr=[1e-5, 2]", "network_dim=4")),
        ("[n.network_args]\nratio = 16\nname = 'x=y'\n[z]\nseed = 3", ("network_args.more=[1, 2]",)),
        ("seed = 3", ("network_module=010", "lr_warmup_steps=10%")),
        ("[[datasets]]\nresolution = [64, 32]\n[[datasets.subsets]]\nimage_dir = 'cats'\nnum_repeats = 2", ()),
        ("datasets = [{subsets = [{image_dir = 'cats'}], batch_size = 2}]\n[general]\nenable_bucket = true", ()),
        ("[general]\nbatch_size = 3\n[[datasets]]\n[[datasets.subsets]]\nimage_dir = '~/a b'\n[[datasets]]\n", ()),
    ],
)
def test_every_flag_and_data_set_comes_back_in_its_order(config, small, tmp_path, text, sets):
    again(config(BASE + text, sets=sets), small, tmp_path / "elsewhere")


def test_overrides_of_the_environment_are_in_it(config, small, tmp_path):
    loaded = again(config(BASE + "learning_rate = 1.0", LORA_LEARNING_RATE="0.5"), small, tmp_path / "elsewhere")
    assert loaded.values["learning_rate"] == 0.5


def test_our_own_tables_are_in_it_but_not_where_to_go_on_from(config, small, tmp_path):
    text = '[launch]\nnum_processes = "auto"\nnum_cpu_threads_per_process = 2\n[run]\nresume = "never"\nretries = 7'
    runtime = {"ema": False, "nan-guard": True, "tiny": {"widths": [1, 2]}}
    loaded = again(config(BASE + text), small, tmp_path / "elsewhere", processes=2, runtime=runtime)
    assert (loaded.launch.num_processes, loaded.launch.num_cpu_threads_per_process) == (2, 2)
    assert (loaded.run.retries, loaded.run.resume) == (7, "auto")
    assert loaded.runtime == runtime


@pytest.mark.upstream
@pytest.mark.parametrize("file", sorted((ROOT / "configs").glob("*.toml")), ids=lambda path: path.stem)
def test_each_configuration_of_ours_comes_back(sd_scripts, tmp_path, file):
    given = load(file, environ={"LORA_CACHE": str(tmp_path), "HOME": str(tmp_path)})
    again(given, read(sd_scripts, given.script, cache=ROOT / ".lora" / "cache"), tmp_path / "elsewhere")
