"""What a model family does with options that every script accepts.

Each entry was read in upstream's source at the pin and is shown by a test there; `lora config explain` prints it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lora_training.config.checks.view import View
    from lora_training.config.model import Problem

FLOW = frozenset(
    f"{family}_train_network" for family in ("flux", "sd3", "lumina", "hunyuan_image", "anima")
)  # rectified flow: no noise schedule, so no signal-to-noise ratio and no v-prediction
_ALL = FLOW | {"train_network", "sdxl_train_network"}


@dataclass(frozen=True)
class Inert:
    """A flag that these scripts accept and never use, and why. `neutral` is a value that asks for nothing anyway."""

    scripts: frozenset[str]
    reason: str
    neutral: float | None = None


_NOISE = Inert(FLOW, "this family draws plain noise and interpolates it with the latents")
_LOSS = Inert(FLOW, "this family's post_process_loss leaves the loss as it is")
_RANGE = "this family draws its timesteps by timestep_sampling, over the whole range"
_WITHOUT_RANGE = FLOW - {"sd3_train_network"}
_PERTURBED = Inert(frozenset({"sd3_train_network"}), "SD3's trainer does not perturb its input")
_V_PREDICTION = Inert(FLOW, "this family predicts a flow, not noise or velocity of a diffusion schedule")

INERT: dict[str, Inert] = {
    "noise_offset": _NOISE,
    "noise_offset_random_strength": _NOISE,
    "adaptive_noise_scale": _NOISE,
    "multires_noise_iterations": _NOISE,
    "multires_noise_discount": _NOISE,
    "min_snr_gamma": _LOSS,
    "debiased_estimation_loss": _LOSS,
    "scale_v_pred_loss_like_noise_pred": _LOSS,
    "v_pred_like_loss": _LOSS,
    "v_parameterization": _V_PREDICTION,
    "zero_terminal_snr": _V_PREDICTION,
    "min_timestep": Inert(_WITHOUT_RANGE, _RANGE),
    "max_timestep": Inert(_WITHOUT_RANGE, _RANGE, neutral=1000),
    "ip_noise_gamma": _PERTURBED,
    "ip_noise_gamma_random_strength": _PERTURBED,
    "fused_backward_pass": Inert(_ALL, "only the full fine-tuning scripts join the backward pass to the optimizer"),
}

# the files that a family's loader cannot do without
_MODELS = {
    "flux_train_network": ("clip_l", "t5xxl", "ae"),
    "lumina_train_network": ("gemma2", "ae"),
    "hunyuan_image_train_network": ("text_encoder", "byt5", "vae"),
    "anima_train_network": ("qwen3", "vae"),
}


def problems(view: View) -> Iterator[Problem]:
    """Options that do nothing here, or raise."""
    yield from _inert(view)
    yield from _huber(view)
    yield from _models(view)
    yield from _sdxl(view)
    yield from _fp8(view)


def _inert(view: View) -> Iterator[Problem]:
    for key, inert in INERT.items():
        asked = view.given(key) and view.on(key) and view.value(key) != inert.neutral
        if asked and view.schema.script in inert.scripts:
            message = f"`{key}` does nothing in {view.schema.script}: {inert.reason}"
            yield view.problem(message, key, hint="remove it", severity="warning")


def _huber(view: View) -> Iterator[Problem]:
    if view.schema.script not in FLOW or view.value("loss_type") not in ("huber", "smooth_l1"):
        return
    if view.value("huber_schedule") == "snr":
        key = "huber_schedule" if view.given("huber_schedule") else "loss_type"
        message = f'huber_schedule = "snr"{"" if view.given(key) and key != "loss_type" else " (the default)"} raises'
        hint = 'set huber_schedule = "constant" or "exponential"'
        yield view.problem(
            f"{message} in {view.schema.script}: there is no noise schedule to take it from", key, hint=hint
        )


def _models(view: View) -> Iterator[Problem]:
    for key in _MODELS.get(view.schema.script, ()):
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
    hints = {"anima_train_network": None, "hunyuan_image_train_network": "use fp8_scaled"}
    if view.schema.script not in hints:
        return
    for key in ("fp8_base", "fp8_base_unet"):
        if view.on(key):
            message = f"`{key}` is not supported by {view.schema.script}"
            yield view.problem(message, key, hint=hints[view.schema.script], severity="warning")
