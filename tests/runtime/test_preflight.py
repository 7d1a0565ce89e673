"""The checks before a start against what upstream itself lists, opens and refuses."""

from __future__ import annotations

import io
import json
import random
import re
from pathlib import Path

import pytest

from lora_training import families, workspace
from lora_training.config import schema as schemas
from lora_training.preflight import buckets, images, listing, weights
from lora_training.preflight.job import Job
from tests.helpers import ROOT, lora
from tests.runtime.conftest import CACHED, SMOKE, Trainer, copied_images, dataset

UPSTREAM = """
import argparse, json, sys
from library import config_util, dataset, utils

def listed(config):
    # what is listed is of interest here, not what is in the files
    dataset.BaseDataset.get_image_size = lambda self, path: (64, 64)
    arguments = argparse.Namespace(resolution=(512, 512), train_batch_size=1, dataset_repeats=1, masked_loss=True)
    generator = config_util.BlueprintGenerator(config_util.ConfigSanitizer(True, True, True, True))
    blueprint = generator.generate(config, arguments)
    group, _ = config_util.generate_dataset_group_by_blueprint(blueprint.dataset_group)
    infos = [list(data.image_data.values()) for data in group.datasets]
    return [[[info.absolute_path for info in each], [info.cond_img_path for info in each]] for each in infos]

def loads(path):
    try:
        for alpha in (False, True):
            utils.load_image(path, alpha)
    except Exception:
        return False
    return True

def bucket(width, height, side, steps, limits):
    manager = dataset.BucketManager(True, (side, side), *limits, steps)
    try:
        return manager.select_bucket(width, height)[0]
    except ZeroDivisionError:
        return None

if __name__ == "__main__":
    asked = json.load(open(sys.argv[1]))
    answer = {
        "listed": listed(asked["config"]),
        "loads": {path: loads(path) for path in asked["images"]},
        # the limits, with which a dataset makes its buckets, and without them
        "buckets": [[bucket(*sizes, limits) for sizes in asked["sizes"]] for limits in ((16, 4096), (None, None))],
    }
    json.dump(answer, open(sys.argv[1] + ".answer", "w"))
"""
ENDINGS = (".png", ".PNG", ".Png", ".jpg", ".JPEG", ".webp", ".bmp", ".gif", ".avif", ".jxl", ".txt", ".npz", "")
STEMS = ("a", "b b", "[c]", "d*", ".e", "ünï", "f.g", "h_10_10_5_5", "-i", "j%20")


def grow(folder: Path, luck: random.Random) -> None:
    """A folder with any names in it, some of them those of folders and of links to nowhere."""
    folder.mkdir(parents=True)
    for stem in STEMS:
        for ending in luck.sample(ENDINGS, 4):
            path = folder / f"{stem}{ending}"
            kind = luck.random()
            if ending == ".txt":
                path.write_text("a caption")
            elif kind < 0.1:
                path.mkdir()
            elif kind < 0.2:
                path.symlink_to("nowhere")
            else:
                path.write_bytes(b"x")


def datasets(folder: Path, luck: random.Random) -> dict[str, object]:
    """One of each kind that upstream has: folders, metadata files, and pairs of images."""
    for name in ("one", "two", "in", "beside"):
        grow(folder / name, luck)
    kept = [path for path in (folder / "in").iterdir() if path.suffix in (".png", ".jpg")]
    for path in [*(folder / "in").iterdir(), *(folder / "beside").iterdir()]:
        if path not in kept:
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    for path in kept:
        (folder / "beside" / f"{path.stem}.webp").write_bytes(b"x")
    names = [path.name for path in (folder / "one").iterdir()] + [*STEMS, "gone.png"]
    metadata = {name: {"caption": ""} for name in names} | {str(folder / "two" / "[c]"): {"caption": ""}}
    (folder / "meta.json").write_text(json.dumps(metadata))
    one, two = {"image_dir": str(folder / "one")}, {"image_dir": str(folder / "two"), "num_repeats": 3}
    listed = {"metadata_file": str(folder / "meta.json"), "image_dir": str(folder / "one")}
    paired = {"image_dir": str(folder / "in"), "conditioning_data_dir": str(folder / "beside")}
    tables = ([one, two, one, {"image_dir": str(folder / "none")}], [listed], [paired])
    return {"datasets": [{"batch_size": 1, "subsets": list(subsets)} for subsets in tables]}


def damaged(folder: Path, luck: random.Random) -> list[str]:
    """Images of every format, whole, cut short, and with a byte changed."""
    from PIL import Image

    folder.mkdir()
    forms = {"a.png": {}, "b.jpg": {}, "c.webp": {}, "d.bmp": {}, "e.jpg": {"progressive": True}}
    paths = []
    for mode in ("RGB", "L", "RGBA", "CMYK", "I;16"):
        for name, options in forms.items():
            whole, form = io.BytesIO(), Image.registered_extensions()[name[1:]]
            try:
                Image.effect_noise((72, 56), 60).convert(mode).save(whole, form, **options)
            except OSError:
                continue  # not every format has every mode
            for number in range(9):
                content = bytearray(whole.getvalue())
                if number % 2:
                    del content[luck.randrange(len(content)) :]
                elif number:
                    content[luck.randrange(len(content))] ^= luck.randrange(1, 256)
                path = folder / f"{mode.replace(';', '')} {number} {name}"
                path.write_bytes(content)
                paths.append(str(path))
    return paths


@pytest.mark.upstream
def test_what_is_listed_and_what_decodes_is_what_upstream_says(train: Trainer, tmp_path: Path) -> None:
    seed = random.randrange(10**6)
    luck = random.Random(seed)
    config, paths = datasets(tmp_path / "data", luck), damaged(tmp_path / "images", luck)
    asked = tmp_path / "asked.json"
    steps = (8, 16, 32, 64)
    sizes = [
        (luck.randrange(1, 3000), luck.choice((9, 70, 300, 3000)), luck.choice((64, 512, 1024)), luck.choice(steps))
        for _ in range(3000)
    ]
    asked.write_text(json.dumps({"config": config, "images": paths, "sizes": sizes}))
    done = train.script(tmp_path, UPSTREAM, str(asked), runtime={})
    assert done.code == 0, done.log
    answer = json.loads(Path(f"{asked}.answer").read_text())

    work = Job("train_network", {}, config, tmp_path / "out" / "it.safetensors", tmp_path)
    found = listing.subsets(work)
    ours = [[*found[0].images, *found[1].images], list(found[3].images), list(found[4].images)]
    assert [sorted(each) for each in ours] == [sorted(images) for images, _ in answer["listed"]], seed
    assert sorted(found[4].extra) == sorted(answer["listed"][2][1]), seed
    verdicts = {path: images.decode(path) for path in paths}
    assert len({path for path, why in verdicts.items() if why}) > 50
    assert {path: why is None for path, why in verdicts.items()} == answer["loads"], (seed, verdicts)
    made = [buckets.bucket(width, height, side**2, step) for width, height, side, step in sizes]
    usable = [list(each) if all(each) else None for each in made]
    assert len([each for each in usable if each]) > 500
    for theirs in answer["buckets"]:
        assert usable == [each if each and all(each) else None for each in theirs], seed


@pytest.mark.upstream
def test_names_that_are_upstreams_are_still_upstreams(sd_scripts: Path) -> None:
    texts = [path.read_text(encoding="utf-8") for path in (sd_scripts / "library").glob("strategy_*.py")]
    suffixes = {found for text in texts for found in re.findall(r'NPZ_SUFFIX = "(.+)"', text)}
    ends = {end for family in families.FAMILIES for end in (family.latents, family.text_outputs) if end}
    assert suffixes == {*ends, ".npz"}
    cache = workspace.Workspace(ROOT).cache
    read = [schemas.read(sd_scripts, script, cache=cache) for script in schemas.scripts(sd_scripts)]
    assert set(weights.KEYS) <= {key for schema in read for key in schema.keys}


@pytest.mark.upstream
def test_a_broken_cache_ends_upstream_and_is_set_aside_by_lora_train(train: Trainer, tmp_path: Path) -> None:
    folder = copied_images(tmp_path / "images")
    assert train(tmp_path / "first", "max_train_steps=1", *CACHED, datasets=dataset(folder)).code == 0
    broken = min(folder.glob("*.npz"))
    broken.write_bytes(broken.read_bytes()[:-100])
    assert train(tmp_path / "without", *CACHED, datasets=dataset(folder)).code != 0

    text = SMOKE.read_text(encoding="utf-8").replace("${LORA_CACHE}/smoke/images", str(folder))
    (tmp_path / "mine.toml").write_text(text, encoding="utf-8")
    argv = [
        "train",
        str(tmp_path / "mine.toml"),
        "--set",
        f"output_dir={tmp_path / 'out'}",
        "--set",
        "max_train_steps=2",
    ]
    argv += [word for setting in CACHED for word in ("--set", setting)]
    before = sorted(path.name for path in folder.iterdir())
    assert lora(*argv, "--dry-run", cwd=ROOT).code == 0
    assert sorted(path.name for path in folder.iterdir()) == before
    ran = lora(*argv, cwd=ROOT)
    assert ran.code == 0, ran.err
    assert ran.err.count(str(broken)) == 1
    assert sorted(path.name for path in folder.iterdir()) == sorted([*before, f"{broken.name}.broken"])
