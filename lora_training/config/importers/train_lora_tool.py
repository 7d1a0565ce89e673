"""Import the YAML of train_LoRA_tool 1.0 to 2.3: diffusers' names, in the tables model, lora, dataset, training, ..."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lora_training import families
from lora_training.config.importers.draft import Draft

KIND = "a train_LoRA_tool configuration"
# names that differ from upstream's, which the other keys have
_FLAGS = {
    "model.name": "pretrained_model_name_or_path",
    "model.vae_path": "vae",
    "lora.rank": "network_dim",
    "lora.alpha": "network_alpha",
    "lora.dropout": "network_dropout",
    "training.num_train_epochs": "max_train_epochs",
    "training.epochs": "max_train_epochs",
    "training.scheduler": "lr_scheduler",
    "training.warmup_steps": "lr_warmup_steps",
    "training.lr_num_cycles": "lr_scheduler_num_cycles",
    "training.save_steps": "save_every_n_epochs",
    "training.checkpointing_steps": "save_every_n_epochs",
    "training.dataloader_num_workers": "max_data_loader_n_workers",
    "training.resume_from_checkpoint": "resume",
    "training.snr_gamma": "min_snr_gamma",
    "training.pyramid_noise_iterations": "multires_noise_iterations",
    "training.pyramid_noise_discount": "multires_noise_discount",
    "training.enable_xformers": "xformers",
    "logging.log_dir": "logging_dir",
    "logging.tensorboard_dir": "logging_dir",
    "logging.wandb_project": "log_tracker_name",
    "logging.sample_steps": "sample_every_n_steps",
}
# names of a data set's options that differ from upstream's, and the options that are in `training`
_DATA = {
    "train_data_dir": "image_dir",
    "data_dir": "image_dir",
    "shuffle_captions": "shuffle_caption",
    "caption_shuffle": "shuffle_caption",
    "repeats": "num_repeats",
    "random_flip": "flip_aug",
    "color_jitter": "color_aug",
    "use_buckets": "enable_bucket",
    "bucket_step": "bucket_reso_steps",
    "train_batch_size": "batch_size",
}
_OF_TRAINING = ("color_jitter", "shuffle_caption", "keep_tokens", "train_batch_size", "batch_size")
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
# settings of the runtime patch `ema` that are not named `ema_` and its name for them
_EMA = {"use_ema_warmup": "use_ema_warmup", "ema_update_every": "every"}
_PYRAMID = ("use_pyramid_noise", "pyramid_noise")
_TRACKERS = ("use_wandb", "use_tensorboard")
_SWITCHES = ("use_loraplus", "use_ema", *_PYRAMID, *_TRACKERS)
_OFF_AT_ZERO = ("noise_offset", "min_snr_gamma", "network_dropout", "adaptive_noise_scale", "multires_noise_iterations")
_OF_VAL = "upstream splits validation images off by validation_split instead of a folder of their own"
_LOST = {
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
_DEEPEST = 2
_PYRAMID_ITERATIONS = 6  # the value that upstream's documentation recommends, used if the file only says "on"


def script(content: dict[str, Any]) -> str:
    """Return the script for SDXL if the model's name or type says so, else for SD 1.x and 2.x."""
    flat = dict(_flat(content))
    names = " ".join(
        str(flat.get(f"model.{key}", "")) for key in ("pretrained_model_name_or_path", "type", "model_type")
    )
    return families.script_of("sdxl" if "xl" in names.lower() else "")


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
        switches = (flat.get(f"{table}.train_text_encoder") for table in ("training", "advanced"))
        self.trains_text_encoder = any(switch is True for switch in switches)

    def run(self) -> None:
        self.draft.values["network_module"] = "networks.lora"
        for name, value in self.flat.items():
            self._take(name, value)
        self._optimizer_args()
        if "log_with" in self.draft.values:
            # the folder where the tool itself puts its logs
            self.draft.values.setdefault("logging_dir", f"{self.draft.values.get('output_dir', 'output')}/logs")
        if self.dataset or self.subset:
            self.draft.datasets.append({**self.dataset, "subsets": [self.subset] if self.subset else []})

    def _take(self, name: str, value: Any) -> None:
        leaf = name.rpartition(".")[2]
        # the oldest files have these settings in `advanced`, later ones in `training`
        place = name.replace("advanced.", "training.", 1)
        if value is None:
            self.draft.left_out(name, "not set")
        elif leaf == "optimizer":
            self.draft.flag(name, _OPTIMIZERS.get(str(value).lower(), value), to="optimizer_type")
        elif leaf == "train_text_encoder":
            if value is not True:
                self.draft.values["network_train_unet_only"] = True
            self.draft.took(name, "network_train_unet_only", "the opposite of it")
        elif leaf in _EMA or leaf.startswith("ema_"):
            self._ema(name, _EMA.get(leaf, leaf.removeprefix("ema_")), value)
        elif leaf in _SWITCHES:
            self._switch(name, leaf, value)
        elif leaf in _LORA_PLUS:
            self._loraplus(name, leaf, value)
        elif leaf in (*_BETAS, *_OPTIMIZER_ARGS):
            self.draft.took(name, "optimizer_args")
        elif not self._data(name, place, value):
            self._rest(name, leaf, _FLAGS.get(place, leaf), value)

    def _switch(self, name: str, leaf: str, value: Any) -> None:
        draft = self.draft
        if value is not True:
            draft.left_out(name, "off")
        elif leaf == "use_ema":
            draft.runtime.setdefault("ema", {})
            draft.took(name, "runtime.ema")
        elif leaf == "use_loraplus":
            draft.took(name, "network_args.loraplus_lr_ratio")
            draft.network_args.setdefault("loraplus_lr_ratio", self.flat.get("training.loraplus_lr_ratio") or 16)
        elif leaf in _PYRAMID:
            draft.values.setdefault("multires_noise_iterations", _PYRAMID_ITERATIONS)
            draft.took(name, "multires_noise_iterations")
        else:
            tracker = leaf.removeprefix("use_")
            draft.values["log_with"] = "all" if draft.values.get("log_with") not in (None, tracker) else tracker
            draft.took(name, "log_with")

    def _data(self, name: str, place: str, value: Any) -> bool:
        """Set an option of the data set; return whether the key is one."""
        table, _, leaf = place.partition(".")
        to, style = _DATA.get(leaf, leaf), self.draft.schema.datasets.styles["dreambooth"]
        is_of_subset = to in style.subset.keys
        if not (table == "dataset" or (table == "training" and leaf in _OF_TRAINING)):
            return False
        if not is_of_subset and to not in style.dataset.keys:
            return False
        if value is False:
            self.draft.left_out(name, "off, as it is by default")
        else:
            (self.subset if is_of_subset else self.dataset)[to] = value
            self.draft.took(name, f"datasets{'.subsets' if is_of_subset else ''}.{to}")
        return True

    def _loraplus(self, name: str, leaf: str, value: Any) -> None:
        if self.flat.get("training.use_loraplus") is True:
            self.draft.network(name, value, to=leaf)
        else:
            self.draft.left_out(name, "use_loraplus is off")

    def _ema(self, name: str, to: str, value: Any) -> None:
        if not any(self.flat.get(f"{table}.use_ema") is True for table in ("training", "advanced")):
            self.draft.left_out(name, "use_ema is off")
        elif isinstance(value, int | float):
            self.draft.runtime.setdefault("ema", {})[to] = value
            self.draft.took(name, f"runtime.ema.{to}")
        else:
            self.draft.lost(name, f"{value!r} is no number")

    def _rest(self, name: str, leaf: str, to: str, value: Any) -> None:
        is_off = value in (False, [], {}, "")
        if value is False:
            self.draft.left_out(name, "off")
        elif to in _OFF_AT_ZERO and value == 0:
            self.draft.left_out(name, "0 turns it off")
        elif to == "text_encoder_lr" and not self.trains_text_encoder:
            self.draft.left_out(name, "the text encoder is not trained")
        elif leaf in _LOST and not is_off:
            self.draft.lost(name, _LOST[leaf])
        elif leaf not in _LOST and self.draft.schema.flag(to):
            self.draft.flag(name, value, to=to)
        elif is_off:
            self.draft.left_out(name, "off")
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
