"""`lora tool`: upstream's other scripts, run for real."""

from __future__ import annotations

import json
import os
import re
import select
import shlex
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from lora_training import safetensors_header
from lora_training.config.schema import reader, tools
from lora_training.supervise import result
from tests.helpers import ROOT, Ran, lora, write

if find_spec("torch") is None:
    pytest.skip("needs the training packages", allow_module_level=True)
np = pytest.importorskip("numpy")
Image = pytest.importorskip("PIL.Image")
save_file = pytest.importorskip("safetensors.numpy").save_file
pytestmark = [pytest.mark.upstream, pytest.mark.usefixtures("sd_scripts")]
RECORD = ROOT / ".lora" / "tools.jsonl"
HIDDEN = ["--cache_latents", "--cache_latents_to_disk", "--deepspeed"]  # by the scripts themselves
# scripts that need packages which are not installed for training
UNFIT = {"gen_img_diffusers", "detect_face_rotate"}


def made(path: Path, *, rank: int = 8, scale: float = 1.0, seed: int = 0) -> Path:
    """A LoRA of SD 1.x with two matrices."""
    numbers = np.random.default_rng(seed)
    tensors = {}
    for layer in ("to_q", "to_v"):
        name = f"lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_{layer}"
        tensors[f"{name}.lora_down.weight"] = numbers.normal(size=(rank, 32)).astype("f4")
        tensors[f"{name}.lora_up.weight"] = (scale * numbers.normal(size=(32, rank))).astype("f4")
        tensors[f"{name}.alpha"] = np.array(rank, dtype="f4")
    save_file(tensors, str(path), metadata={"ss_network_module": "networks.lora", "ss_network_dim": str(rank)})
    return path


def ranks(path: Path) -> set[int]:
    header = safetensors_header.read(path)
    return {entry["shape"][0] for name, entry in header.tensors.items() if name.endswith("lora_down.weight")}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def tool(folder: Path, *words: str | Path) -> Ran:
    return lora("tool", *words, cwd=folder)


def noted() -> dict[str, object]:
    return json.loads(RECORD.read_text().splitlines()[-1])


def test_a_lora_is_resized_checked_and_recorded(tmp_path):
    made(tmp_path / "whole.safetensors")
    (tmp_path / "small.safetensors").write_bytes(b"an older one")
    ran = tool(
        tmp_path, "resize_lora", "--model", "whole.safetensors", "--save_to=small.safetensors", "--new_rank", "2"
    )
    assert ran.code == 0, ran.err
    assert names(tmp_path) == ["small.safetensors", "whole.safetensors"]
    assert f"wrote {tmp_path / 'small.safetensors'}, in place of an earlier file\n" in ran.err
    assert ranks(tmp_path / "small.safetensors") == {2}
    result.check_values(tmp_path / "small.safetensors")
    assert noted()["tool"] == "networks/resize_lora"
    assert list(noted()["inputs"]) == [str(tmp_path / "whole.safetensors")]
    assert list(noted()["outputs"]) == [str(tmp_path / "small.safetensors")]
    assert noted()["error"] is None


def test_a_result_that_changes_nothing_is_an_error_and_is_not_kept(tmp_path):
    made(tmp_path / "zero.safetensors", scale=0)
    (tmp_path / "out.safetensors").write_bytes(b"an older one")
    ran = tool(
        tmp_path, "resize_lora", "--model", "zero.safetensors", "--save_to", "out.safetensors", "--new_rank", "2"
    )
    assert ran.code == 6
    assert f"error: {tmp_path / 'out.safetensors'} changes nothing: every up matrix is zero" in ran.err
    assert names(tmp_path) == ["out.safetensors", "zero.safetensors"]
    assert (tmp_path / "out.safetensors").read_bytes() == b"an older one"
    assert "changes nothing" in str(noted()["error"])


def test_two_loras_are_merged_and_show_metadata_reads_the_result(tmp_path):
    one, other = made(tmp_path / "one.safetensors"), made(tmp_path / "other.safetensors", seed=1)
    words = ["--models", one, other, "--ratios", "0.5", "0.5", "--save_precision", "float"]
    assert tool(tmp_path, "merge_lora", *words, "--save_to", "both.safetensors").code == 0
    assert ranks(tmp_path / "both.safetensors") == {8}
    ran = tool(tmp_path, "tools/show_metadata.py", "--model", "both.safetensors")
    assert (ran.code, '"modelspec.title": "both"' in ran.out + ran.err) == (0, True)


def test_ctrl_c_leaves_nothing_half_written(tmp_path):
    os.mkfifo(tmp_path / "slow.json")
    argv = [sys.executable, "-m", "lora_training", "tool", "clean_captions_and_tags", "slow.json", "out.json"]
    child = subprocess.Popen(argv, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    with (tmp_path / "slow.json").open("wb"):  # waits until the script opens it
        assert any(name.startswith(".out.json.") for name in names(tmp_path))
        child.send_signal(signal.SIGINT)
        _, said = child.communicate()
    assert (child.returncode, names(tmp_path)) == (130, ["slow.json"])
    assert "what was not complete is removed" in said


def test_a_script_that_fails_leaves_the_earlier_file_and_says_so(tmp_path):
    write(tmp_path, {"bad.json": "{", "out.json": "an older one"})
    ran = tool(tmp_path, "clean_captions_and_tags", "bad.json", "out.json")
    assert (ran.code, "error: clean_captions_and_tags ended with code 1\nhint: its messages" in ran.err) == (6, True)
    assert (names(tmp_path), (tmp_path / "out.json").read_text()) == (["bad.json", "out.json"], "an older one")
    assert "ended with code 1" in str(noted()["error"])


def test_images_that_do_not_decode_are_named_whether_a_script_leaves_them_out_or_ends_at_them(tmp_path):
    images = tmp_path / "images"
    write(images, {"a.caption": "cat", "broken.caption": "dog", "broken.png": "no image"})
    Image.new("RGB", (64, 64)).save(images / "a.png")
    ran = tool(tmp_path, "merge_captions_to_metadata", "images", "out.json")
    assert (ran.code, f"error: 1 image does not decode: {images / 'broken.png'}" in ran.err) == (6, True), ran.err
    captions = {
        Path(name).stem: entry["caption"] for name, entry in json.loads((tmp_path / "out.json").read_text()).items()
    }
    assert captions == {"a": "cat", "broken": "dog"}
    assert list(noted()["outputs"]) == [str(tmp_path / "out.json")]
    ran = tool(tmp_path, "resize_images_to_resolution", "images", "small", "--max_resolution", "32x32")
    assert (ran.code, "error: resize_images_to_resolution ended with code 1" in ran.err) == (6, True), ran.err
    assert f"1 image does not decode: {images / 'broken.png'}" in ran.err


def test_a_script_that_writes_several_files_from_one_name_keeps_all(tmp_path):
    made(tmp_path / "whole.safetensors", rank=12)
    words = ("--model", "whole.safetensors", "--unit", "4", "--save_to", "split.safetensors")
    assert tool(tmp_path, "extract_lora_from_dylora", *words).code == 0
    files = ["split-0004.safetensors", "split-0008.safetensors"]
    assert names(tmp_path) == [*files, "whole.safetensors"]
    assert [ranks(tmp_path / name) for name in files] == [{4}, {8}]
    assert list(noted()["outputs"]) == [str(tmp_path / name) for name in files]


def test_a_script_ends_when_lora_is_killed_and_the_shell_that_they_share_lives_on(tmp_path):
    os.mkfifo(tmp_path / "slow.json")
    words = f"{shlex.quote(sys.executable)} -m lora_training tool clean_captions_and_tags slow.json out.json"
    shell = subprocess.Popen(
        ["sh", "-c", f"{words} & echo $!; wait; read line; echo $line"],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    pid = int(shell.stdout.readline())
    with (tmp_path / "slow.json").open("wb") as writing:  # waits until the script opens it
        os.kill(pid, signal.SIGKILL)
        closed = select.poll()
        closed.register(writing, 0)
        assert closed.poll(60_000) == [(writing.fileno(), select.POLLERR)]
    assert shell.communicate("lives on\n")[0] == "lives on\n"


def test_runtime_patches_are_those_that_a_configuration_names(tmp_path):
    made(tmp_path / "a.safetensors")
    words = ("resize_lora", "--model", "a.safetensors", "--save_to", "b.safetensors", "--new_rank", "2")
    for table, code, said in (
        ("tiny-unet.block_out_channels = [32, 64]", 0, "runtime patch tiny-unet: on\n"),
        ("tiny-unet = true", 3, "tiny-unet"),
        ("tiny-unte = true", 5, "there is no runtime patch named 'tiny-unte'"),
    ):
        write(tmp_path, {"my.toml": f'script = "train_network"\n[runtime]\n{table}\n'})
        ran = lora("tool", "--config", "my.toml", *words, cwd=tmp_path)
        assert (ran.code, said in ran.err) == (code, True), ran.err
    assert noted()["runtime"] == {"tiny-unet": {"block_out_channels": [32, 64]}}


def test_wrong_arguments_are_refused_before_the_script_starts(tmp_path):
    made(tmp_path / "a.safetensors")
    (tmp_path / "empty").mkdir()
    wrong = {
        ("resize_lora", "--modle", "a.safetensors"): "unrecognized argument --modle\nhint: did you mean `--model`?",
        ("resize_lora", "--new_rank", "four"): "argument --new_rank: invalid int value: 'four'",
        ("resize_lora", "--save_precision", "fp8"): "argument --save_precision: invalid choice: 'fp8'",
        ("resize_lora", "--model", "b.safetensors"): "b.safetensors does not exist",
        (
            "resize_lora",
            "--model",
            "a.safetensors",
            "--save_to=./a.safetensors",
        ): "would write over .*/a.safetensors, which",
        ("resize_lora",): "resize_lora: no arguments were given\nhint: `lora tool resize_lora --help`",
        ("lst",): "did you mean `list`?",
        ("make_captions",): "the following arguments are required: train_data_dir",
        ("tag_images_by_wd14_tagger", "empty"): "there are no images in empty",
        ("tag_images_by_wd14_tagger", "nowhere"): "there are no images in nowhere",
        ("resize_lora", "--save_to", "no/where.safetensors"): "resize_lora cannot write to .*no: No such file",
        ("resize_lora", "--save_to", "a.safetensors/b.safetensors"): "cannot write to .*a.safetensors: Not a directory",
        ("resize_lroa",): "upstream has no tool `resize_lroa`\nhint: did you mean `resize_lora`?",
        ("sdxl_train_network",): "sdxl_train_network trains a LoRA\nhint: `lora train CONFIG` runs it",
    }
    for words, said in wrong.items():
        ran = tool(tmp_path, *words)
        assert ran.code == 2, ran
        assert re.search(said, ran.err), ran.err
        assert "Traceback" not in ran.err
    assert names(tmp_path) == ["a.safetensors", "empty"]


def test_a_package_that_a_script_lacks_is_named(tmp_path):
    ran = tool(tmp_path, "detect_face_rotate", "--src_dir", tmp_path.parent, "--dst_dir", "out")
    assert (ran.code, "detect_face_rotate needs anime_face_detector" in ran.err) == (4, True)


@pytest.fixture(scope="module")
def read(sd_scripts) -> dict[str, dict[str, Any]]:
    """Every script's own parser as we reach it, in one child process."""
    return reader.parse(sd_scripts, dict.fromkeys(tools.paths(sd_scripts).values(), ()))


def test_every_script_s_arguments_are_those_of_its_own_parser_or_what_it_lacks_is_listed(sd_scripts, read):
    listed = {each["path"]: each for each in json.loads(lora("tool", "list", "--json", cwd=ROOT).out)["tools"]}
    argv = [sys.executable, "-P", str(Path(__file__).with_name("every_script.py")), *listed]
    argv = [word for word in argv if word != "-P" or sys.version_info >= (3, 11)]
    done = subprocess.run(argv, cwd=sd_scripts, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    real = json.loads(done.stdout)
    # which a runtime patch replaces; `lora data caption` is tested with it
    assert real.pop("finetune/make_captions") == "ModuleNotFoundError: No module named 'fairscale'"
    assert {path for path in real if isinstance(real[path], str)} == {p for p, each in listed.items() if each["lacks"]}
    assert {each["name"] for each in listed.values() if each["lacks"]} == UNFIT
    assert all(each["purpose"] for each in listed.values())
    for path, found in real.items():
        assert isinstance(found, str) or read[path]["options"] == found, path


def test_each_script_answers_help_with_all_of_its_arguments(read):
    assert len(read) > 40
    for path, each in read.items():
        assert each["options"], path
        hidden = HIDDEN if path.endswith("train_leco") else []
        assert [option for option in each["options"] if option not in each["help"]] == hidden, path
        assert not any(ord(char) >= 0x3000 for char in each["help"]), path
    ran = lora("tool", "resize_lora", "--help", cwd=ROOT)
    assert (ran.code, "--new_rank NEW_RANK" in ran.out, "new rank" in ran.out) == (0, True, True)
