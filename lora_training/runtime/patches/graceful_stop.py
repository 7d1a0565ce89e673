"""Save and exit after the current step on request: SIGTERM, SIGUSR1, SIGUSR2, or a file that appears.

The environment variable `LORA_STOP_FILE` names the file. Before the training loop has begun there is nothing to save,
and the signals keep their default effect. After it, the run saves its state with upstream's own code, as for
`save_every_n_steps`, emits `stopped` and exits with code 143. A request on one rank stops all of them at the same step.
In the last step of the training, the run finishes instead. A run that is resumed from there ends with the files of one
that was never stopped: where upstream saves no LoRA none is saved, and the state is marked as temporary.
"""

from __future__ import annotations

import atexit
import functools
import multiprocessing
import os
import signal
import sys
from types import FrameType
from typing import Any

from lora_training.runtime import events, training
from lora_training.runtime.model import RuntimePatch
from lora_training.runtime.run import Watcher

NAME = "graceful-stop"
VARIABLE = "LORA_STOP_FILE"
EXIT_CODE = 128 + signal.SIGTERM


class _GracefulStop(Watcher):
    def __init__(self) -> None:
        self._file = os.environ.get(VARIABLE)
        self._asked = False
        self._agree: Any = None
        self._leaving = multiprocessing.RawValue("b", 0)

    def loop_begins(self) -> None:
        for signum in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(signum, self._ask)
        for prepared in self.run.accelerator._dataloaders:
            loader = getattr(prepared, "base_dataloader", prepared)
            if loader.worker_init_fn is None:
                # a signal to the whole process group must not end the workers before the step is done
                loader.worker_init_fn = functools.partial(_in_worker, self._leaving)
        atexit.register(self._release_workers)
        if self.run.accelerator.num_processes > 1:
            # gloo runs on the host: the ranks agree at each step without waiting for a device
            self._agree = sys.modules["torch.distributed"].new_group(backend="gloo")

    def _release_workers(self) -> None:
        self._leaving.value = 1

    def _ask(self, _signum: int, _frame: FrameType | None) -> None:
        self._asked = True

    def weights_moved(self) -> None:
        if self._is_asked() and self.run.step < self.run.args.max_train_steps:
            self.run.leave(SystemExit(EXIT_CODE), is_temporary=True)

    def _is_asked(self) -> bool:
        # a network disk that does not answer is an error for pathlib, which would end the training
        asked = self._asked or (self._file is not None and os.access(self._file, os.F_OK))
        if self._agree is None:
            return asked
        torch = sys.modules["torch"]
        flag = torch.tensor([asked], dtype=torch.int32)
        torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX, group=self._agree)
        return bool(flag.item())

    def left(self) -> None:
        self._release_workers()
        if isinstance(self.run.leaving, SystemExit) and self.run.accelerator.is_local_main_process:
            events.emit("stopped", step=self.run.step)
            sys.stderr.write(f"lora: stopped as asked, saved at step {self.run.step}\n")


def _in_worker(leaving: Any, _worker: int) -> None:
    def handle(_signum: int, _frame: FrameType | None) -> None:
        # multiprocessing ends its workers by SIGTERM, too
        if leaving.value:
            os._exit(0)

    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGUSR1, handle)
    signal.signal(signal.SIGUSR2, handle)


PATCH = RuntimePatch(
    name=NAME,
    reason="Upstream saves its state at fixed steps only, so whatever ends a training loses the work since the last.",
    upstream_version="v0.11.1",
    verification="tests/runtime/test_graceful_stop.py",
    removal_condition="upstream saves and leaves when it gets SIGTERM",
    targets=training.TARGETS,
    watcher=lambda _settings: _GracefulStop(),
    on_by_default=True,
)
