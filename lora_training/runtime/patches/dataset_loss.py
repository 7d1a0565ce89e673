"""Weight the loss by dataset, and add terms to it that compare prediction and target as images.

A dataset or subset sets them in upstream's own `custom_attributes`, which are part of each sample:

    custom_attributes = { loss_weight = 0.5, lambda_struct = 0.1, lambda_light = 0, lambda_color = 0, lambda_tex = 0 }

A sample's loss is loss_weight * (upstream's loss + the sum of lambda * term), with the terms of `runtime.terms`. With
masked loss, the terms cover the masked area only. Upstream's own factors (regularization, min-SNR) apply to the whole
sum. With a weight of 1 and every lambda 0, the defaults, the loss is bit for bit upstream's. Validation does not
change.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from lora_training.problems import Problem
from lora_training.runtime import training
from lora_training.runtime.model import RuntimePatch, Target, limits, refuse, settings_problems
from lora_training.runtime.run import Run, Watcher

_FACTOR = "lora_scope_factor"


@dataclass(frozen=True)
class Settings:
    """`loss_scope`: how `loss_weight` is applied.

    `global`: to each sample, so a dataset with more samples has more influence. `per_dataset`: to the whole dataset:
    each sample's weight is multiplied by (all samples / datasets) / (its dataset's samples).
    """

    loss_scope: Literal["global", "per_dataset"] = "global"


@dataclass(frozen=True)
class Attributes:
    """The keys of a subset's `custom_attributes` that this patch uses."""

    loss_weight: float = limits(1.0, least=0)
    lambda_struct: float = limits(0.0, least=0)
    lambda_light: float = limits(0.0, least=0)
    lambda_color: float = limits(0.0, least=0)
    lambda_tex: float = limits(0.0, least=0)


_LAMBDAS = tuple(field.name for field in fields(Attributes) if field.name.startswith("lambda_"))


def attribute_problems(attributes: Mapping[str, Any]) -> list[Problem]:
    """Return the problems in the keys `loss_*` and `lambda_*` of a subset's `custom_attributes`."""
    ours = {name: value for name, value in attributes.items() if name.startswith(("loss_", "lambda_"))}
    return list(settings_problems(Attributes, ours))


class _DatasetLoss(Watcher):
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lambdas: dict[str, list[float]] = {}
        self._batch: dict[str, Any] = {}
        self._compared: tuple[Any, Any] | None = None

    def datasets_made(self, group: Any) -> None:
        for subset in (subset for dataset in group.datasets for subset in dataset.subsets):
            where = subset.image_dir or getattr(subset, "metadata_file", "")
            refuse(f"custom_attributes of {where}", attribute_problems(subset.custom_attributes))
        if self._settings.loss_scope == "per_dataset":
            _weigh_datasets(group.datasets)
        training.wrap(self.run.trainer, "get_noise_pred_and_target", self._keep)
        training.wrap(self.run.trainer, "post_process_loss", self._add)

    def batch_given(self, batch: dict[str, Any]) -> None:
        samples = batch["custom_attributes"]
        weights = [float(each.get("loss_weight", 1.0) * each.get(_FACTOR, 1.0)) for each in samples]
        if any(weight != 1.0 for weight in weights):
            from lora_training.runtime import terms

            batch["loss_weights"] = batch["loss_weights"] * terms.factors_on(batch["loss_weights"], weights)
        values = {name: [float(each.get(name, 0.0)) for each in samples] for name in _LAMBDAS}
        self._lambdas = {name: each for name, each in values.items() if any(each)}
        self._batch = batch

    def _keep(self, run: Run, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        result = method(*args, **kwargs)
        self._compared = None if run.validating else result[:2]
        return result

    def _add(self, _run: Run, method: Callable[..., Any], loss: Any, *args: Any, **kwargs: Any) -> Any:
        if self._lambdas and self._compared:
            loss = loss + self._terms(*self._compared).to(loss.dtype) * self._batch["loss_weights"]
        self._compared = None
        return method(loss, *args, **kwargs)

    def _terms(self, predicted: Any, target: Any) -> Any:
        from lora_training.runtime import terms

        predicted, target = predicted.float(), target.float()
        if self.run.args.masked_loss or self._batch.get("alpha_masks") is not None:
            # with the difference set to 0 outside of the mask, only the area inside counts
            masked = sys.modules["library.custom_train_functions"].apply_masked_loss
            predicted = target + masked(predicted - target, self._batch)
        return terms.weighted(predicted, target, self._lambdas)


def _weigh_datasets(datasets: list[Any]) -> None:
    """Add to each subset's attributes the factor that gives all datasets the same total weight."""
    # of regularization images alone, upstream uses none
    used = [dataset for dataset in datasets if dataset.num_train_images]
    each = sum(dataset.num_train_images for dataset in used) / max(1, len(used))
    for dataset in used:
        for subset in dataset.subsets:
            # several subsets may share one dict
            subset.custom_attributes = subset.custom_attributes | {_FACTOR: each / dataset.num_train_images}


PATCH = RuntimePatch(
    name="dataset-loss",
    reason="Upstream weighs all training images alike, and compares latents pixel by pixel only.",
    upstream_version="v0.11.1",
    verification="tests/runtime/test_dataset_loss.py, tests/runtime/test_terms.py",
    removal_condition="upstream has a weight for each dataset and these terms",
    targets=(
        *training.TARGETS,
        Target("train_network", "NetworkTrainer.process_batch", "4b04383f4d87bf11"),
        Target("library.dataset", "BaseDataset.__getitem__", "cc6945aee6ab27ed"),
        Target("library.custom_train_functions", "apply_masked_loss", "43a7187e9f9b337e"),
    ),
    watcher=_DatasetLoss,
    settings=Settings,
)
