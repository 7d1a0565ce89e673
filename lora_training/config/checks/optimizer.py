"""Check the packages that options need, and the optimizer's settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lora_training.config.checks import classes
from lora_training.config.schema import source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lora_training.config.checks.view import View
    from lora_training.problems import Problem

# packages that upstream's built-in optimizers import
_PACKAGES = {
    "bitsandbytes": (
        *("AdamW8bit", "SGDNesterov8bit", "Lion8bit", "PagedAdamW8bit", "PagedLion8bit", "PagedAdamW"),
        "PagedAdamW32bit",
    ),
    "dadaptation": (
        *("DAdaptation", "DAdaptAdamPreprint", "DAdaptAdaGrad", "DAdaptAdam", "DAdaptAdan", "DAdaptAdanIP"),
        *("DAdaptLion", "DAdaptSGD"),
    ),
    "lion_pytorch": ("Lion",),
    "prodigyopt": ("Prodigy",),
    "schedulefree": ("RAdamScheduleFree", "AdamWScheduleFree", "SGDScheduleFree"),
}
_NAMES = {name.lower(): (name, package) for package, names in _PACKAGES.items() for name in names}
_ADAPTIVE = ("dadapt", "prodigy")
_LOW = 0.1  # upstream warns about learning rates up to this one


def problems(view: View, installed: Callable[[str], bool] | None) -> Iterator[Problem]:
    """Yield problems with the optimizer. `installed` tells whether a package is installed; None if that is unknown."""
    yield from _options(view, installed)
    name = view.value("optimizer_type")
    if view.on("use_8bit_adam"):
        name = "AdamW8bit"
    elif view.on("use_lion_optimizer"):
        name = "Lion"
    if not isinstance(name, str) or not name:
        return
    key = "optimizer_type" if view.given("optimizer_type") else "use_8bit_adam"
    yield from _known(view, name, key, installed)
    yield from _package(view, name, key, installed)
    yield from _rates(view, name)


def _options(view: View, installed: Callable[[str], bool] | None) -> Iterator[Problem]:
    """Check other options that import a package."""
    needs = {
        "log_with": "wandb" if view.value("log_with") in ("wandb", "all") else None,
        "xformers": "xformers" if view.on("xformers") else None,
        "deepspeed": "deepspeed" if view.on("deepspeed") else None,
        "network_module": "lycoris" if str(view.value("network_module")).startswith("lycoris") else None,
    }
    for key, package in needs.items():
        if package and installed and not installed(package):
            message = f"`{key}` needs the package `{package}`, which is not installed"
            yield view.problem(message, key, hint=f"install {_INDEX_NAMES.get(package, package)}")


_INDEX_NAMES = {"lycoris": "lycoris-lora", "lion_pytorch": "lion-pytorch"}


def _known(view: View, name: str, key: str, installed: Callable[[str], bool] | None) -> Iterator[Problem]:
    own = source.optimizers(view.schema.tree) if view.schema.tree else frozenset()
    if own and name.lower() not in {each.lower() for each in own}:
        yield from classes.problems(view, key, name, "torch.optim", installed, own=own)


def _package(view: View, name: str, key: str, installed: Callable[[str], bool] | None) -> Iterator[Problem]:
    package = _NAMES[name.lower()][1] if name.lower() in _NAMES else name.partition(".")[0] if "." in name else None
    if package and installed and not installed(package):
        message = f"the optimizer `{name}` needs the package `{package}`, which is not installed"
        yield view.problem(
            message, key, hint=f"install {_INDEX_NAMES.get(package, package)}, or choose another optimizer"
        )


def _rates(view: View, name: str) -> Iterator[Problem]:
    if not name.lower().rpartition(".")[2].startswith(_ADAPTIVE):
        return
    yield from _one_rate(view, name)
    for key in ("learning_rate", "unet_lr"):
        rate = view.number(key)
        if rate is not None and 0 < rate <= _LOW:
            message = f"{name} finds the learning rate by itself: `{key}` = {rate} only slows it down"
            yield view.problem(message, key, hint=f"set {key} = 1.0", severity="warning")


def _one_rate(view: View, name: str) -> Iterator[Problem]:
    """Report LoRA+ with optimizers that require one learning rate: it sets another rate for the up matrices."""
    if _NAMES.get(name.lower(), ("", ""))[1] not in ("prodigyopt", "dadaptation"):
        return
    for place, key, value in view.pairs("network_args"):
        if key.startswith("loraplus_") and str(value) not in ("1", "1.0"):
            message = f"{name} takes one learning rate for all, and `{key}` = {value} makes two of it"
            path = (*view.path("network_args"), place)
            yield view.config.problem(message, path, hint=f"leave {key} out, or choose another optimizer")
