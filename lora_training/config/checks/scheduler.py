"""Check the learning rate scheduler: whether upstream has it, and whether its required options are set."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lora_training import nearest
from lora_training.config.checks import classes
from lora_training.config.schema import source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lora_training.config.checks.view import View
    from lora_training.problems import Problem

# upstream accepts these names, but calls the functions with arguments that they do not have
BROKEN = frozenset({"reduce_lr_on_plateau", "cosine_warmup_with_min_lr"})
NEEDED = {"cosine_with_min_lr": "lr_scheduler_min_lr_ratio", "piecewise_constant": "lr_scheduler_args"}


def problems(view: View, installed: Callable[[str], bool] | None) -> Iterator[Problem]:
    """Yield problems with the scheduler. `installed` is None if the training environment is unknown."""
    name, own = view.value("lr_scheduler"), view.value("lr_scheduler_type")
    if _is_replaced(view) or not isinstance(name, str):
        return
    if isinstance(own, str) and own:
        yield from classes.problems(view, "lr_scheduler_type", own, "torch.optim.lr_scheduler", installed)
    else:
        yield from _known(view, name, installed)
        yield from _needs(view, name)
    if (own or name == "constant") and view.on("lr_warmup_steps"):
        hint = None if own else 'set lr_scheduler = "constant_with_warmup", or leave lr_warmup_steps out'
        yield view.problem(f"upstream refuses `lr_warmup_steps` with `{own or name}`", "lr_warmup_steps", hint=hint)


def _is_replaced(view: View) -> bool:
    """Whether upstream uses the optimizer's own scheduler instead."""
    optimizer = str(view.value("optimizer_type")).lower()
    relative = {str(value) for _, name, value in view.pairs("optimizer_args") if name == "relative_step"} != {"False"}
    return optimizer.endswith("schedulefree") or (optimizer == "adafactor" and relative)


def _known(view: View, name: str, installed: Callable[[str], bool] | None) -> Iterator[Problem]:
    there = source.schedulers(view.schema.tree) if installed and view.schema.tree else frozenset()
    right = sorted(there - BROKEN)
    if name.startswith("adafactor"):
        hint = "leave lr_scheduler out: Adafactor with relative_step brings its own"
        yield view.problem("this scheduler needs Adafactor with relative_step", "lr_scheduler", hint=hint)
    elif there and name not in right:
        what = "cannot start its" if name in BROKEN else "has no"
        hint = nearest.hint(name, right) or f"there are: {', '.join(right)}"
        yield view.problem(f"upstream {what} lr_scheduler `{name}`", "lr_scheduler", hint=hint)


def _needs(view: View, name: str) -> Iterator[Problem]:
    key = NEEDED.get(name)
    if key and not view.on(key) and not view.on("lr_scheduler_args"):
        yield view.problem(f"lr_scheduler `{name}` needs `{key}`", "lr_scheduler")
