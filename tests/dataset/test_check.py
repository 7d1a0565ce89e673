"""`lora data check`: planted faults found exactly, and buckets counted as upstream counts them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from lora_training import clip
from lora_training.config import document
from lora_training.dataset import tokens
from lora_training.preflight.job import Job
from tests.helpers import Ran, lora, write

if find_spec("torch") is None:
    pytest.skip("needs the training packages", allow_module_level=True)
np = pytest.importorskip("numpy")
Image = pytest.importorskip("PIL.Image")
TEXTS = [
    "a photo of a cat",
    "Hello, World!! it's 1girl, solo_focus, (best:1.2)",
    "größe 日本語 🙂  tabs\tand",
    "-- don't 1",
]
CODES = {
    "broken": {"broken.png"},
    "misnamed": {"b.png"},
    "tiny": {"thin.png"},
    "enlarged": {"small.png", "near.jpg", "thin.png"},
    "extreme": {"long.png", "thin.png"},
    "exif-rotated": {"turned.jpg"},
    "animated": {"moving.webp"},
    "alpha": {"clear.png"},
    "cmyk": {"print.jpg"},
    "deep": {"deep.png"},
    "duplicate": {"a.png", "same.png"},
    "near-duplicate": {"b.png", "near.jpg"},
    "caption-encoding": {"print.jpg"},
    "caption-empty": {"clear.png"},
    "caption-unread": {"turned.jpg"},
    "caption-missing": {"broken.png", "small.png"},
    "caption-blank": {"thin.png"},
    "caption-lines": {"same.png"},
    "caption-mark": {"near.jpg"},
    "tokens": {"moving.webp"},
    "caption-alone": {"c.png.txt"},
    "unread": {"old.gif", "mixed.Png", "inside", "film.mp4"},
    "trigger": {
        "clear.png",
        "moving.webp",
        "print.jpg",
        "turned.jpg",
        "same.png",
        "broken.png",
        "small.png",
        "thin.png",
    },
}


def picture(width: int, height: int, seed: int) -> Image.Image:
    numbers = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(numbers).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def planted(tmp_path_factory) -> Path:
    """A folder with one of each fault."""
    folder = tmp_path_factory.mktemp("planted")
    sizes = {"a": (600, 400), "b": (512, 512), "c": (400, 600), "long": (1700, 500), "small": (100, 100)}
    for seed, (name, size) in enumerate({**sizes, "thin": (50, 170)}.items()):
        picture(*size, seed).save(folder / f"{name}.png")
    shutil.copy(folder / "a.png", folder / "same.png")
    picture(512, 512, 1).save(folder / "b.png", "JPEG")
    picture(512, 512, 1).resize((300, 300)).save(folder / "near.jpg", quality=60)
    (folder / "broken.png").write_bytes((folder / "c.png").read_bytes()[:300])
    turned = Image.Exif()
    turned[0x112] = 6
    picture(500, 400, 20).save(folder / "turned.jpg", exif=turned)
    picture(500, 500, 21).convert("CMYK").save(folder / "print.jpg")
    clear = picture(500, 500, 22).convert("RGBA")
    clear.putalpha(100)
    clear.save(folder / "clear.png")
    picture(500, 500, 23).save(folder / "moving.webp", save_all=True, append_images=[picture(500, 500, 24)])
    (folder / "inside").mkdir()
    for name in ("old.gif", "mixed.Png", ".hidden.gif", "inside/more.png"):
        picture(500, 500, 25).save(folder / name)
    Image.fromarray(np.arange(0, 62500).reshape(250, 250).astype("u2")).resize((500, 500)).save(folder / "deep.png")
    write(folder, {f"{name}.txt": f"Cat, tag_{name}, red" for name in ("a", "b", "c", "long", "deep", "c.png")})
    write(folder, {"film.mp4": "", "notes.md": ""})
    texts = {"clear.txt": "", "turned.caption": "x", "thin.txt": " \n", "same.txt": "a\nb\n", "near.txt": "\ufeffcat"}
    write(folder, {**texts, "moving.txt": " ".join(["word"] * 90)})
    (folder / "print.txt").write_bytes(b"caf\xe9")
    return folder


def check(*words: str | Path, cwd: Path) -> Ran:
    return lora("data", "check", *words, cwd=cwd)


def test_each_planted_fault_is_found_and_no_other(planted, tmp_path):
    ran = check(planted, "--resolution", "512", "--trigger", "cat", "--json", cwd=tmp_path)
    assert ran.code == 1, ran.err
    found: dict[str, set[str]] = {}
    for finding in json.loads(ran.out)["findings"]:
        found.setdefault(finding["code"], set()).update(Path(path).name for path in finding["images"])
    assert found == CODES
    errors = {each["code"] for each in json.loads(ran.out)["findings"] if each["severity"] == "error"}
    assert errors == {"broken", "caption-encoding", "caption-empty"}
    assert check(planted, "--resolution", "512", "--trigger", "cat", "--json", cwd=tmp_path).out == ran.out


def test_the_report_is_one_file_with_thumbnails_crops_and_duplicates(planted, tmp_path):
    ran = check(planted, "--resolution", "512", "--trigger", "cat", "--report", "report.html", cwd=tmp_path)
    assert "report: report.html" in ran.out
    assert "the trigger word cat: 8\n" in ran.out
    assert "512x512, batches of 1: 14 images (1 broken), 13 an epoch with repeats\n" in ran.out
    assert "files that upstream does not read (1 .mp4, 1 folder, 1 .Png, 1 .gif)" in ran.out
    assert "    and 3 more, which --json lists\n" in ran.out
    text = (tmp_path / "report.html").read_text()
    assert not re.search(r'(?:src|href)="(?!data:)|<script|@import|url\(', text)
    assert text.count("data:image/jpeg;base64,") > len(list(planted.glob("*.[pjw][npe][gb]*")))
    assert "images that look the same: 2" in text
    assert "tag_a" in text
    # upstream resizes 600x400 to 640x427 and keeps the middle 640x384
    assert '<i style="inset:4.92% 0.00% 5.15% 0.00%"></i></div><br>a.png' in text
    assert list(tmp_path.iterdir()) == [tmp_path / "report.html"]


def test_names_of_files_are_no_html(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    picture(64, 64, 0).save(folder / "<b onclick=x>.png")
    check(folder, "--resolution", "64", "--report", "out.html", cwd=tmp_path)
    assert "<b " not in (tmp_path / "out.html").read_text()


def test_a_folder_without_images_is_an_error(tmp_path):
    (tmp_path / "empty").mkdir()
    ran = check("empty", cwd=tmp_path)
    assert ran.code == 1
    assert f"error: data sets without images that upstream reads: 1\n    {tmp_path / 'empty'}\n" in ran.out


def test_pictures_in_a_folder_inside_are_named_and_a_missing_folder_is_said_to_be_missing(tmp_path):
    (tmp_path / "data" / "cats").mkdir(parents=True)
    picture(64, 64, 0).save(tmp_path / "data" / "cats" / "a.png")
    ran = check("data", "--report", "report.html", cwd=tmp_path)
    assert f"    {tmp_path / 'data' / 'cats'} (a folder with 1 of them)\n" in ran.out
    assert str(tmp_path / "data" / "cats") in (tmp_path / "report.html").read_text()
    subset = {"image_dir": "gone"}
    base = {"script": "train_network", "output": {"output_dir": "o"}, "datasets": [{"subsets": [subset]}]}
    (tmp_path / "my.toml").write_text(document.toml(base))
    assert f"    {tmp_path / 'gone'} (not there)\n" in check("my.toml", cwd=tmp_path).out


def test_of_several_data_sets_those_without_images_are_named_and_wrong_places_are_one_sentence(planted, tmp_path):
    sets = [{"subsets": [{"image_dir": str(path)}]} for path in (planted, tmp_path, tmp_path / "nowhere")]
    write(tmp_path, {"my.toml": document.toml({"script": "train_network", "datasets": sets}), "empty.toml": ""})
    findings = json.loads(check("my.toml", "--set", "resolution=512,512", "--json", cwd=tmp_path).out)["findings"]
    (found,) = (each for each in findings if each["code"] == "no-images")
    assert found["severity"] == "warning"
    assert found["images"] == {str(tmp_path): "", str(tmp_path / "nowhere"): "not there"}
    write(tmp_path, {"damaged.toml": "script"})
    for words, code, said in (
        (("nowhere",), 2, "'nowhere' does not exist"),
        (("damaged.toml",), 3, "damaged.toml:1:7: not valid TOML"),
        (("empty.toml",), 3, "error: `script` is missing"),
        ((planted, "--script", "sdxl_train_netwrk"), 3, "did you mean `sdxl_train_network`?"),
        ((planted, "--caption-extension", "txt"), 2, "it begins with a dot"),
        ((planted, "--set", "resolution=64"), 2, "--set is for a CONFIG"),
        (("my.toml", "--resolution", "64"), 2, "--caption-extension are for a FOLDER"),
        ((planted, "--report", "empty.toml/x.html"), 1, "empty.toml/x.html: Not a directory"),
    ):
        ran = check(*words, cwd=tmp_path)
        assert (ran.code, said in ran.err) == (code, True), ran.err


@pytest.mark.upstream
def test_buckets_and_tokens_are_counted_as_in_upstream_s_own_log_and_tokenizer(sd_scripts, tmp_path):
    random = np.random.default_rng(7)
    for folder, number in (("many", 40), ("few", 7)):
        (tmp_path / folder).mkdir()
        for index in range(number):
            picture(*map(int, random.integers(70, 900, 2)), index).save(tmp_path / folder / f"{index:02}.png")
    subset = {"image_dir": str(tmp_path / "many"), "num_repeats": 3, "caption_extension": ".txt"}
    few = {"image_dir": str(tmp_path / "few"), "num_repeats": 2, "class_tokens": "cat"}
    sizes = {"resolution": [512, 384], "batch_size": 4, "enable_bucket": True}
    limits = {"min_bucket_reso": 200, "max_bucket_reso": 700}
    documents = [
        {"datasets": [{**sizes, "subsets": [subset]}]},
        {"datasets": [{**sizes, **limits, "subsets": [subset, {**few, "is_reg": True}]}]},
        {"datasets": [{**sizes, "bucket_no_upscale": True, "bucket_reso_steps": 32, "subsets": [subset]}]},
        {"datasets": [{**sizes, "skip_image_resolution": [400, 400], "subsets": [subset]}]},
        {"datasets": [{**sizes, "subsets": [subset]}, {**sizes, "resolution": 256, "subsets": [few]}]},
    ]
    clip.write(tmp_path / "clip")
    argv = [sys.executable, str(Path(__file__).with_name("upstream_data.py")), str(tmp_path / "clip")]
    asked = json.dumps({"documents": documents, "texts": TEXTS})
    done = subprocess.run(argv, cwd=sd_scripts, input=asked, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    answer = json.loads(done.stdout)
    count = tokens.counter(Job("train_network", {}, None, tmp_path / "a", tmp_path), tmp_path)
    assert [count(text) for text in TEXTS] == answer["tokens"]
    for named, (buckets, batches) in zip(documents, answer["buckets"], strict=True):
        base = {"script": "train_network", "output": {"output_dir": "o"}}
        (tmp_path / "my.toml").write_text(document.toml({**base, **named}))
        found = json.loads(check("my.toml", "--json", cwd=tmp_path).out)["datasets"]
        ours = [[*each["size"], each["count"]] for dataset in found for each in dataset["buckets"]]
        assert (ours, sum(dataset["batches"] for dataset in found)) == (buckets, batches), named
