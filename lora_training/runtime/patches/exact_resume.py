"""Make a resumed training end with exactly the weights of one that was never interrupted.

Upstream restores the random number generators when it loads a state, and then shuffles the data anew with them: other
images, other captions, other noise. Here a state also contains the generators as they were when its epoch began. A
resumed run restores those, reads the batches that were already trained again without training on them, and then
restores the generators as they were when the state was saved. Images, captions and noise are then those of the
uninterrupted run, whatever the number of workers, which begin each epoch as new ones (`runtime.persistent`).

Latents are cached with random numbers of their own, so a run that finds its cache files ends as the one that made them.

rich also uses Python's global generator, for every logged line. It gets its own, since a resumed run logs other lines.
Therefore the order of images and captions is not the same as without this patch.

A state is written under a temporary name and renamed when it is complete, with a manifest of its files
(`lora_training.manifest`).

The counts of steps and epochs cannot be corrected here; `patches/sd-scripts/0001-resume-counts.patch` does that.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from lora_training import files, manifest
from lora_training.runtime import persistent, training
from lora_training.runtime.model import NoSettings, RuntimePatch, Target, wrap_function
from lora_training.runtime.patches import provenance
from lora_training.runtime.run import Run, Watcher

# Digests of the run's inputs, by name, as a JSON object; they go into every state's manifest.
IDENTITY = provenance.VARIABLE
# The folder where the other ranks write their generators for rank 0, the only one that saves.
RUN_FOLDER = "LORA_RUN_FOLDER"


def _install(module: ModuleType, _settings: NoSettings) -> None:
    if module.__name__ == "rich.style":
        # rich draws a random link id for each logged line from the generator that shuffles the captions
        vars(module)["randint"] = random.Random(0).randint  # noqa: S311 - it names links
    elif module.__name__ == "library.dataset":
        wrap_function(module, "DatasetGroup.new_cache_latents", _cache_latents)
    elif module.__name__ == "accelerate.data_loader":
        persistent.install(sys.modules["torch.utils.data.dataloader"])
        wrap_function(module, "DataLoaderShard.__iter__", _begin_epoch)


def _cache_latents(wrapped: Any, _: Any, args: Any, kwargs: Any) -> None:
    """Cache latents with random numbers of their own: a run whose caches are there already draws none for them."""
    import torch

    seed = int(torch.empty((), dtype=torch.int64).random_().item())
    before = _generators()
    torch.manual_seed(seed)
    wrapped(*args, **kwargs)
    _restore_generators(before)


def _begin_epoch(wrapped: Any, loader: Any, _args: Any, _kwargs: Any) -> Any:
    if (watcher := vars(loader).get("lora_exact_resume")) is not None:
        watcher.epoch_start = watcher.capture()
    return wrapped()


class _ExactResume(Watcher):
    """Record and restore the generators of one rank, and the running average of the losses."""

    def __init__(self) -> None:
        self.epoch_start: dict[str, Any] = {}
        self._resumed: dict[str, Any] | None = None
        self._loader: Any = None
        self._saved: Path | None = None
        self._are_losses_restored = False

    def accelerator_built(self) -> None:
        for name in ("prepare_data_loader", "skip_first_batches", "load_state", "save_state", "wait_for_everyone"):
            training.wrap(self.run.accelerator, name, getattr(self, f"_{name}"))

    def _prepare_data_loader(
        self, _run: Run, method: Callable[..., Any], loader: Any, *args: Any, **kwargs: Any
    ) -> Any:
        from torch.utils.data import RandomSampler

        if loader.persistent_workers and not persistent.works(loader.dataset):
            # they carry generators into the next epoch, and a state cannot contain those
            sys.stderr.write("lora: persistent_data_loader_workers is off: exact-resume needs new workers here\n")
            vars(loader)["persistent_workers"] = False
        prepared = method(loader, *args, **kwargs)
        # the training data is the only shuffled data
        if self._loader is None and isinstance(loader.sampler, RandomSampler):
            self._loader = prepared
            prepared.lora_exact_resume = self
        return prepared

    def _load_state(self, _run: Run, method: Callable[..., None], folder: str, *args: Any, **kwargs: Any) -> None:
        from accelerate.utils import load

        method(folder, *args, **kwargs)
        path = Path(folder) / _name(self.run.accelerator.process_index)
        # only tensors, plain values and NumPy arrays: whoever can write a state could write its digests, too
        self._resumed = load(path, weights_only=True) if path.exists() else None

    def _skip_first_batches(self, _run: Run, method: Callable[..., Any], loader: Any, count: int = 0) -> Any:
        # upstream itself drops one more batch
        return method(loader, count) if self._resumed is None else self._replay(loader, count + 1, self._resumed)

    def _replay(self, loader: Any, count: int, saved: dict[str, Any]) -> Iterator[Any]:
        """Yield the epoch's batches from number `count` (from 1) on; upstream drops that first one."""
        if count >= len(loader):
            # the epoch was at its end, so there is nothing to load
            yield None
            _shuffle_up_to(loader, 0)
            self._restore(saved["now"])
            return
        _shuffle_up_to(loader, -1)
        self._restore(saved["epoch_start"])
        batches = iter(loader)
        for number in range(1, count):
            self._set_step(loader, number)
            next(batches)
        self._set_step(loader, count)
        yield next(batches)
        self._set_step(loader, count + 1)
        self._restore(saved["now"])
        yield from batches

    def _set_step(self, loader: Any, number: int) -> None:
        """Set the step that the dataset saw when the batch of that number (from 1) was requested.

        Captions depend on it while `token_warmup_step` lasts. Upstream sets it when a batch is trained, so the dataset
        sees the step of the batch before.
        """
        accumulation = self.run.accelerator.gradient_accumulation_steps
        steps_an_epoch = -(-len(loader) // accumulation)
        epoch = loader.collate_fn.current_epoch.value - 1
        loader.collate_fn.current_step.value = max(0, epoch * steps_an_epoch + (number - 2) // accumulation)

    def _save_state(self, _run: Run, method: Callable[..., Any], output_dir: str, *args: Any, **kwargs: Any) -> Any:
        folder = Path(output_dir)
        partial = manifest.partial(folder)
        _remove(partial)
        mine = self._states()
        result = method(str(partial), *args, **kwargs)
        _write(partial / _name(self.run.accelerator.process_index), mine)
        if RUN_FOLDER in os.environ:
            for rank in range(1, self.run.accelerator.num_processes):
                shutil.copy(Path(os.environ[RUN_FOLDER]) / _name(rank), partial)
        step = json.loads((partial / "train_state.json").read_text(encoding="utf-8"))["current_step"]
        manifest.write(partial, step=step, made_by=json.loads(os.environ.get(IDENTITY, "{}")))
        _replace(partial, folder)
        return result

    def _wait_for_everyone(self, _run: Run, method: Callable[[], None]) -> None:
        """Write this rank's generators for rank 0: upstream's ranks wait for each other here before rank 0 saves."""
        rank = self.run.accelerator.process_index
        if rank != 0 and RUN_FOLDER in os.environ:
            _write(Path(os.environ[RUN_FOLDER]) / _name(rank), self._states())
        method()

    def _states(self) -> dict[str, Any]:
        """Return this rank's part of a state: its generators at the start of the epoch, and now."""
        return {"epoch_start": self.epoch_start, "now": self.capture()}

    def capture(self) -> dict[str, Any]:
        """Return the states of all generators, with that of the order of the data where several ranks share one."""
        order = self._order()
        return _generators() | {"order": None if order is None else order.get_state()}

    def _restore(self, states: dict[str, Any]) -> None:
        _restore_generators(states)
        order = self._order()
        if order is not None and states.get("order") is not None:
            order.set_state(states["order"])

    def _order(self) -> Any:
        """Return the generator that accelerate shuffles the data with when there are several ranks."""
        return getattr(self._loader, "synchronized_generator", None)

    def state_saved(self, path: Path) -> None:
        self._saved = path
        if not self.run.moved:
            # at the end of an epoch; in the middle of one, the loss of the saved step is not recorded yet
            self._save_losses()

    def step_ends(self) -> None:
        self._save_losses()

    def _save_losses(self) -> None:
        recorder = self.run.recorder
        if self._saved is not None and recorder is not None:
            held = {"losses": recorder.loss_list, "total": recorder.loss_total}
            # the state is whole without them
            with contextlib.suppress(OSError):
                files.write(self._saved / manifest.LOSSES, json.dumps(held))
        self._saved = None

    def keeps_loss(self, _loss: float) -> None:
        """Restore the losses before the first one of a resumed run; upstream would start its average from zeros."""
        if self._are_losses_restored or not self.run.args.resume:
            return
        self._are_losses_restored = True
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
            held = json.loads(files.read(Path(self.run.args.resume) / manifest.LOSSES))
            losses, total = [float(loss) for loss in held["losses"]], float(held["total"])
            self.run.recorder.loss_list, self.run.recorder.loss_total = losses, total


def _shuffle_up_to(loader: Any, ahead: int) -> None:
    """Shuffle the buckets into their order of this epoch (`ahead` = 0) or of the one before it (-1).

    Upstream shuffles them after it has loaded the first batch of an epoch. With workers, each epoch begins with a copy
    of a dataset that was never shuffled, so there is nothing to do, and `dataset` is None.
    """
    if loader.collate_fn.dataset is not None:
        loader.collate_fn.dataset.set_current_epoch(loader.collate_fn.current_epoch.value + ahead)


def _name(rank: int) -> str:
    return f"lora-resume-{rank}.pt"


def _write(path: Path, states: dict[str, Any]) -> None:
    import torch

    path.unlink(missing_ok=True)
    with open(path, "xb", opener=files.opener) as file:
        torch.save(states, file)


def _generators() -> dict[str, Any]:
    """Return the states of the generators of Python, NumPy and torch, including those of all GPUs."""
    import numpy as np
    import torch

    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),  # noqa: NPY002 - upstream draws on the global one
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def _restore_generators(states: dict[str, Any]) -> None:
    """Restore every generator to the state that `_generators` returned, except GPUs without one."""
    import numpy as np
    import torch

    random.setstate(states["python"])
    np.random.set_state(states["numpy"])  # noqa: NPY002 - upstream draws on the global one
    torch.set_rng_state(states["torch"])
    if states["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"][: torch.cuda.device_count()])


def _replace(new: Path, old: Path) -> None:
    """Replace `old` by `new`; at every moment one of them is complete."""
    aside = manifest.replaced(old)
    _remove(aside)
    if os.path.lexists(old):
        old.rename(aside)
    new.rename(old)
    _remove(aside)


def _remove(folder: Path) -> None:
    """Remove a folder, or a link to one without its target."""
    if folder.is_symlink():
        folder.unlink()
    shutil.rmtree(folder, ignore_errors=True)


PATCH = RuntimePatch(
    name="exact-resume",
    reason="Upstream's resumed run sees other data and other noise than the run that it continues.",
    upstream_version="v0.11.1",
    verification="tests/runtime/test_exact_resume.py",
    removal_condition="a run resumed by upstream ends with the weights of an uninterrupted one",
    targets=(
        *training.TARGETS,
        Target("rich.style", "Style.__init__", "88353189457961c4"),
        Target("library.dataset", "collator_class", "19e439bca23332a0"),
        Target("library.dataset", "DatasetGroup.new_cache_latents", "063a26d4a23004cf"),
        Target("accelerate.data_loader", "DataLoaderShard.__iter__", "92e3394cfb700c02"),
    ),
    install=_install,
    watcher=lambda _settings: _ExactResume(),
    on_by_default=True,
)
