"""Import the YAML of train_LoRA_tool 1.0 to 2.3: diffusers' names, in the tables model, lora, dataset, training, ..."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lora_training.config.importers.draft import Draft

KIND = "a train_LoRA_tool configuration"
_FLAGS = {
    "model.pretrained_model_name_or_path": "pretrained_model_name_or_path",
    "model.name": "pretrained_model_name_or_path",
    "model.vae": "vae",
    "model.vae_path": "vae",
    "model.clip_skip": "clip_skip",
    "lora.rank": "network_dim",
    "lora.alpha": "network_alpha",
    "lora.dropout": "network_dropout",
    "training.num_train_epochs": "max_train_epochs",
    "training.epochs": "max_train_epochs",
    "training.max_train_steps": "max_train_steps",
    "training.gradient_accumulation_steps": "gradient_accumulation_steps",
    "training.learning_rate": "learning_rate",
    "training.unet_lr": "unet_lr",
    "training.text_encoder_lr": "text_encoder_lr",
    "training.max_grad_norm": "max_grad_norm",
    "training.lr_scheduler": "lr_scheduler",
    "training.scheduler": "lr_scheduler",
    "training.lr_warmup_steps": "lr_warmup_steps",
    "training.warmup_steps": "lr_warmup_steps",
    "training.lr_num_cycles": "lr_scheduler_num_cycles",
    "training.save_steps": "save_every_n_epochs",
    "training.save_every_n_epochs": "save_every_n_epochs",
    "training.checkpointing_steps": "save_every_n_epochs",
    "training.mixed_precision": "mixed_precision",
    "training.gradient_checkpointing": "gradient_checkpointing",
    "training.dataloader_num_workers": "max_data_loader_n_workers",
    "training.prior_loss_weight": "prior_loss_weight",
    "training.seed": "seed",
    "training.output_dir": "output_dir",
    "training.resume_from_checkpoint": "resume",
    "training.min_snr_gamma": "min_snr_gamma",
    "training.snr_gamma": "min_snr_gamma",
    "training.noise_offset": "noise_offset",
    "training.adaptive_noise_scale": "adaptive_noise_scale",
    "training.loss_type": "loss_type",
    "training.huber_c": "huber_c",
    "training.huber_schedule": "huber_schedule",
    "training.pyramid_noise_iterations": "multires_noise_iterations",
    "training.pyramid_noise_discount": "multires_noise_discount",
    "training.multires_noise_iterations": "multires_noise_iterations",
    "training.multires_noise_discount": "multires_noise_discount",
    "training.enable_xformers": "xformers",
    "training.cache_latents": "cache_latents",
    "training.cache_latents_to_disk": "cache_latents_to_disk",
    "dataset.cache_latents": "cache_latents",
    "dataset.cache_latents_to_disk": "cache_latents_to_disk",
    "output.output_dir": "output_dir",
    "output.output_name": "output_name",
    "logging.log_dir": "logging_dir",
    "logging.tensorboard_dir": "logging_dir",
    "logging.wandb_project": "log_tracker_name",
    "logging.wandb_run_name": "wandb_run_name",
    "logging.sample_steps": "sample_every_n_steps",
}
_SUBSET = {
    "dataset.train_data_dir": "image_dir",
    "dataset.data_dir": "image_dir",
    "dataset.caption_extension": "caption_extension",
    "dataset.shuffle_caption": "shuffle_caption",
    "dataset.shuffle_captions": "shuffle_caption",
    "dataset.caption_shuffle": "shuffle_caption",
    "dataset.keep_tokens": "keep_tokens",
    "dataset.num_repeats": "num_repeats",
    "dataset.repeats": "num_repeats",
    "dataset.random_flip": "flip_aug",
    "dataset.flip_aug": "flip_aug",
    "dataset.color_jitter": "color_aug",
    "dataset.caption_dropout_rate": "caption_dropout_rate",
    "training.color_jitter": "color_aug",
    "training.shuffle_caption": "shuffle_caption",
    "training.keep_tokens": "keep_tokens",
}
_DATASET = {
    "dataset.resolution": "resolution",
    "dataset.use_buckets": "enable_bucket",
    "dataset.enable_bucket": "enable_bucket",
    "dataset.min_bucket_reso": "min_bucket_reso",
    "dataset.max_bucket_reso": "max_bucket_reso",
    "dataset.bucket_reso_steps": "bucket_reso_steps",
    "dataset.bucket_step": "bucket_reso_steps",
    "training.train_batch_size": "batch_size",
    "training.batch_size": "batch_size",
    "dataset.batch_size": "batch_size",
}
_LORA_PLUS = ("loraplus_lr_ratio", "loraplus_unet_lr_ratio", "loraplus_text_encoder_lr_ratio")
_OPTIMIZERS = {
    "adamw": "AdamW",
    "adamw8bit": "AdamW8bit",
    "adamw_8bit": "AdamW8bit",
    "adam": "Adam",
    "sgd": "SGD",
    "adafactor": "AdaFactor",
    "prodigy": "Prodigy",
    "lion": "Lion",
}
_BETAS = ("adam_beta1", "adam_beta2")
_OPTIMIZER_ARGS = {"weight_decay": "weight_decay", "adam_epsilon": "eps"}
_OFF_AT_ZERO = ("noise_offset", "min_snr_gamma", "network_dropout", "adaptive_noise_scale", "multires_noise_iterations")
_OF_VAL = "upstream splits validation images off by validation_split instead of a folder of their own"
_LOST = {
    "use_ema": "upstream averages no weights: sd-scripts has no EMA for LoRA",
    "ema_decay": "upstream averages no weights: sd-scripts has no EMA for LoRA",
    "adaptive_loss_weight": "sd-scripts has no such weighting",
    "target_modules": "upstream's network decides which modules are trained; see its network_args",
    "val_data_dir": _OF_VAL,
    "validation_data_dir": _OF_VAL,
    "sample_prompts": "upstream reads prompts from a file: write them there and name it in sample_prompts",
    "center_crop": "upstream always crops from the centre, unless random_crop is on",
    "bucket_sizes": "upstream makes its own buckets from min_bucket_reso, max_bucket_reso and bucket_reso_steps",
    "revision": "upstream loads the default revision of a model",
    "class_data_dir": "give regularization images as a subset with is_reg = true",
}
# keys that have a method
_MEANINGS = frozenset(
    (
        *("use_loraplus", "optimizer", "train_text_encoder", "use_pyramid_noise", "pyramid_noise", "use_wandb"),
        "use_tensorboard",
    )
)
_DEEPEST = 2
_PYRAMID_ITERATIONS = 6  # the value that upstream's documentation recommends, used if the file only says "on"


def script(content: dict[str, Any]) -> str:
    """Return the script for SDXL if the model's name or type says so, else for SD 1.x and 2.x."""
    flat = dict(_flat(content))
    names = " ".join(
        str(flat.get(f"model.{key}", "")) for key in ("pretrained_model_name_or_path", "type", "model_type")
    )
    return "sdxl_train_network" if "xl" in names.lower() else "train_network"


def _flat(content: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        name = f"{prefix}{key}"
        # the tool's settings are not nested deeper, and dotted names would grow with each level
        if isinstance(value, dict) and value and prefix.count(".") < _DEEPEST:
            yield from _flat(value, f"{name}.")
        else:
            yield name, value


def convert(content: dict[str, Any], draft: Draft) -> None:
    """Import the file's settings into `draft`."""
    _Tool(dict(_flat(content)), draft).run()


class _Tool:
    def __init__(self, flat: dict[str, Any], draft: Draft) -> None:
        self.flat = flat
        self.draft = draft
        self.dataset: dict[str, Any] = {}
        self.subset: dict[str, Any] = {}

    def run(self) -> None:
        self.draft.values["network_module"] = "networks.lora"
        for name, value in self.flat.items():
            self._take(name, value)
        self._optimizer_args()
        if "log_with" in self.draft.values:
            # the folder where the tool itself puts its logs
            self.draft.values.setdefault("logging_dir", f"{self.draft.values.get('output_dir', 'output')}/logs")
        if self.subset:
            self.draft.datasets.append({**self.dataset, "subsets": [self.subset]})

    def _take(self, name: str, value: Any) -> None:
        leaf = name.rpartition(".")[2]
        # the oldest files have these settings in `advanced`, later ones in `training`
        place = name.replace("advanced.", "training.", 1)
        if value is None:
            self.draft.defaulted(name, "not set")
        elif leaf in _MEANINGS:
            getattr(self, f"_{leaf}")(name, value)
        elif place in _SUBSET or place in _DATASET:
            self._data(name, place, value)
        elif place in _FLAGS:
            self._flag(name, _FLAGS[place], value)
        elif leaf in _LORA_PLUS:
            self._loraplus(name, leaf, value)
        elif leaf in (*_BETAS, *_OPTIMIZER_ARGS):
            self.draft.took(name, "optimizer_args")
        else:
            self._rest(name, leaf, value)

    def _flag(self, name: str, to: str, value: Any) -> None:
        zero = value == 0 and not isinstance(value, bool)
        if zero and to in _OFF_AT_ZERO:
            self.draft.defaulted(name, "0 turns it off")
        elif to == "text_encoder_lr" and not self._trains_text_encoder:
            self.draft.defaulted(name, "the text encoder is not trained")
        else:
            self.draft.flag(name, value, to=to)

    @property
    def _trains_text_encoder(self) -> bool:
        return any(self.flat.get(f"{table}.train_text_encoder") is True for table in ("training", "advanced"))

    def _data(self, name: str, place: str, value: Any) -> None:
        table, to = (self.subset, _SUBSET[place]) if place in _SUBSET else (self.dataset, _DATASET[place])
        if value is False:
            self.draft.defaulted(name, "off, as it is by default")
            return
        table[to] = list(value) if isinstance(value, tuple) else value
        where = "datasets.subsets" if place in _SUBSET else "datasets"
        self.draft.took(name, f"{where}.{to}")

    def _loraplus(self, name: str, leaf: str, value: Any) -> None:
        if self.flat.get("training.use_loraplus") is True:
            self.draft.network(name, value, to=leaf)
        else:
            self.draft.defaulted(name, "use_loraplus is off")

    def _rest(self, name: str, leaf: str, value: Any) -> None:
        if value in (False, [], {}, ""):
            self.draft.defaulted(name, "off")
        elif leaf in _LOST:
            self.draft.lost(name, _LOST[leaf])
        elif self.draft.schema.flag(leaf):
            self.draft.flag(name, value, to=leaf)
        else:
            self.draft.lost(name, "sd-scripts has nothing of that name")

    def _optimizer_args(self) -> None:
        words = []
        betas = [self.flat.get(f"training.{key}") for key in _BETAS]
        chosen = str(self.draft.values.get("optimizer_type", "AdamW"))
        if all(beta is not None for beta in betas) and chosen.lower().startswith(("adam", "prodigy", "lion")):
            words.append(f"betas={betas[0]},{betas[1]}")
        for key, to in _OPTIMIZER_ARGS.items():
            value = self.flat.get(f"training.{key}")
            if value is not None and not (to == "eps" and not chosen.lower().startswith("adamw")):
                words.append(f"{to}={value}")
        if words:
            self.draft.values["optimizer_args"] = words

    # -- keys that need their own conversion; each method is named after its key

    def _use_loraplus(self, name: str, value: Any) -> None:
        if value is not True:
            self.draft.defaulted(name, "off")
            return
        self.draft.took(name, "network_args.loraplus_lr_ratio")
        self.draft.network_args.setdefault("loraplus_lr_ratio", self.flat.get("training.loraplus_lr_ratio") or 16)

    def _optimizer(self, name: str, value: Any) -> None:
        self.draft.flag(name, _OPTIMIZERS.get(str(value).lower(), value), to="optimizer_type")

    def _train_text_encoder(self, name: str, value: Any) -> None:
        if value is not True:
            self.draft.values["network_train_unet_only"] = True
        self.draft.took(name, "network_train_unet_only", "the opposite of it")

    def _use_pyramid_noise(self, name: str, value: Any) -> None:
        if value is not True:
            self.draft.defaulted(name, "off")
            return
        self.draft.values.setdefault("multires_noise_iterations", _PYRAMID_ITERATIONS)
        self.draft.took(name, "multires_noise_iterations")

    _pyramid_noise = _use_pyramid_noise

    def _use_wandb(self, name: str, value: Any) -> None:
        self._tracker(name, value, "wandb")

    def _use_tensorboard(self, name: str, value: Any) -> None:
        self._tracker(name, value, "tensorboard")

    def _tracker(self, name: str, value: Any, tracker: str) -> None:
        if value is not True:
            self.draft.defaulted(name, "off")
            return
        both = self.draft.values.get("log_with") not in (None, tracker)
        self.draft.values["log_with"] = "all" if both else tracker
        self.draft.took(name, "log_with")
