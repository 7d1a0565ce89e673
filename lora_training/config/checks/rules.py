"""Check options against each other, the model family and the network's module.

Upstream refuses these mistakes only after minutes of loading, or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from lora_training import families, nearest
from lora_training.config import paths
from lora_training.config.checks.view import View, as_number
from lora_training.config.schema import source
from lora_training.problems import Problem, Severity

_POSITIVE = (
    *("train_batch_size", "gradient_accumulation_steps", "vae_batch_size", "save_every_n_epochs", "network_dim"),
    *("save_every_n_steps", "save_n_epoch_ratio", "bucket_reso_steps", "validate_every_n_steps"),
    "validate_every_n_epochs",
)
_NOT_NEGATIVE = ("max_data_loader_n_workers", "max_grad_norm", "learning_rate", "unet_lr")
_RATES = ("caption_dropout_rate", "caption_tag_dropout_rate", "network_dropout", "validation_split")
_CHANGING = ("shuffle_caption", "token_warmup_step", "caption_tag_dropout_rate")  # captions that cannot be cached
_ATTENTION = ("xformers", "sdpa", "mem_eff_attn")


def problems(view: View) -> Iterator[Problem]:
    """Yield the combinations that upstream would refuse, or that are certainly mistakes."""
    for rule in (_unproven, _ranges, _steps, _needs, _excludes, _precision, _text_encoder, _values, _family, _network):
        yield from rule(view)


def _unproven(view: View) -> Iterator[Problem]:
    if view.on("deepspeed"):
        message = "`deepspeed` is refused: resuming, checks and the saved LoRA are not proven with it here"
        hint = "use several GPUs with [launch] num_processes, and save memory with `blocks_to_swap`"
        yield view.problem(message, "deepspeed", hint=hint)
    for variable, name in (("ACCELERATE_USE_DEEPSPEED", "DeepSpeed"), ("ACCELERATE_USE_FSDP", "FSDP")):
        if view.config.variables.get(variable, "").lower() in ("true", "1", "yes"):
            why = "which is refused: resuming and the saved LoRA are not proven with it"
            yield view.config.problem(f"{variable} asks for {name}, {why}", ("launch",), hint=f"unset {variable}")


def _ranges(view: View) -> Iterator[Problem]:
    ranges: tuple[tuple[tuple[str, ...], Callable[[float], bool], str], ...] = (
        (_POSITIVE, lambda n: n > 0, "above 0"),
        (_NOT_NEGATIVE, lambda n: n >= 0, "0 or more"),
        (_RATES, lambda n: 0 <= n <= 1, "between 0 and 1"),
    )
    for key, holds, words in ((key, holds, words) for keys, holds, words in ranges for key in keys):
        number = view.number(key) if view.given(key) else None
        if number is not None and not holds(number):
            yield view.problem(f"`{key}` must be {words}, not {number}", key)


def _steps(view: View) -> Iterator[Problem]:
    key = "max_train_epochs" if view.value("max_train_epochs") is not None else "max_train_steps"
    number = view.number(key)
    if number is not None and number <= 0:
        yield view.problem(f"nothing would be trained: `{key}` is {number}", key, hint="give a number above 0")


_NEEDS: tuple[tuple[str, str, Severity], ...] = (
    ("adaptive_noise_scale", "noise_offset", "error"),
    ("scale_v_pred_loss_like_noise_pred", "v_parameterization", "error"),
    ("zero_terminal_snr", "v_parameterization", "warning"),
    ("dim_from_weights", "network_weights", "error"),
    ("noise_offset_random_strength", "noise_offset", "warning"),
    ("ip_noise_gamma_random_strength", "ip_noise_gamma", "warning"),
    ("base_weights_multiplier", "base_weights", "warning"),
    ("sample_every_n_epochs", "sample_prompts", "warning"),
    ("sample_every_n_steps", "sample_prompts", "warning"),
    ("sample_at_first", "sample_prompts", "warning"),
    ("save_state_to_huggingface", "huggingface_repo_id", "error"),
)


def _needs(view: View) -> Iterator[Problem]:
    for key, needed, severity in _NEEDS:
        if view.given(key) and view.value(key) not in (None, False) and not view.on(needed):
            message = f"`{key}` {'needs' if severity == 'error' else 'does nothing without'} `{needed}`"
            yield view.problem(message, key, severity=severity)


_EXCLUDES = (
    ("v_pred_like_loss", "v_parameterization"),
    ("train_inpainting", "cache_latents"),
    ("train_inpainting", "cache_latents_to_disk"),
    ("full_fp16", "full_bf16"),
    ("use_8bit_adam", "use_lion_optimizer"),
    ("use_8bit_adam", "optimizer_type"),
    ("use_lion_optimizer", "optimizer_type"),
    ("unsloth_offload_checkpointing", "cpu_offload_checkpointing"),
    ("unsloth_offload_checkpointing", "blocks_to_swap"),
    ("compile", "torch_compile"),
    ("compile_fullgraph", "split_attn"),
    ("network_train_unet_only", "network_train_text_encoder_only"),
)


def _excludes(view: View) -> Iterator[Problem]:
    swapping = (("blocks_to_swap", "cpu_offload_checkpointing"),) if view.family.swaps_blocks else ()
    for one, other in (*_EXCLUDES, *swapping):
        if view.on(one) and view.on(other):
            yield view.problem(f"`{one}` and `{other}` exclude each other", one, hint="turn one of them off")
    attention = [key for key in _ATTENTION if view.on(key)]
    if len(attention) > 1:
        message = f"only one of {', '.join(f'`{key}`' for key in attention)} takes effect"
        yield view.problem(message, attention[1], hint="keep one", severity="warning")


def _precision(view: View) -> Iterator[Problem]:
    precision = view.value("mixed_precision")
    for key, needed in (("full_fp16", "fp16"), ("full_bf16", "bf16")):
        if view.on(key) and precision != needed:
            yield view.problem(f'`{key}` needs mixed_precision = "{needed}", not "{precision}"', key)
    for key in ("fp8_base", "fp8_base_unet"):
        if view.on(key) and precision == "no" and not view.family.turns_fp8_off:
            yield view.problem(f'`{key}` needs mixed_precision = "fp16" or "bf16"', key)
    launch = view.config.launch.mixed_precision
    if launch is not None and view.given("mixed_precision") and launch != precision:
        message = f'[launch] has mixed_precision = "{launch}", but the flag says "{precision}", which is what counts'
        yield view.config.problem(message, ("launch", "mixed_precision"), severity="warning")


def _text_encoder(view: View) -> Iterator[Problem]:
    key = next(filter(view.on, ("cache_text_encoder_outputs", "cache_text_encoder_outputs_to_disk")), None)
    if key is None:
        return
    family = view.family
    if family.refuses_text_encoder and not view.on("network_train_unet_only"):
        hint = "set network_train_unet_only = true, or do not cache them"
        yield view.problem(f"`{key}`: a text encoder whose outputs are cached cannot be trained", key, hint=hint)
    for subset in view.subsets:
        for option in _CHANGING if family.drops_cached_captions else (*_CHANGING, "caption_dropout_rate"):
            value = subset.value(option)
            if value is True or (as_number(value) or 0) > 0:
                message = f"`{option}` cannot be used while `{key}` is on"
                hint = "captions that change cannot be cached: turn one of them off"
                # other trainers silently train on the first caption of each image
                severity: Severity = "error" if family.refuses_changing_captions else "warning"
                yield subset.problem(message, option, hint=hint, severity=severity)


def _values(view: View) -> Iterator[Problem]:
    """Check options that work only with certain values of others."""
    if view.on("persistent_data_loader_workers") and view.number("max_data_loader_n_workers") == 0:
        hint = "turn it off, or set max_data_loader_n_workers to 1 or more"
        message = "`persistent_data_loader_workers` needs workers: max_data_loader_n_workers is 0"
        yield view.problem(message, "persistent_data_loader_workers", hint=hint)
    if view.value("log_with") in ("tensorboard", "all") and not view.on("logging_dir"):
        yield view.problem(f'log_with = "{view.value("log_with")}" needs `logging_dir`', "log_with")
    if view.on("fused_backward_pass") and str(view.value("optimizer_type")).lower() != "adafactor":
        yield view.problem('`fused_backward_pass` works only with optimizer_type = "Adafactor"', "fused_backward_pass")
    elif view.on("fused_backward_pass") and (view.number("gradient_accumulation_steps") or 1) > 1:
        yield view.problem("`fused_backward_pass` works only without gradient accumulation", "fused_backward_pass")
    if view.value("model_type") == "chroma" and not view.on("apply_t5_attn_mask"):
        yield view.problem('model_type = "chroma" needs apply_t5_attn_mask = true', "model_type")
    if view.on("v2") and view.given("clip_skip"):
        yield view.problem("`clip_skip` is not meant for `v2` models", "clip_skip", severity="warning")


# -- the model family, and the network's own arguments


def _family(view: View) -> Iterator[Problem]:
    """Check for options that have no effect with this script, or make it fail."""
    script, family = view.schema.script, view.family
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


def _network(view: View) -> Iterator[Problem]:
    """Report an unknown network module, one of another family, and arguments that the module does not read."""
    module = view.value("network_module")
    if not isinstance(module, str) or not module.startswith("networks.") or view.tree is None:
        return
    if not paths.exists(view.tree / f"{module.replace('.', '/')}.py"):
        known = sorted(path.stem for path in (view.tree / "networks").glob("*.py"))
        near = nearest.name(module.removeprefix("networks."), known)
        alike = f"did you mean `networks.{near}`?" if near else "for example networks.lora"
        yield view.problem(f"upstream has no module `{module}`", "network_module", hint=alike)
        return
    named = (family for family in families.FAMILIES if family.is_flow and module.endswith(f"_{family.name}"))
    other = next((family for family in named if family.script != view.schema.script), None)
    if other:
        message = f"`{module}` is the network of {other.name}, not of {view.schema.script}"
        yield view.problem(message, "network_module", severity="warning")
    reads = source.network_arguments(view.tree, module)
    for place, name, _ in view.pairs("network_args"):
        if reads is not None and name not in reads:
            hint = nearest.hint(name, reads)
            message = f"`{module}` reads no argument `{name}`, and ignores it in silence"
            path = (*view.path("network_args"), place)
            legal = f"it reads: {', '.join(sorted(reads))}"
            yield view.config.problem(message, path, hint=hint or legal, severity="error" if hint else "warning")
