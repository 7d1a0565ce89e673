"""Files of other trainers that were made to end in a traceback, to hang, or to leave half a file behind."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lora_training.config import checks, importers, show
from lora_training.config.loading import load
from lora_training.config.schema import Schema
from lora_training.errors import LoraError
from tests.config.foreign import COMMAND, KOHYA, TOOL_1, TOOL_23
from tests.helpers import ROOT, Ran, lora

pytestmark = pytest.mark.upstream
TOOL = "training: {seed: 1}\nlora: {rank: 4}\n"
GUI = '{"LoRA_type": "Standard", '


def safetensors(header: str) -> bytes:
    data = header.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(data)) + data


def metadata(**values: Any) -> bytes:
    return safetensors(json.dumps({"__metadata__": values}))


def imported(folder: Path, name: str, data: bytes, *more: str) -> Ran:
    (folder / name).write_bytes(data)
    return lora("config", "import", folder / name, *more, cwd=ROOT)


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.safetensors", safetensors('{"__metadata__": {"ss_a": ' + "[" * 5000), "damaged header"),
        ("a.safetensors", safetensors('{"__metadata__": {"ss_a": ' + "[" * 500 + "]" * 500 + "}}"), "nested more than"),
        ("a.safetensors", safetensors('{"__metadata__": {"ss_seed": ' + "9" * 4000 + "}}"), "more than 64 bits"),
        ("a.safetensors", safetensors('{"__metadata__": {"ss_seed": ' + "9" * 9000 + "}}"), "damaged header"),
        ("a.safetensors", metadata(ss_training_comment="\ud800"), "text that is no Unicode"),
        (
            "a.safetensors",
            struct.pack("<Q", 5_000_000) + b" " * 5_000_000,
            "header of 5000000 bytes",
        ),
        ("a.json", (GUI + '"seed": ' + "9" * 4000 + "}").encode(), "more than 64 bits"),
        ("a.json", (GUI + '"output_name": "\\udc80"}').encode(), "text that is no Unicode"),
        ("a.json", b" " * 5_000_000, "larger than 4194304 bytes"),
        ("a.toml", b"seed = 0x" + b"f" * 9000, "more than 64 bits"),
        ("a.toml", b"a." * 2000 + b"a = 1\n", "more than a thousand dots"),
        ("a.yaml", (TOOL + "x: &x {a: 1}\ny: {<<: *x}\n").encode(), "used again"),
        ("a.yaml", (TOOL + "x: " + "[" * 9000).encode(), "nested more than 100 deep"),
        ("a.yaml", (TOOL + "x: 1" + ":1" * 9000 + "\n").encode(), "a number of more than 100 characters"),
        ("a.yaml", (TOOL + "x: 1.1" + "1" * 9000 + "\n").encode(), "a number of more than 100 characters"),
        ("a.sh", b"A=" + b"b" * 1000 + b"\ntrain_network.py " + b"$A " * 9000, "longer than 131072 characters"),
        ("a.sh", b"train_network.py '", "a quote or an escape has no end"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_no_trainer_writes_is_one_error_and_leaves_no_file(
    sd_scripts: Path, tmp_path: Path, name: str, data: bytes, words: str
) -> None:
    ran = imported(tmp_path, name, data, "-o", str(tmp_path / "made.toml"))
    assert ran.code == 3
    assert ran.err.startswith("error: ")
    assert words in ran.err
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.safetensors", metadata(ss_network_args='{"a": [null]}', ss_seed="1")),
        ("a.safetensors", metadata(ss_network_args="[" * 5000, ss_seed="0x" + "f" * 900)),
        ("a.safetensors", metadata(ss_datasets='[{"subsets": [{"a": [null, {"b": null}]}]}]', ss_seed=None)),
        ("a.safetensors", metadata(ss_optimizer="A(" + "a=1," * 9000)),
        ("a.json", (GUI + '"optimizer_args": [null], "gpu_ids": "' + "9" * 5000 + '"}').encode()),
        ("a.json", (GUI + '"seed": 1e999, "unet_lr": NaN}').encode()),
        ("a.yaml", (TOOL + "2001-01-01: {1: !!set {a, b}}\nx: !!binary aGk=\n").encode()),
        ("a.sh", b"accelerate launch --num_processes " + b"9" * 5000 + b" train_network.py --seed " + b"9" * 5000),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_can_be_taken_of_an_odd_file_makes_a_whole_one(
    sd_scripts: Path, tmp_path: Path, name: str, data: bytes
) -> None:
    ran = imported(tmp_path, name, data, "-o", str(tmp_path / "made.toml"))
    assert ran.code == 0, ran.err
    load(tmp_path / "made.toml", environ={})


def test_a_file_is_not_written_over_and_not_through_a_link(sd_scripts: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious", encoding="utf-8")
    (tmp_path / "made.toml").symlink_to(tmp_path / "precious")
    data = json.dumps(KOHYA).encode()
    assert imported(tmp_path, "a.json", data, "-o", str(tmp_path / "made.toml")).code == 3
    assert imported(tmp_path, "a.json", data, "-o", str(tmp_path / "made.toml"), "--force").code == 0
    assert (tmp_path / "precious").read_text(encoding="utf-8") == "precious"


def test_after_a_hundred_unknown_keys_no_nearest_name_is_looked_for(sd_scripts: Path, tmp_path: Path) -> None:
    ran = imported(tmp_path, "a.safetensors", metadata(**{f"ss_sead{number}": "1" for number in range(200)}))
    assert ran.code == 0
    assert ran.err.count("the nearest is `seed`") == 100


def test_a_check_says_a_hundred_of_a_kind_and_that_there_are_more(sd_scripts: Path, tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('script = "train_network"\n' + "".join(f"sead{n} = 1\n" for n in range(500)), encoding="utf-8")
    ran = lora("config", "check", path, cwd=ROOT)
    assert ran.code == 1
    assert ran.out.count("has no flag `sead") == 100
    assert "there are more than 100 problems of this kind" in ran.out


# -- any file at all

PIECES = [
    *(
        "[",
        "]",
        "{",
        "}",
        '"',
        "'",
        ":",
        ",",
        "=",
        "\n",
        "\\",
        "\0",
        "#",
        " ",
        "- ",
        "&a ",
        "*a",
        "<<: ",
        "!!set ",
        "$A ",
    ),
    *("null", "true", "NaN", "1e999", "-1", "0x" + "f" * 5000, "9" * 5000, "[null]", "\\ud800", "\ud800", "[" * 200),
    *("1:1:1", "2001-01-01", "${A}", "%A%", "--seed ", "train_network.py", "datasets", "ss_datasets", '{"a": [null]}'),
]
ORIGINALS = {
    "a.json": json.dumps(KOHYA),
    "a.toml": 'model_train_type = "sd-lora"\n[a]\nseed = 1\nnetwork_args = ["a=1"]\n[[datasets]]\nx = 1\n',
    "b.yaml": TOOL_1,
    "a.yaml": TOOL_23,
    "a.sh": COMMAND,
    "a.safetensors": json.dumps(
        {
            "__metadata__": {
                "ss_network_args": '{"a": "1", "b": [1, null]}',
                "ss_optimizer": "torch.optim.adamw.AdamW(weight_decay=0.1,betas=(0.9, 0.99))",
                "ss_datasets": '[{"resolution": [512, 512], "subsets": [{"image_dir": "a", "num_repeats": 1}]}]',
                "ss_dataset_dirs": '{"10_cat": {"n_repeats": 10, "img_count": 2}}',
                "ss_seed": "1",
                "ss_base_model_version": "sdxl_base_v1-0",
            }
        }
    ),
    "c.toml": (ROOT / "configs" / "sdxl.toml").read_text(encoding="utf-8"),
}


def mutated(rng: random.Random, text: str) -> str:
    """The text with some pieces cut out, doubled, moved or put in."""
    for _ in range(rng.randint(1, 6)):
        start, end = sorted((rng.randrange(len(text) + 1), rng.randrange(len(text) + 1)))
        piece = rng.choice(["", text[start:end][:50], rng.choice(PIECES), rng.choice(PIECES)])
        text = text[:start] + piece + text[min(end, start + rng.randint(0, 12)) :]
    return text


def attempt(path: Path, known: Callable[[str], Schema]) -> None:
    """Take a file through import and check, or have it refused in one sentence."""
    try:
        if path.name == "c.toml":
            checks.file(path, known, environ={})
            show.as_toml(load(path, environ={}), origins=True)
        else:
            made = path.with_name("made.toml")
            made.write_text(importers.convert(importers.read(path), known).toml(), encoding="utf-8")
            checks.file(made, known, environ={})
    except LoraError:
        return


def write(path: Path, text: str) -> None:
    is_lora = path.suffix == ".safetensors"
    path.write_bytes(safetensors(text) if is_lora else text.encode("utf-8", "surrogatepass"))


@pytest.mark.parametrize("name", ORIGINALS)
def test_no_mutated_file_ends_in_a_traceback(real: dict[str, Schema], tmp_path: Path, name: str) -> None:
    def known(script: str) -> Schema:
        if script not in real:
            raise LoraError(f"no {script}")
        return real[script]

    for seed in range(300):
        rng = random.Random(seed)
        write(tmp_path / name, mutated(rng, ORIGINALS[name]))
        attempt(tmp_path / name, known)


@pytest.mark.parametrize("size", ["9" * 5000, "512,,512", ",", "512,"])
def test_a_resolution_that_is_no_number_is_a_problem(sd_scripts: Path, tmp_path: Path, size: str) -> None:
    path = tmp_path / "c.toml"
    path.write_text(f'script = "train_network"\ntrain_data_dir = "."\nresolution = "{size}"\n', encoding="utf-8")
    ran = lora("config", "check", path, "--set", f"datasets.{'9' * 5000}.x=1", cwd=ROOT)
    assert ran.code in (1, 3)
    assert "Traceback" not in ran.err
    ran = lora("config", "check", path, cwd=ROOT)
    assert "this dataset has no usable `resolution`" in ran.out
