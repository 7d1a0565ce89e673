"""Let several processes train together on CPUs, which accelerate does not support, and without a TCP port.

On CPUs accelerate wraps every prepared model in PyTorch's DistributedDataParallel, which refuses a model without
trainable parameters; upstream prepares frozen models, too. On GPUs accelerate does not wrap those; here it does not on
CPUs either.

The environment variable `LORA_FILE_STORE` names a file that the ranks create and find each other through,
torch.distributed's file store, in place of a TCP port. `runtime.ranks` sets it. `LORA_DISTRIBUTED_BACKEND` names
torch.distributed's backend, `nccl` or `gloo`, in place of upstream's own choice.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from lora_training.runtime.model import NoSettings, RuntimePatch, Target, one_process, wrap_function

VARIABLE = "LORA_FILE_STORE"
BACKEND = "LORA_DISTRIBUTED_BACKEND"


def _install(module: ModuleType, _settings: NoSettings) -> None:
    if module.__name__ == "accelerate.state":
        wrap_function(module, "PartialState.__init__", _meet)
    else:
        wrap_function(module, "Accelerator.prepare_model", _prepare_model)


def _meet(wrapped: Callable[..., None], _state: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Set the file store as the init method, and the backend; accelerate passes them on to `init_process_group`."""
    store = os.environ.get(VARIABLE)
    if store:
        kwargs["init_method"] = Path(store).as_uri()
        kwargs["rank"], kwargs["world_size"] = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if backend := os.environ.get(BACKEND):
        kwargs["backend"] = backend
    wrapped(*args, **kwargs)


def _prepare_model(wrapped: Callable[..., Any], _: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    model = args[0] if args else kwargs["model"]
    if not any(each.requires_grad for each in model.parameters()):
        kwargs["evaluation_mode"] = True
    return wrapped(*args, **kwargs)


PATCH = RuntimePatch(
    name="ranks",
    reason="accelerate fails on a frozen model where several processes train on CPUs, and upstream prepares such.",
    upstream_version="v0.11.1",
    verification="tests/launch/test_two_processes.py, tests/runtime/test_ranks.py",
    removal_condition="accelerate prepares a frozen model on CPUs and can be told how the ranks meet",
    targets=(
        Target("accelerate.state", "PartialState.__init__", "d1a6dad877ada8a9"),
        Target("accelerate.accelerator", "Accelerator.prepare_model", "adce63cbf8567275"),
    ),
    install=_install,
    on_by_default=True,
    unneeded=one_process,
)
