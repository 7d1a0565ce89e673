"""`lora data tag` and `lora data caption`, with upstream's own scripts and tiny models of the real layout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.dataset import tiny_taggers
from tests.helpers import Ran, lora, write
from tests.hub import Hub, serving

if find_spec("torch") is None or find_spec("onnxruntime") is None:
    pytest.skip("needs the training packages and those of the tagger", allow_module_level=True)
Image = pytest.importorskip("PIL.Image")
pytestmark = [pytest.mark.upstream, pytest.mark.usefixtures("sd_scripts")]
COLOURS = {"red": (255, 0, 0), "blue": (0, 0, 255), "both": (255, 0, 255), "none": (0, 0, 0)}
# kills `lora` in a write, after which nothing of Python runs
KILLS = """
import os, signal
from wrapt import register_post_import_hook


def hook(module):
    write, left = module.files.write, [int(os.environ["KILL_AFTER"])]

    def killing(path, text):
        left[0] -= path.suffix == ".txt"
        if left[0] < 0:
            path.with_name(f".{path.name}.1.partial").write_text(text[:3])
            os.kill(os.getpid(), signal.SIGKILL)
        write(path, text)

    module.files = type("files", (), {"write": staticmethod(killing), "touch": module.files.touch})


register_post_import_hook(hook, "lora_training.dataset.undo")
"""


@pytest.fixture(scope="module")
def tagger(tmp_path_factory) -> Path:
    tiny_taggers.tagger(folder := tmp_path_factory.mktemp("models") / "tagger")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def data(*words: str | Path, cwd: Path, **more: str) -> Ran:
    return lora("data", *words, cwd=cwd, env={**os.environ, **more})


def test_a_tagger_that_is_killed_goes_on_and_undo_brings_back_every_byte(tagger, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(200):
        colour = list(COLOURS.values())[number % 4]
        Image.new("RGB", (32, 32), colour).save(folder / f"{number:03}.png")
    (folder / "broken.png").write_bytes((folder / "000.png").read_bytes()[:40])
    write(folder, {"004.txt": "mine, without a line end", "a note.md": "hands off"})
    (folder / "005.txt").write_bytes(b"caf\xe9\r\n")
    before = contents(folder)
    write(tmp_path / "kills", {"sitecustomize.py": KILLS})
    words = ("tag", "images", "--model", tagger, "--trigger", "ohwx", "--blacklist", "blue_thing")
    killed = data(*words, cwd=tmp_path, PYTHONPATH=str(tmp_path / "kills"), KILL_AFTER="70")
    assert (killed.code, len(list(folder.glob("*.txt"))), len(list(folder.glob("*.partial")))) == (-9, 72, 1)
    ran = data(*words, "--json", cwd=tmp_path)
    assert ran.code == 6
    found = json.loads(ran.out)
    assert (len(found["written"]), found["skipped"]) == (128, 72)
    assert [Path(path).name for path in found["broken"]] == ["broken.png"]
    now = contents(folder)
    assert {name: now[name] for name in before} == before
    assert len(now) == len(before) + 198
    expected = [b"ohwx, red_thing\n", b"ohwx\n", b"ohwx, red_thing\n", b"ohwx\n"]
    assert [now[f"{number:03}.txt"] for number in range(8, 12)] == expected
    again = data(*words, "--json", cwd=tmp_path)
    assert (json.loads(again.out)["written"], contents(folder)) == ([], now)
    assert "198 captions are as they were" in data("tag", "images", "--undo", cwd=tmp_path).out
    assert contents(folder) == before
    ran = data("tag", "images", "--undo", cwd=tmp_path)
    assert (ran.code, "there is nothing to undo" in ran.err) == (3, True)


def test_blip_captions_images_names_a_broken_one_and_takes_upstream_s_arguments(sd_scripts, tmp_path):
    (tmp_path / "images").mkdir()
    for name, colour in COLOURS.items():
        Image.new("RGB", (32, 32), colour).save(tmp_path / "images" / f"{name}.png")
    (tmp_path / "images" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    tiny_taggers.blip(tmp_path / "blip")
    found = {"HF_HUB_CACHE": str(tmp_path / "blip" / "hub"), "HF_HUB_OFFLINE": "1"}
    found |= {"PYTHONPATH": str(tmp_path / "blip" / "small")}
    argv = [sys.executable, tiny_taggers.__file__, str(sd_scripts / "finetune"), str(tmp_path / "tiny.pth")]
    subprocess.run(argv, env={**os.environ, **found}, check=True, capture_output=True)
    words = ("caption", "images", "--model", "tiny.pth", "--trigger", "ohwx", "--caption-extension", ".cap")
    ran = data(*words, "--", "--max_length", "12", "--batch_size", "3", cwd=tmp_path, **found)
    assert (ran.code, "broken.png does not decode" in ran.err) == (6, True), ran.err
    captions = {path.name: path.read_text() for path in (tmp_path / "images").glob("*.cap")}
    assert sorted(captions) == ["blue.cap", "both.cap", "none.cap", "red.cap"]
    assert all(text.startswith("ohwx, word") and len(text.split()) > 3 for text in captions.values())


def test_what_is_wrong_is_said_before_anything_is_done(tagger, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "images").mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "images" / "a.png")
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "model.onnx").write_bytes(b"x")
    for words, code, said in (
        (("tag", "empty", "--model", tagger), 3, "there are no images in empty"),
        (("tag", "images", "--model", "half"), 4, "half lacks selected_tags.csv"),
        (("tag", "images", "--model", tagger, "--", "--trehsh", "1"), 2, "did you mean `--thresh`?"),
        (("caption", "images", "--model", "none.pth"), 4, "none.pth does not exist"),
        (("caption", "images", "--model", "http://localhost:1/a b.pth"), 4, "cannot bring http://localhost:1/a b.pth"),
        (("tag", ".", "--model", tagger), 3, "hint: `--recursive` takes those in its folders"),
        (("tag", "images", "--caption-extension", "txt"), 2, "it begins with a dot"),
        (("tag", "images", "--overwrite", "--caption-extension", ".png"), 2, "it is that of pictures"),
    ):
        ran = data(*words, cwd=tmp_path)
        assert (ran.code, said in ran.err) == (code, True), ran.err
    assert [path.name for path in (tmp_path / "images").iterdir()] == ["a.png"]


def test_a_model_is_brought_once_and_repaired_and_captions_are_overwritten_only_when_told(tagger, tmp_path):
    (tmp_path / "images").mkdir()
    for name, colour in COLOURS.items():
        Image.new("RGB", (32, 32), colour).save(tmp_path / "images" / f"{name}.png")
    write(tmp_path / "images", {"red.txt": "an old one", "blue.txt": "another"})
    files = {path.name: path.read_bytes() for path in tagger.iterdir()}
    half = tmp_path / "cache" / "taggers" / "some_tagger"
    half.mkdir(parents=True)
    (half / "model.onnx").write_bytes(files["model.onnx"][:50])
    with serving(Hub({"some/tagger": files})) as hub:
        around = hub.env | {"LORA_CACHE": str(tmp_path / "cache"), "HF_HOME": str(tmp_path / "hf")}
        ran = data("tag", "images", "--model", "some/tagger", cwd=tmp_path, **around)
    assert (ran.code, ran.out) == (0, "2 captions written, 2 images had one\n"), ran.err
    assert (half / "model.onnx").read_bytes() == files["model.onnx"]
    asked = len(hub.asked)
    assert asked > 1
    more = ("--overwrite", "--", "--use_rating_tags", "--thresh", "0.9")
    ran = data("tag", "images", "--model", "some/tagger", *more, cwd=tmp_path, **around)
    assert (ran.code, ran.out, len(hub.asked)) == (0, "4 captions written, 0 images had one\n", asked), ran.err
    assert (tmp_path / "images" / "both.txt").read_text() == "general, red_thing, blue_thing\n"
    ran = data("tag", "images", "--model", "some/other", "--overwrite", cwd=tmp_path, **around)
    assert (ran.code, "cannot bring some/other from the hub" in ran.err) == (4, True)
    (tmp_path / "images" / "blue.txt").write_text("edited since")
    undone = data("caption", "images", "--undo", cwd=tmp_path)
    assert "3 captions are as they were" in undone.out
    assert "blue.txt was edited since, and is left as it is" in undone.err
    texts = {path.stem: path.read_text() for path in (tmp_path / "images").glob("*.txt")}
    assert texts == {"red": "an old one", "blue": "edited since", "both": "red_thing, blue_thing\n", "none": "\n"}
