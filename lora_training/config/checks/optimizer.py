"""Check the optimizer and the learning rate scheduler, and the packages that options need."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from lora_training import nearest
from lora_training.config.checks.view import View
from lora_training.config.schema import source
from lora_training.problems import Problem

# tells whether a package is installed; None if the training environment is unknown
Installed = Callable[[str], bool] | None

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
PACKAGE_OF = {name.lower(): package for package, names in _PACKAGES.items() for name in names}
_INSTALL = {"lycoris": "`make setup-lycoris` installs it", "lion_pytorch": "install lion-pytorch"}
_SWITCHES = {"use_8bit_adam": "AdamW8bit", "use_lion_optimizer": "Lion"}
_ADAPTIVE = ("dadapt", "prodigy")
_KEPT_AT_ZERO = ("lora_fa", "oft", "oft_flux", "lycoris.kohya")
_ONE_TEXT_RATE = ("networks.lora", "networks.dylora")  # these take the first of several
_LOW = 0.1  # upstream warns about learning rates up to this one
# upstream accepts these schedulers, but calls their functions with arguments that they do not have
BROKEN = frozenset({"reduce_lr_on_plateau", "cosine_warmup_with_min_lr"})
NEEDED = {"cosine_with_min_lr": "lr_scheduler_min_lr_ratio", "piecewise_constant": "lr_scheduler_args"}


def problems(view: View, installed: Installed) -> Iterator[Problem]:
    """Yield problems with packages, the optimizer and the scheduler."""
    yield from _packages(view, installed)
    key = next(filter(view.on, _SWITCHES), "optimizer_type")
    name = _SWITCHES.get(key) or view.value(key)
    if isinstance(name, str) and name:
        yield from _optimizer(view, name, key, installed)
        if name.lower().rpartition(".")[2].startswith(_ADAPTIVE):
            yield from _rates(view, name)
    yield from _all_zero(view)
    yield from _scheduler(view, installed)


def _packages(view: View, installed: Installed) -> Iterator[Problem]:
    needs = {
        "log_with": "wandb" if view.value("log_with") in ("wandb", "all") else None,
        "xformers": "xformers" if view.on("xformers") else None,
        "deepspeed": "deepspeed" if view.on("deepspeed") else None,
        "network_module": "lycoris" if str(view.value("network_module")).startswith("lycoris") else None,
    }
    for key, package in needs.items():
        if package and installed and not installed(package):
            message = f"`{key}` needs the package `{package}`, which is not installed"
            yield view.problem(message, key, hint=_INSTALL.get(package, f"install {package}"))


def _class(
    view: View, key: str, name: str, home: str, installed: Installed, own: Collection[str] = ()
) -> Iterator[Problem]:
    """Yield the problems with a class, `package.module.Class` or a class of the module `home`.

    `own` has the names that upstream accepts besides classes.
    """
    # upstream imports from `home` whether the name is given in full or not
    bare = name.removeprefix(f"{home}.")
    module, _, last = bare.rpartition(".")
    if module:
        if not last[:1].isupper():
            # upstream calls any object of that name; torch.save, for example, would overwrite a file
            yield view.problem(
                f"`{key}`: `{name}` is no class", key, hint="give a class: its name begins with a capital"
            )
        # a missing package is reported elsewhere
        elif installed and installed(name.partition(".")[0]) and not source.is_module(module, view.tree or Path()):
            yield view.problem(f"`{key}`: there is no module `{module}`", key)
        return
    public = source.classes(home) if installed else frozenset()
    if bare in public:
        return
    hint = nearest.hint(bare, [*own, *public]) or "write a class of another package with its module: package.Class"
    if public:
        yield view.problem(f"neither upstream nor {home} has `{bare}`", key, hint=hint)
    else:
        message = f"upstream has no `{name}`; whether {home} has it cannot be told here"
        yield view.problem(message, key, hint=hint, severity="warning")


# -- the optimizer


def _optimizer(view: View, name: str, key: str, installed: Installed) -> Iterator[Problem]:
    own = source.optimizers(view.tree) if view.tree else frozenset()
    if own and name.lower() not in {each.lower() for each in own}:
        yield from _class(view, key, name, "torch.optim", installed, own)
    package = PACKAGE_OF.get(name.lower()) or (name.partition(".")[0] if "." in name else None)
    if package and installed and not installed(package):
        message = f"the optimizer `{name}` needs the package `{package}`, which is not installed"
        hint = f"{_INSTALL.get(package, f'install {package}')}, or choose another optimizer"
        yield view.problem(message, key, hint=hint)


def _rates(view: View, name: str) -> Iterator[Problem]:
    for place, key, value in view.pairs("network_args"):
        # LoRA+ sets another rate for the up matrices
        has_one_rate = PACKAGE_OF.get(name.lower()) in ("prodigyopt", "dadaptation")
        if has_one_rate and key.startswith("loraplus_") and str(value) not in ("1", "1.0"):
            message = f"{name} takes one learning rate for all, and `{key}` = {value} makes two of it"
            path = (*view.path("network_args"), place)
            yield view.config.problem(message, path, hint=f"leave {key} out, or choose another optimizer")
    for key in ("learning_rate", "unet_lr"):
        rate = view.number(key)
        if rate is not None and 0 < rate <= _LOW:
            message = f"{name} finds the learning rate by itself: `{key}` = {rate} only slows it down"
            yield view.problem(message, key, hint=f"set {key} = 1.0", severity="warning")


def _all_zero(view: View) -> Iterator[Problem]:
    """Yield an error if every learning rate is 0: upstream leaves such matrices out, and its optimizer gets none."""
    module, named = str(view.value("network_module")), {name for _, name, _ in view.pairs("network_args")}
    # patterns of modules with rates of their own; and modules whose matrices stay, for Adafactor to find their rate
    if "network_reg_lrs" in named or (_is_replaced(view) and module.endswith(_KEPT_AT_ZERO)):
        return
    parts = {"unet_lr": "network_train_text_encoder_only", "text_encoder_lr": "network_train_unet_only"}
    # upstream's LoRA of HunyuanImage has no matrices for the text encoders
    absent = "text_encoder_lr" if view.family.name == "hunyuan_image" else None
    keys = [key for key, without in parts.items() if key != absent and not view.on(without)]
    given = [view.value("learning_rate") if view.value(key) in (None, []) else view.value(key) for key in keys]
    first = [rate[:1] if isinstance(rate, list) and module in _ONE_TEXT_RATE else rate for rate in given]
    if first and all(rate == 0 for each in first for rate in (each if isinstance(each, list) else [each])):
        key = next(filter(view.given, (*keys, "learning_rate")))
        message = "every learning rate is 0, which leaves upstream's optimizer nothing to train"
        yield view.problem(message, key, hint=f"set {key} above 0, for example {key} = 1e-4")


# -- the scheduler


def _scheduler(view: View, installed: Installed) -> Iterator[Problem]:
    name, own = view.value("lr_scheduler"), view.value("lr_scheduler_type")
    if _is_replaced(view) or not isinstance(name, str):
        return
    needed = NEEDED.get(name)
    if isinstance(own, str) and own:
        yield from _class(view, "lr_scheduler_type", own, "torch.optim.lr_scheduler", installed)
    else:
        yield from _scheduler_name(view, name, installed)
        if needed and not view.on(needed) and not view.on("lr_scheduler_args"):
            yield view.problem(f"lr_scheduler `{name}` needs `{needed}`", "lr_scheduler")
    if (own or name == "constant") and view.on("lr_warmup_steps"):
        hint = None if own else 'set lr_scheduler = "constant_with_warmup", or leave lr_warmup_steps out'
        yield view.problem(f"upstream refuses `lr_warmup_steps` with `{own or name}`", "lr_warmup_steps", hint=hint)


def _is_replaced(view: View) -> bool:
    """Whether upstream uses the optimizer's own scheduler instead."""
    optimizer = str(view.value("optimizer_type")).lower()
    relative = {str(value) for _, name, value in view.pairs("optimizer_args") if name == "relative_step"} != {"False"}
    return optimizer.endswith("schedulefree") or (optimizer == "adafactor" and relative)


def _scheduler_name(view: View, name: str, installed: Installed) -> Iterator[Problem]:
    known = source.schedulers(view.tree) if installed and view.tree else frozenset()
    right = sorted(known - BROKEN)
    if name.startswith("adafactor"):
        hint = "leave lr_scheduler out: Adafactor with relative_step brings its own"
        yield view.problem("this scheduler needs Adafactor with relative_step", "lr_scheduler", hint=hint)
    elif known and name not in right:
        what = "cannot start its" if name in BROKEN else "has no"
        hint = nearest.hint(name, right) or f"there are: {', '.join(right)}"
        yield view.problem(f"upstream {what} lr_scheduler `{name}`", "lr_scheduler", hint=hint)
