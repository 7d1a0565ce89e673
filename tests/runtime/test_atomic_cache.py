from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest

from lora_training.runtime.patches import atomic_cache
from tests.runtime.conftest import CACHED, Trainer, copied_images, dataset, same

ATOMIC = {"atomic-cache": {}}


def cut_short(cache: Path) -> None:
    cache.write_bytes(cache.read_bytes()[:-100])


def damage(cache: Path) -> None:
    """It opens, and its numbers are not those that were written."""
    content = bytearray(cache.read_bytes())
    content[200] ^= 0xFF
    cache.write_bytes(content)


def shrink(cache: Path) -> None:
    """Replace the cache by that of a run at half the resolution, in the format of older versions."""
    import numpy as np

    held = np.load(cache)
    parts = {name.rpartition("_")[0]: held[name] for name in held.files}
    cache.unlink()
    image = cache.with_name(cache.name.rpartition("_")[0].rpartition("_")[0] + ".npz")
    np.savez(image, **parts | {"latents": parts["latents"][:, ::2, ::2]})


@pytest.fixture
def cached(train: Trainer, tmp_path: Path) -> Path:
    images = copied_images(tmp_path / "images")
    assert train(tmp_path / "first", "max_train_steps=1", *CACHED, datasets=dataset(images)).code == 0
    return images


@pytest.mark.upstream
@pytest.mark.parametrize("harm", [cut_short, damage, shrink])
def test_a_cache_that_cannot_be_used_fails_every_run_without_it_and_is_made_again_with_it(
    train: Trainer, tmp_path: Path, cached: Path, harm: Callable[[Path], None]
) -> None:
    harm(min(cached.glob("*.npz")))
    bad = [path for path in cached.glob("*.npz") if path.stat().st_size != max(cached.glob("*.npz")).stat().st_size]
    without = train(tmp_path / "without", *CACHED, datasets=dataset(cached))
    assert without.code == 1
    patched = train(tmp_path / "with", *CACHED, runtime=ATOMIC, datasets=dataset(cached))
    assert patched.code == 0, patched.log
    assert patched.log.count("cannot be used and is made again") == 1
    assert all(path.name in patched.log for path in bad)
    again = train(tmp_path / "again", *CACHED, runtime=ATOMIC, datasets=dataset(cached))
    assert again.code == 0, again.log
    assert "made again" not in again.log


@pytest.mark.upstream
def test_where_nothing_is_wrong_it_changes_nothing(train: Trainer, tmp_path: Path) -> None:
    weights = []
    for name, runtime in (("off", {}), ("on", ATOMIC)):
        images = copied_images(tmp_path / name / "images")
        done = train(tmp_path / name, *CACHED, runtime=runtime, datasets=dataset(images))
        assert done.code == 0, done.log
        weights.append(done.weights())
        assert not list(images.glob("*.partial"))
    assert same(*weights)


SCRIPT = """
import sys
import numpy
import torch
from pathlib import Path
from library import strategy_base, strategy_sdxl

class Broken:
    def __array__(self, *args, **kwargs):
        raise OSError("no space left on device")

class Half:
    "A tensor that breaks off while it is written."
    def float(self): return self
    def cpu(self): return self
    def numpy(self): return Broken()

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    latents = strategy_base.LatentsCachingStrategy(True, 1, False)
    try:
        latents.save_latents_to_disk(str(folder / "new.npz"), torch.zeros(4, 8, 8), [64, 64], [0, 0, 64, 64], Half())
    except OSError as exc:
        print("failed:", exc)
    text = strategy_sdxl.SdxlTextEncoderOutputsCachingStrategy(True, 1, False)
    for name in ("whole", "short", "nothing"):
        print(name, text.is_disk_cached_outputs_expected(str(folder / f"{name}.npz")))
"""


@pytest.mark.upstream
def test_a_write_that_fails_leaves_no_file_and_text_outputs_are_checked_too(train: Trainer, tmp_path: Path) -> None:
    import numpy as np

    parts = {name: np.ones(1000) for name in ("hidden_state1", "hidden_state2", "pool2")}
    for name in ("whole", "short"):
        np.savez(tmp_path / f"{name}.npz", **parts)
    cut_short(tmp_path / "short.npz")
    without = train.script(tmp_path, SCRIPT, str(tmp_path), runtime={"tiny-unet": {"block_out_channels": [32]}})
    assert without.code == 1
    assert (tmp_path / "new.npz").exists()
    (tmp_path / "new.npz").unlink()
    patched = train.script(tmp_path, SCRIPT, str(tmp_path), runtime=ATOMIC)
    assert patched.code == 0, patched.log
    assert "failed: no space left on device" in patched.log
    assert all(said in patched.log for said in ("whole True", "short False", "nothing False"))
    assert sorted(path.name for path in tmp_path.glob("*.npz*")) == ["whole.npz"]


def test_two_trainings_in_containers_write_the_same_file_at_once(tmp_path: Path) -> None:
    """Their processes have the same number, each in its own container."""
    written = []

    class Slow:
        def savez(self, file: BinaryIO, **arrays: bytes) -> None:
            file.write(arrays["part"][:3])
            if not written:
                written.append("the other")
                numpy.savez(str(tmp_path / "a.npz"), part=b"others")
            file.write(arrays["part"][3:])

    numpy = atomic_cache._AtomicNumpy(Slow())
    numpy.savez(str(tmp_path / "a.npz"), part=b"latent")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a.npz": b"latent"}
