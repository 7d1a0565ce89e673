"""Damaged files lead to problems with their places, or to one LoraError, never to a traceback."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lora_training.config import checks, document, importers, schema, show
from lora_training.config.loading import load
from lora_training.errors import LoraError
from tests.config.foreign import COMMAND, KOHYA, TOOL_1, TOOL_23, safetensors
from tests.helpers import ROOT

PRESETS = [path.read_bytes() for path in sorted((ROOT / "configs").glob("*.toml"))]
SNIPPETS = [
    *(
        b"=",
        b"[",
        b"]",
        b"[[",
        b"]]",
        b'"',
        b"'''",
        b'"""',
        b"\\",
        b"\n",
        b"\0",
        b"\xff",
        b"# ",
        b"{",
        b"}",
        b".",
        b",",
    ),
    *(b"true", b"1e999", b"-1", b"nan", b"[[datasets]]\n", b"[datasets]\n", b"[launch]\n", b"[run]\n", b"\xef\xbb\xbf"),
    *(
        b"1979-05-27",
        b"${X}",
        b"~",
        b"network_args = 1\n",
        b"a.b.c = 1\n",
        b"script = 1\n",
        b"[general]\n",
        b"subsets = 1\n",
    ),
]
QUIET = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))


@st.composite
def mutated(draw, originals):
    """One of `originals` with some pieces cut out, doubled, moved, or put in."""
    data = draw(st.sampled_from(originals))
    for _ in range(draw(st.integers(1, 6))):
        start, end = sorted((draw(st.integers(0, len(data))), draw(st.integers(0, len(data)))))
        piece = draw(st.sampled_from([b"", data[start:end], *SNIPPETS]) | st.binary(max_size=4))
        near = min(end, start + draw(st.integers(0, 12)))
        data = data[:start] + piece + data[near:]
        if len(data) > 20_000:
            break
    return data


def ask_everything(path, read, tree):
    """Check a file, and show it in every form."""
    for problem in checks.file(path, read, environ={"LORA_CACHE": str(path.parent)}, machine=checks.Machine(("a",))):
        assert problem.message
        assert problem.place
    try:
        loaded = load(path, environ={})
        show.as_toml(loaded, origins=True)
        known = read(loaded.script)
        show.as_shell(loaded, known, tree)
        json.dumps(show.as_json(loaded, known, origins=True), default=str)
    except LoraError:
        pass


@QUIET
@given(data=mutated(PRESETS))
@pytest.mark.upstream
def test_a_mutated_configuration_never_ends_in_a_traceback(data, real, sd_scripts, tmp_path):
    path = tmp_path / "c.toml"
    path.write_bytes(data)
    ask_everything(path, lambda name: schema.read(sd_scripts, name, cache=tmp_path), sd_scripts)


NAMES = st.sampled_from(
    [
        *("script", "datasets", "general", "launch", "run", "runtime", "subsets", "resolution", "image_dir", "seed"),
        *("network_args", "optimizer_args", "learning_rate", "optimizer_type", "num_processes", "resume", "assets"),
        *("gpu_ids", "text_encoder_lr", "lr_warmup_steps", "caption_extension", "custom_attributes", "output_dir"),
        *("enable_bucket", "bucket_reso_steps", "min_bucket_reso", "metadata_file", "train_data_dir", "loss_type"),
    ]
) | st.text(max_size=3)
LEAVES = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.text(st.characters(codec="utf-8"), max_size=5),
    st.sampled_from(["train_network", "flux_train_network", "huber", "smoke", "${A}", "~/x", "./y", "Prodigy", "1,2"]),
    st.dates(),
)
SHAPES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4), max_leaves=20
)


@QUIET
@given(
    data=st.dictionaries(NAMES, SHAPES, max_size=6),
    script=st.sampled_from(["sdxl_train_network", "flux_train_network"]),
)
@pytest.mark.upstream
def test_a_configuration_of_any_shape_never_ends_in_a_traceback(data, script, real, sd_scripts, tmp_path):
    path = tmp_path / "c.toml"
    path.write_text(document.toml({**data, "script": data.get("script", script)}), encoding="utf-8")
    ask_everything(path, lambda name: schema.read(sd_scripts, name, cache=tmp_path), sd_scripts)


FOREIGN = [
    ("a.json", json.dumps(KOHYA).encode()),
    ("a.yaml", TOOL_1.encode()),
    ("a.yaml", TOOL_23.encode()),
    ("a.sh", COMMAND.encode()),
    ("a.toml", b'model_train_type = "sd-lora"\n[a]\nseed = 1\nnetwork_args = ["a=1"]\n[[datasets]]\nx = 1\n'),
    ("a.safetensors", safetensors({"ss_network_args": '{"a": "1"}', "ss_optimizer": "A(b=1)", "ss_datasets": "[{}]"})),
]


@QUIET
@given(data=st.data())
@pytest.mark.upstream
def test_a_mutated_file_of_another_trainer_never_ends_in_a_traceback(data, real, tmp_path):
    name, original = data.draw(st.sampled_from(FOREIGN))
    path = tmp_path / name
    path.write_bytes(data.draw(mutated([original])))
    try:
        made = importers.convert(importers.read(path), lambda script: schema_of(real, script))
    except LoraError:
        return
    target = tmp_path / "made.toml"
    target.write_text(made.toml(), encoding="utf-8")
    checks.file(target, lambda script: schema_of(real, script), environ={})


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@QUIET
@given(changes=st.dictionaries(st.sampled_from([k for k in KOHYA if k != "LoRA_type"]), VALUES, max_size=8))
@pytest.mark.upstream
def test_a_gui_file_with_values_of_any_type_is_reported_whole(changes, real, tmp_path):
    path = tmp_path / "gui.json"
    content = {**KOHYA, **changes}
    path.write_text(json.dumps(content), encoding="utf-8")
    made = importers.convert(importers.read(path), real.__getitem__)
    reported = {row.key.split(" ")[0] for row in made.rows}
    assert reported >= set(content) - {"additional_parameters"}
    made.toml()


def schema_of(real, script):
    if script not in real:
        raise LoraError(f"no {script}")
    return real[script]


BLOCK = re.compile(r"^( *)```toml\n(.*?)^ *```", re.MULTILINE | re.DOTALL)


@pytest.mark.upstream
def test_every_toml_block_of_upstream_s_documentation_can_be_checked_and_imported(real, sd_scripts, tmp_path):
    documents = [*sd_scripts.glob("docs/*.md"), *sd_scripts.glob("*.md")]
    blocks = [found[2] for path in documents for found in BLOCK.finditer(path.read_text(encoding="utf-8"))]
    assert len(blocks) > 20
    for text in blocks:
        path = tmp_path / "block.toml"
        path.write_text(text, encoding="utf-8")
        ask_everything(path, lambda script: schema_of(real, script), sd_scripts)
        try:
            made = importers.convert(importers.read(path), real.__getitem__)
        except LoraError:
            continue
        known_to_upstream = {row.key for row in made.rows if row.outcome == "lost"}
        assert len(known_to_upstream) <= len(made.rows)
        target = tmp_path / "made.toml"
        target.write_text(made.toml(), encoding="utf-8")
        assert checks.file(target, lambda script: schema_of(real, script), environ={}) is not None


COMMAND_BLOCK = re.compile(r"^ *```\w*\n(.*?)^ *```", re.MULTILINE | re.DOTALL)


@pytest.mark.upstream
def test_every_training_command_of_upstream_s_documentation_can_be_imported(real, sd_scripts, tmp_path):
    texts = [path.read_text(encoding="utf-8") for path in sd_scripts.glob("docs/*.md")]
    blocks = [found[1] for text in texts for found in COMMAND_BLOCK.finditer(text) if "train_network.py" in found[1]]
    assert len(blocks) > 15
    lost = set()
    for text in blocks:
        path = tmp_path / "block.sh"
        path.write_text(text, encoding="utf-8")
        made = importers.convert(importers.read(path), real.__getitem__)
        lost |= {row.key for row in made.rows if row.outcome == "lost"}
    # upstream's documentation of SDXL names two flags that none of its parsers has
    assert lost == {"--text_encoder_lr1", "--text_encoder_lr2"}
