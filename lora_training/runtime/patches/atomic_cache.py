"""Write cached latents and text encoder outputs atomically, and regenerate those that cannot be used.

Upstream writes a cache file in place, so a killed training leaves an incomplete file, and every later run fails on it.
It also accepts latents that were cached at another resolution. Here a file is written under a temporary name and
renamed. A file that does not open, lacks a part or does not fit its image's bucket is reported and regenerated. With
`--skip_cache_check` nothing is checked, as in upstream.
"""

from __future__ import annotations

import functools
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from lora_training.runtime.model import NoSettings, RuntimePatch, Target, wrap_function

_BASE = "library.strategy_base"
_LATENTS = "LatentsCachingStrategy._default_is_disk_cached_latents_expected"
_OUTPUTS = "is_disk_cached_outputs_expected"


class _AtomicNumpy:
    """numpy with an atomic `savez`."""

    def __init__(self, numpy: Any) -> None:
        self._numpy = numpy

    def __getattr__(self, name: str) -> Any:
        return getattr(self._numpy, name)

    def savez(self, path: str, **arrays: Any) -> None:
        # not the process number: two containers may have the same one
        partial = Path(f"{path}.{uuid.uuid4().hex[:8]}.partial")
        try:
            with partial.open("wb") as file:
                self._numpy.savez(file, **arrays)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def install(module: ModuleType, _settings: NoSettings) -> None:
    """Replace the module's numpy, and make its validity checks open the files."""
    vars(module)["np"] = _AtomicNumpy(vars(module)["np"])
    if module.__name__ == _BASE:
        wrap_function(module, _LATENTS, _latents_fit)
    for target in PATCH.targets:
        if target.module == module.__name__ and target.name.endswith(_OUTPUTS):
            wrap_function(module, target.name, _outputs_open)


def _latents_fit(wrapped: Callable[..., bool], strategy: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    stride, bucket, path, flip, masked, *_ = args
    is_fit = functools.partial(_check_latents, Path(path), stride, bucket, flip=flip, masked=masked)
    return _checked(strategy, Path(path), functools.partial(wrapped, *args, **kwargs), is_fit)


def _outputs_open(wrapped: Callable[[str], bool], strategy: Any, args: tuple[str], _kwargs: dict[str, Any]) -> bool:
    # upstream's own loader reads every array to its end, and so verifies its checksum
    load = functools.partial(strategy.load_outputs_npz, *args)
    return _checked(strategy, Path(args[0]), functools.partial(wrapped, *args), load)


def _checked(strategy: Any, path: Path, asked: Callable[[], bool], check: Callable[[], object]) -> bool:
    """Return upstream's answer for a file, but remove one that cannot be used and return False."""
    try:
        good = asked()
        if good and not strategy.skip_disk_cache_validity_check:
            check()
    except Exception as exc:  # noqa: BLE001 - numpy, zipfile and zlib each have their own for a damaged file
        sys.stderr.write(f"lora: {path} cannot be used and is made again: {exc}\n")
        # upstream would merge the rest of the file into the new one
        path.unlink(missing_ok=True)
        return False
    return good


def _check_latents(path: Path, stride: int, bucket: tuple[int, int], *, flip: bool, masked: bool) -> None:
    """Raise ValueError unless the file has all of an image's parts, in the shapes of its bucket (width, height)."""
    width, height = bucket
    size = (height // stride, width // stride)
    with sys.modules["numpy"].load(path) as held:
        suffix = f"_{size[0]}x{size[1]}"
        if f"latents{suffix}" not in held:
            suffix = ""
        wanted = {"latents": size} | ({"latents_flipped": size} if flip else {})
        wanted |= {"alpha_mask": (height, width)} if masked else {}
        for name, shape in wanted.items():
            found = held[name + suffix].shape[-2:]
            if found != shape:
                raise ValueError(f"{name + suffix} is {found[1]}x{found[0]}, its bucket is {shape[1]}x{shape[0]}")
        for name in ("original_size", "crop_ltrb"):
            held[name + suffix]


def _text_targets(module: str, name: str, check: str, write: str) -> tuple[Target, Target]:
    strategy = f"{name}TextEncoderOutputsCachingStrategy"
    return (
        Target(f"library.strategy_{module}", f"{strategy}.{_OUTPUTS}", check),
        Target(f"library.strategy_{module}", f"{strategy}.cache_batch_outputs", write),
    )


PATCH = RuntimePatch(
    name="atomic-cache",
    reason="A killed run leaves half a cache file, on which every later run fails; and latents of any size are taken.",
    upstream_version="v0.11.1",
    verification="tests/runtime/test_atomic_cache.py",
    removal_condition="upstream writes its caches atomically, and makes those again that it cannot use",
    targets=(
        Target(_BASE, _LATENTS, "e973178ad601b22e"),
        Target(_BASE, "LatentsCachingStrategy.save_latents_to_disk", "22d2ff40559d6f24"),
        *_text_targets("anima", "Anima", "9c923e4674441140", "e2d80df890f005d9"),
        *_text_targets("flux", "Flux", "d45dd1f7de646af3", "576f16d6c4087020"),
        *_text_targets("hunyuan_image", "HunyuanImage", "4ef57a10274d41bb", "09d21f35d3e88086"),
        *_text_targets("lumina", "Lumina", "bc57862b618b74ff", "b5a30d204c265863"),
        *_text_targets("sd3", "Sd3", "3da4395f7a702b4e", "725c5d89b1d99d7e"),
        *_text_targets("sdxl", "Sdxl", "d1ea902505206618", "c8d74805267814cd"),
    ),
    install=install,
)
