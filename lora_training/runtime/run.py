"""The training in this process as far as it has come, and the points of it that a patch can watch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Watcher:
    """What a patch does at the points of a run, in their order. Each method does nothing unless overridden."""

    run: Run

    def accelerator_built(self) -> None:
        """`self.run.accelerator` is there, nothing is prepared yet."""

    def datasets_made(self, group: Any) -> None:
        """Upstream's `DatasetGroup` to train on is there, with its buckets; no model is loaded yet."""

    def loop_begins(self) -> None:
        """Everything is loaded, prepared and resumed; the first batch is next."""

    def batch_given(self, batch: dict[str, Any]) -> None:
        """The next batch to train, before its forward pass."""

    def loss_made(self, loss: Any) -> None:
        """The batch's loss: a tensor of no dimensions, on its device, before its backward pass."""

    def gradients_made(self, network: Any) -> None:
        """The last backward pass before an optimizer step is done; the ranks reduce their gradients next."""

    def allows_step(self, optimizer: Any) -> bool | None:
        """False keeps the optimizer from its step, and leaves weights, its state and the schedule as they are."""

    def weights_moved(self) -> None:
        """The optimizer has made step `self.run.step` (or was kept from it); upstream may save next."""

    def saved(self, path: Path, again: Callable[[str], None]) -> None:
        """This process has written a LoRA file. `again(name)` writes the network as it is now beside it, likewise."""

    def removed(self, path: Path) -> None:
        """Upstream has removed an old LoRA file."""

    def state_saved(self, path: Path) -> None:
        """This process has written its part of a state folder."""

    def keeps_loss(self, loss: float) -> bool | None:
        """False keeps a batch's loss out of upstream's running average."""

    def step_ends(self) -> None:
        """`self.run.loss` and `self.run.average` are those of step `self.run.step`; what it saves is written."""

    def left(self) -> None:
        """Every rank has saved what `Run.leave` asked for, and is about to leave."""

    def ended(self) -> None:
        """The training is over and everything is written."""


@dataclass
class Run:
    """The training in this process, as far as it has come.

    `recorder` is upstream's of losses, once there is one. `step` counts optimizer steps done, `epoch` from 1; `loss`
    is that of the last batch, as upstream read it. `moved`: a step is made whose loss is still to come; `leaving`:
    what `leave` was given; `passing` and `state_only`: what is saved then is a state to clear away later, and no LoRA.
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
    _loss: Any = None
    _norm: Any = None
    _on_host: tuple[float, float] | None = None

    def tell(self, point: str, *args: Any) -> None:
        """Call that method of every watcher."""
        for watcher in self.watchers:
            getattr(watcher, point)(*args)

    def agree(self, question: str, *args: Any) -> bool:
        """Ask every watcher that question; whether none says no."""
        return False not in [getattr(watcher, question)(*args) for watcher in self.watchers]

    def read(self, optimizer: Any) -> tuple[float, float]:
        """The last batch's loss and the norm of the gradient, on the host. For `allows_step`.

        Upstream reads the loss there after the optimizer's step. Here both come in one transfer before it, and the
        loss is left lying on the host, so that upstream's reading it does not wait for the device a second time.
        """
        if self._on_host is None:
            self._on_host = _to_host(self._loss, self._norm if self._norm is not None else _total_norm(optimizer))
        return self._on_host

    def leave(self, reason: BaseException, *, save: bool = True) -> None:
        """Have upstream save state and LoRA at this step, and raise `reason` when that is done, on every rank.

        To be called on every rank alike, in `weights_moved` at the latest. Upstream saves as at one of its
        `save_every_n_steps`: same code, same names.
        """
        self.leaving = reason
        if save:
            self.args.save_every_n_steps, self.args.save_state = 1, True

    def step_aside(self, reason: BaseException) -> None:
        """The same for a run that is to go on: between two of upstream's own saves only a state, and no LoRA file.

        A state that upstream would not have saved is marked, so that it can go when the run has got further.
        """
        args = self.args
        due = bool(args.save_every_n_steps) and self.step % args.save_every_n_steps == 0
        self.leaving, self.passing, self.state_only = reason, not (due and args.save_state), not due
        args.save_state = True
        if not due:
            args.save_every_n_steps = 1
            # what goes of earlier saves is counted from upstream's own
            args.save_last_n_steps = args.save_last_n_steps_state = None


def _total_norm(optimizer: Any) -> Any:
    """The norm of the whole gradient, for where upstream does not clip."""
    from torch.nn.utils import get_total_norm

    params = [each for group in optimizer.param_groups for each in group["params"]]
    return get_total_norm([each.grad for each in params if each.grad is not None])


def _to_host(loss: Any, norm: Any) -> tuple[float, float]:
    """Both numbers; from a device in one transfer, after which `loss` itself is on the host."""
    return (loss.item(), norm.item()) if loss.device.type == "cpu" else _transfer(loss, norm)


def _transfer(loss: Any, norm: Any) -> tuple[float, float]:
    import torch

    on_host, norm_on_host = torch.stack([loss.detach().double(), norm.double().to(loss.device)]).tolist()
    loss.data = torch.tensor(on_host, dtype=loss.dtype)
    return on_host, norm_on_host
