"""Check for options that every script accepts but that a model family ignores or does not support."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lora_training import families

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lora_training.config.checks.view import View
    from lora_training.problems import Problem


def problems(view: View) -> Iterator[Problem]:
    """Yield the options that have no effect with this script, or make it fail."""
    yield from _inert(view)
    yield from _huber(view)
    yield from _models(view)
    yield from _sdxl(view)
    yield from _fp8(view)


def _inert(view: View) -> Iterator[Problem]:
    for key, inert in families.of(view.schema.script).inert.items():
        if view.given(key) and view.on(key) and view.value(key) != inert.neutral:
            message = f"`{key}` does nothing in {view.schema.script}: {inert.reason}"
            yield view.problem(message, key, hint="remove it", severity="warning")


def _huber(view: View) -> Iterator[Problem]:
    if not families.of(view.schema.script).is_flow or view.value("loss_type") not in ("huber", "smooth_l1"):
        return
    if view.value("huber_schedule") == "snr":
        key = "huber_schedule" if view.given("huber_schedule") else "loss_type"
        message = f'huber_schedule = "snr"{"" if view.given(key) and key != "loss_type" else " (the default)"} raises'
        hint = 'set huber_schedule = "constant" or "exponential"'
        yield view.problem(
            f"{message} in {view.schema.script}: there is no noise schedule to take it from", key, hint=hint
        )


def _models(view: View) -> Iterator[Problem]:
    for key in families.of(view.schema.script).needs:
        unused = key == "clip_l" and view.value("model_type") == "chroma"
        if key in view.schema.keys and not view.on(key) and not unused and key not in view.refused:
            yield view.problem(f"`{key}` is missing: {view.schema.script} loads it", key)


def _sdxl(view: View) -> Iterator[Problem]:
    if view.schema.script != "sdxl_train_network":
        return
    if view.on("v2"):
        yield view.problem("`v2` is not for SDXL, which refuses it", "v2")
    if view.given("clip_skip"):
        message = "`clip_skip` is not meant for SDXL: upstream warns and takes the layer that it always takes"
        yield view.problem(message, "clip_skip", severity="warning")


def _fp8(view: View) -> Iterator[Problem]:
    for key, instead in families.of(view.schema.script).unsupported.items():
        if view.on(key):
            message = f"`{key}` is not supported by {view.schema.script}"
            yield view.problem(message, key, hint=instead, severity="warning")
