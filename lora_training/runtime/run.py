"""The state of the training in this process, and the hooks that a patch can implement."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar


class Watcher:
    """The hooks of a patch, in the order in which they are called. Each does nothing unless overridden."""

    run: Run

    def accelerator_built(self) -> None:
        """`self.run.accelerator` exists; nothing is prepared yet."""

    def datasets_made(self, group: Any) -> None:
        """Upstream's `DatasetGroup` for training exists, with its buckets; no model is loaded yet."""

    def loop_begins(self) -> None:
        """Everything is loaded, prepared and resumed; the first batch comes next."""

    def batch_given(self, batch: dict[str, Any]) -> None:
        """The next training batch, before its forward pass."""

    def gradients_made(self, network: Any) -> None:
        """The last backward pass before an optimizer step is done; the ranks reduce their gradients next."""

    def allows_step(self, optimizer: Any) -> bool | None:
        """Return False to skip the optimizer's step: weights, optimizer state and schedule stay as they are."""

    def weights_moved(self) -> None:
        """The optimizer has made step `self.run.step` (or skipped it); upstream may save next."""

    def saved(self, path: Path, again: Callable[[str], None]) -> None:
        """This process has written a LoRA file. `again(name)` writes the current network beside it in the same way."""

    def removed(self, path: Path) -> None:
        """Upstream has removed an old LoRA file."""

    def state_saved(self, path: Path) -> None:
        """This process has written its part of a state folder."""

    def keeps_loss(self, loss: float) -> bool | None:
        """Return False to keep a batch's loss out of upstream's running average."""

    def step_ends(self) -> None:
        """`self.run.loss` and `self.run.average` are those of step `self.run.step`; its saves are written."""

    def left(self) -> None:
        """Every rank has saved what `Run.leave` asked for and is about to exit."""

    def ended(self) -> None:
        """The training is over and everything is written."""


@dataclass
class Run:
    """The state of the training in this process.

    `recorder` is upstream's LossRecorder, once it exists. `step` counts optimizer steps done; `epoch` counts from 1;
    `loss` is that of the last batch, as upstream read it. `moved`: a step was made and its loss is not recorded yet.
    `leaving`: the exception given to `leave`. `passing`: the state saved next is temporary. `state_only`: no LoRA is
    saved with it. `batch_loss` and `norm` are tensors, and `on_host` their values, once `read` has fetched them.
    """

    trainer: Any
    args: Any
    watchers: tuple[Watcher, ...]
    accelerator: Any = None
    network: Any = None
    recorder: Any = None
    epochs: int = 0
    initial_step: int = 0
    step: int = 0
    epoch: int = 0
    loss: float = 0.0
    average: float = 0.0
    begun: bool = False
    validating: bool = False
    moved: bool = False
    leaving: BaseException | None = None
    passing: bool = False
    state_only: bool = False
    batch_loss: Any = None
    norm: Any = None
    on_host: tuple[float, float] | None = None
    # the one of this process while upstream trains: its functions get no trainer to find it by
    current: ClassVar[Run | None] = None

    @property
    def optimizers(self) -> list[Any]:
        """The optimizers that the accelerator prepared."""
        return list(self.accelerator._optimizers)

    def tell(self, point: str, *args: Any) -> None:
        """Call the hook `point` of every watcher."""
        for watcher in self.watchers:
            getattr(watcher, point)(*args)

    def agree(self, question: str, *args: Any) -> bool:
        """Call the hook `question` of every watcher; return False if any of them does."""
        return False not in [getattr(watcher, question)(*args) for watcher in self.watchers]

    def read(self, optimizer: Any) -> tuple[float, float]:
        """Return the last batch's loss and the gradient's norm, on the host. For use in `allows_step`.

        Upstream reads the loss after the optimizer's step. Here both numbers come in one transfer before it, and the
        loss stays on the host, so that upstream's own read does not wait for the device a second time.
        """
        if self.on_host is None:
            norm = self.norm if self.norm is not None else _total_norm(optimizer)
            is_here = self.batch_loss.device.type == "cpu"
            self.on_host = (self.batch_loss.item(), norm.item()) if is_here else _transfer(self.batch_loss, norm)
        return self.on_host

    def leave(self, reason: BaseException, *, save: bool = True, is_temporary: bool = False) -> None:
        """Have upstream save state and LoRA at this step, then raise `reason` on every rank.

        Call it on every rank alike, in `weights_moved` at the latest. Upstream saves as it does for
        `save_every_n_steps`: same code, same names. With `is_temporary`, for a run that will be resumed, it saves only
        a state where it would save nothing by itself. A state that it would not have saved is marked as temporary, so
        that it is removed when the run has got further.
        """
        args = self.args
        due = bool(args.save_every_n_steps) and self.step % args.save_every_n_steps == 0
        self.leaving, self.state_only = reason, is_temporary and not due
        self.passing = is_temporary and not (due and args.save_state)
        if save:
            args.save_state = True
        if save and not due:
            args.save_every_n_steps = 1
            # which earlier saves are removed is counted in upstream's own intervals
            args.save_last_n_steps = args.save_last_n_steps_state = None


def _total_norm(optimizer: Any) -> Any:
    """Return the norm of the whole gradient, for runs in which upstream does not clip."""
    from torch.nn.utils import get_total_norm

    params = [each for group in optimizer.param_groups for each in group["params"]]
    return get_total_norm([each.grad for each in params if each.grad is not None])


def _transfer(loss: Any, norm: Any) -> tuple[float, float]:
    """Return both numbers in one transfer, and move the loss to the host."""
    import torch

    on_host, norm_on_host = torch.stack([loss.detach().double(), norm.double().to(loss.device)]).tolist()
    loss.data = torch.tensor(on_host, dtype=loss.dtype)
    return on_host, norm_on_host
