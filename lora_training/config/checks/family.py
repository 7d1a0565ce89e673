"""Check for options that a model family ignores or does not support, and for the network's own arguments."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lora_training import families, nearest
from lora_training.config import paths
from lora_training.config.checks.view import View
from lora_training.config.schema import source
from lora_training.problems import Problem


def problems(view: View) -> Iterator[Problem]:
    """Yield the options that have no effect with this script, or make it fail."""
    script, family = view.schema.script, families.of(view.schema.script)
    for key, inert in family.inert.items():
        if view.given(key) and view.on(key) and view.value(key) != inert.neutral:
            message = f"`{key}` does nothing in {script}: {inert.reason}"
            yield view.problem(message, key, hint="remove it", severity="warning")
    if family.is_flow and view.value("loss_type") in ("huber", "smooth_l1") and view.value("huber_schedule") == "snr":
        key, default = ("huber_schedule", "") if view.given("huber_schedule") else ("loss_type", " (the default)")
        message = f'huber_schedule = "snr"{default} raises in {script}: there is no noise schedule to take it from'
        yield view.problem(message, key, hint='set huber_schedule = "constant" or "exponential"')
    for key in family.needs:
        is_unused = key == "clip_l" and view.value("model_type") == "chroma"
        if key in view.schema.keys and not view.on(key) and not is_unused and key not in view.refused:
            hint = f'for example {key} = "models/{key}.safetensors"'
            yield view.problem(f"`{key}` is missing: {script} loads it", key, hint=hint)
    if family.name == "sdxl" and view.on("v2"):
        yield view.problem("`v2` is not for SDXL, which refuses it", "v2")
    if family.name == "sdxl" and view.given("clip_skip"):
        message = "`clip_skip` is not meant for SDXL: upstream warns and takes the layer that it always takes"
        yield view.problem(message, "clip_skip", severity="warning")
    for key, instead in family.unsupported.items():
        if view.on(key):
            yield view.problem(f"`{key}` is not supported by {script}", key, hint=instead, severity="warning")


def network(view: View) -> Iterator[Problem]:
    """Report an unknown network module, one of another family, and arguments that the module does not read."""
    module = view.value("network_module")
    if not isinstance(module, str) or not module.startswith("networks.") or view.tree is None:
        return
    if not paths.exists(view.tree / f"{module.replace('.', '/')}.py"):
        known = [f"networks.{path.stem}" for path in sorted((view.tree / "networks").glob("*.py"))]
        yield view.problem(f"upstream has no module `{module}`", "network_module", hint=nearest.hint(module, known))
        return
    named = (family for family in families.FAMILIES if family.is_flow and module.endswith(f"_{family.name}"))
    other = next((family for family in named if family.script != view.schema.script), None)
    if other:
        message = f"`{module}` is the network of {other.name}, not of {view.schema.script}"
        yield view.problem(message, "network_module", severity="warning")
    yield from _arguments(view, module, view.tree)


def _arguments(view: View, module: str, tree: Path) -> Iterator[Problem]:
    known = source.network_arguments(tree, module)
    for place, name, _ in view.pairs("network_args") if known is not None else ():
        if known is None or name in known:
            continue
        hint = nearest.hint(name, known)
        message = f"`{module}` reads no argument `{name}`, and ignores it in silence"
        path = (*view.path("network_args"), place)
        legal = f"it reads: {', '.join(sorted(known))}"
        yield view.config.problem(message, path, hint=hint or legal, severity="error" if hint else "warning")
