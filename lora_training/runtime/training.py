"""Hooks into upstream's training loop: each patch has a watcher that is called at fixed points of the run.

No script overrides `NetworkTrainer.train`. When it starts, the methods of that trainer instance are wrapped, so methods
that a script's own class overrides are called and watched as well.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from lora_training import manifest
from lora_training.runtime.model import Target, wrap_function
from lora_training.runtime.run import Run, Watcher

# The targets of every patch that has a watcher.
TARGETS = (
    Target("train_network", "NetworkTrainer.train", "7feabd5ade6ed2b3"),
    Target("train_network", "NetworkTrainer._build_metadata", "ead395c416170b95"),
    Target("train_network", "NetworkTrainer._run_validation_loop", "262515cc843b019b"),
    Target("train_network", "NetworkTrainer._remove_model", "92c7f2fd92a19263"),
    Target("train_network", "NetworkTrainer._save_model", "4aa7e2ba00b1f9c3"),
    Target("library.accelerator_setup", "prepare_accelerator", "1eca56dce47db0a5"),
    Target("library.checkpoint_io", "save_and_remove_state_on_epoch_end", "f6a012ac5ae935df"),
    Target("library.checkpoint_io", "save_and_remove_state_stepwise", "4f11142db17c70d4"),
    Target("library.logging_util", "LossRecorder", "ed8fb84a9b77cf21"),
)

# The targets for the hooks between a batch's loss and the optimizer's step.
STEP_TARGETS = (
    Target("accelerate.accelerator", "Accelerator.clip_grad_norm_", "40c2cd509fc17845"),
    Target("accelerate.accelerator", "Accelerator.unscale_gradients", "7c2ddf850f21b824"),
    Target("accelerate.optimizer", "AcceleratedOptimizer", "ba532c754efb3460"),
    Target("accelerate.scheduler", "AcceleratedScheduler.step", "cd1badf73051e094"),
)


_watchers: dict[str, Watcher] = {}


def watch(module: ModuleType, name: str, make: Callable[[], Watcher]) -> None:
    """Register the watcher of the patch `name` when `module`, one of `TARGETS`, is imported."""
    if name not in _watchers:
        _watchers[name] = make()
    if "__lora_watched__" not in vars(module):
        vars(module)["__lora_watched__"] = True
        # upstream's script is `__main__`, since it is run, not imported
        name = Path(str(module.__file__)).stem if module.__name__ == "__main__" else module.__name__
        if name == "library.checkpoint_io":
            vars(module)["shutil"] = SimpleNamespace(rmtree=_remove_state)
        for function, around in _FUNCTIONS.get(name, {}).items():
            wrap_function(module, function, around)


def _remove_state(path: str) -> None:
    if not manifest.is_kept(Path(path)):
        shutil.rmtree(path)


def _train(wrapped: Callable[..., None], trainer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    run = Run.current = Run(trainer, args[0], tuple(_watchers.values()))
    for watcher in run.watchers:
        watcher.run = run
    for name, around in _METHODS.items():
        wrap(trainer, name, around)
    try:
        wrapped(*args, **kwargs)
    finally:
        Run.current = None
    if run.begun:
        run.tell("ended")


def wrap(instance: Any, name: str, around: Callable[..., Any]) -> None:
    """Wrap one method of one object: it is called as `around(run, method, *args, **kwargs)` while the run lasts."""
    method = getattr(instance, name)

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return around(Run.current, method, *args, **kwargs) if Run.current else method(*args, **kwargs)

    setattr(instance, name, wrapper)


def _prepare_accelerator(wrapped: Callable[..., Any], _: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    accelerator = wrapped(*args, **kwargs)
    if Run.current:
        Run.current.accelerator = accelerator
        Run.current.tell("accelerator_built")
    return accelerator


def _assert_extra_args(run: Run, method: Callable[..., None], args: Any, group: Any, validation: Any) -> None:
    run.tell("datasets_made", group)
    method(args, group, validation)


def _post_process_network(run: Run, method: Callable[..., None], *args: Any, **kwargs: Any) -> None:
    run.network = args[2]
    method(*args, **kwargs)


def _build_metadata(run: Run, method: Callable[..., None], *args: Any, **kwargs: Any) -> None:
    run.epochs = kwargs["num_train_epochs"]
    method(*args, **kwargs)


def _progress_bar(wrapped: Callable[..., Any], _: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Begin the run: upstream creates the progress bar of all steps last before the loop, and it has the first step."""
    run = Run.current
    if run and kwargs.get("desc") == "steps":
        run.initial_step = run.step = run.args.max_train_steps - len(args[0])
        run.begun = True
        # only now, so that `state_saved` is called after every other patch's own part of saving
        wrap(run.accelerator, "save_state", _save_state)
        wrap(run.accelerator, "clip_grad_norm_", _clip)
        for optimizer in run.optimizers:
            wrap(optimizer, "step", _step)
        run.tell("loop_begins")
    return wrapped(*args, **kwargs)


def _on_step_start(run: Run, method: Callable[..., None], *args: Any, **kwargs: Any) -> None:
    if not run.validating:
        run.tell("batch_given", args[5])
    method(*args, **kwargs)


def _process_batch(run: Run, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    loss = method(*args, **kwargs)
    if not run.validating:
        run.batch_loss, run.norm, run.on_host = loss, None, None
    return loss


def _all_reduce_network(run: Run, method: Callable[..., None], accelerator: Any, network: Any) -> None:
    run.tell("gradients_made", network)
    method(accelerator, network)


def _clip(run: Run, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    run.norm = method(*args, **kwargs)
    return run.norm


def _step(run: Run, method: Any, *args: Any, **kwargs: Any) -> None:
    optimizer = method.__self__
    allowed = not run.accelerator.sync_gradients or run.agree("allows_step", optimizer)
    if optimizer.scaler is None or not allowed:
        # accelerate's flag for a skipped step, which keeps the schedule from advancing; it is reset by scalers only
        optimizer._is_overflow = not allowed
    if allowed:
        method(*args, **kwargs)


def _sample_images(run: Run, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Note the step: upstream calls this after each optimizer step, without an epoch, and then may save."""
    result = method(*args, **kwargs)
    epoch, step = args[2:4]
    if epoch is None:
        run.step = step
        run.moved = True
        run.tell("weights_moved")
    return result


def _save_model(run: Run, method: Callable[..., Any], **kwargs: Any) -> None:
    if run.state_only:
        return
    method(**kwargs)

    def again(name: str) -> None:
        method(**kwargs | {"ckpt_name": name})

    run.tell("saved", Path(run.args.output_dir) / kwargs["ckpt_name"], again)


def _remove_model(run: Run, method: Callable[..., Any], **kwargs: Any) -> None:
    method(**kwargs)
    run.tell("removed", Path(run.args.output_dir) / kwargs["old_ckpt_name"])


def _save_state(run: Run, method: Callable[..., Any], output_dir: str, *args: Any, **kwargs: Any) -> Any:
    folder = manifest.place(Path(output_dir))
    result = method(str(folder), *args, **kwargs)
    if run.passing:
        manifest.mark_passing(folder)
    run.tell("state_saved", folder)
    return result


def _validate(run: Run, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    run.validating = True
    try:
        return method(*args, **kwargs)
    finally:
        run.validating = False


def _add_loss(wrapped: Callable[..., None], recorder: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    run = Run.current
    if run is None or run.validating:
        wrapped(*args, **kwargs)
        return
    run.recorder = recorder
    if run.agree("keeps_loss", kwargs["loss"]):
        wrapped(*args, **kwargs)
    run.epoch, run.loss, run.average = kwargs["epoch"] + 1, kwargs["loss"], recorder.moving_average
    if run.moved:
        run.moved = False
        run.tell("step_ends")
        _leave_if_asked(run)


def _leave_if_asked(run: Run) -> None:
    if run.leaving:
        # no rank may exit while another still saves, since its launcher would end them all
        run.accelerator.wait_for_everyone()
        run.tell("left")
        run.accelerator.end_training()
        raise run.leaving


# around which functions of upstream's modules, and methods of its trainer, the run is followed
_FUNCTIONS: dict[str, dict[str, Callable[..., Any]]] = {
    "train_network": {"NetworkTrainer.train": _train, "tqdm": _progress_bar},
    "library.accelerator_setup": {"prepare_accelerator": _prepare_accelerator},
    "library.logging_util": {"LossRecorder.add": _add_loss},
}
_METHODS: dict[str, Callable[..., Any]] = {
    "assert_extra_args": _assert_extra_args,
    "post_process_network": _post_process_network,
    "_build_metadata": _build_metadata,
    "_run_validation_loop": _validate,
    "_save_model": _save_model,
    "_remove_model": _remove_model,
    "on_step_start": _on_step_start,
    "process_batch": _process_batch,
    "all_reduce_network": _all_reduce_network,
    "sample_images": _sample_images,
}
