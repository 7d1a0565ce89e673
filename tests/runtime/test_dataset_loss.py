from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lora_training.runtime.patches import dataset_loss
from tests.runtime.conftest import CACHED, Trainer, Training, copied_images, dataset, poison, same

LOSS = {"progress": {}, "dataset-loss": {}}
# one sample a batch; and an optimizer that does not move where the gradient is zero
SINGLE = ("optimizer_type=SGD", "learning_rate=10", "max_train_steps=8", *CACHED)


def with_attributes(datasets: list[dict[str, Any]], *attributes: dict[str, Any]) -> list[dict[str, Any]]:
    for subset, each in zip(datasets[0]["subsets"], attributes, strict=True):
        subset["custom_attributes"] = each
    return datasets


@pytest.mark.upstream
def test_weights_1_and_0_train_exactly_as_the_first_subset_alone_on_the_same_batches(
    train: Trainer, tmp_path: Path
) -> None:
    """The other run's second subset is NaN, and nan-guard skips each of its steps: only the first one trains."""
    first, second = copied_images(tmp_path / "first"), copied_images(tmp_path / "second")
    for folder in (first, second):
        for image in sorted(folder.iterdir())[4:]:
            image.unlink()
    datasets = dataset(first, second, batch_size=1)
    both = train(tmp_path / "both", *SINGLE, runtime={"progress": {}}, datasets=datasets)
    weighted = train(
        tmp_path / "weighted", *SINGLE, runtime=LOSS, datasets=with_attributes(datasets, {}, {"loss_weight": 0})
    )
    for cache in second.glob("*.npz"):
        poison(cache)
    alone = train(
        tmp_path / "alone",
        *SINGLE,
        runtime={"nan-guard": {}, "progress": {}},
        datasets=dataset(first, second, batch_size=1),
    )
    assert (weighted.code, alone.code) == (0, 0), weighted.log + alone.log
    assert [event["loss"] for event in weighted.of("step")].count(0) == len(alone.of("skipped")) == 4
    assert same(weighted.weights(), alone.weights())
    assert not same(weighted.weights(), both.weights())


@pytest.mark.upstream
@pytest.mark.parametrize(
    ("scope", "attributes"),
    [
        ("global", {}),
        (
            "global",
            dict.fromkeys(["lambda_struct", "lambda_light", "lambda_color", "lambda_tex"], 0) | {"loss_weight": 1},
        ),
        ("per_dataset", {}),
    ],
)
def test_weight_1_and_every_lambda_0_is_bit_for_bit_upstreams_loss(
    train: Trainer, tmp_path: Path, plain_of_copy: tuple[Path, Training], scope: str, attributes: dict[str, Any]
) -> None:
    images, plain = plain_of_copy
    runtime = {"dataset-loss": {"loss_scope": scope}}
    done = train(tmp_path, runtime=runtime, datasets=with_attributes(dataset(images), attributes))
    assert done.code == 0, done.log
    assert same(done.weights(), plain.weights())


@pytest.fixture(scope="module")
def plain_of_copy(train: Trainer, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Training]:
    images = copied_images(tmp_path_factory.mktemp("copy") / "images")
    return images, train(images.parent / "out", datasets=dataset(images), runtime={"progress": {}})


@pytest.mark.upstream
def test_a_dataset_of_regularization_images_only_has_no_weight_and_ends_nothing(train: Trainer, tmp_path: Path) -> None:
    """Upstream uses as many of them as of its other images: none."""
    datasets = [*dataset(copied_images(tmp_path / "images")), *dataset(copied_images(tmp_path / "regular"))]
    datasets[1]["subsets"][0]["is_reg"] = True
    plain = train(tmp_path / "plain", datasets=datasets)
    done = train(tmp_path / "weighed", datasets=datasets, runtime={"dataset-loss": {"loss_scope": "per_dataset"}})
    assert (plain.code, done.code) == (0, 0), done.log
    assert same(done.weights(), plain.weights())


@pytest.mark.upstream
def test_a_term_raises_the_loss_by_its_lambda(
    train: Trainer, tmp_path: Path, plain_of_copy: tuple[Path, Training]
) -> None:
    images, plain = plain_of_copy

    def first_loss(name: str, **attributes: float) -> float:
        datasets = with_attributes(dataset(images), attributes)
        done = train(tmp_path / name, "max_train_steps=1", runtime=LOSS, datasets=datasets)
        assert done.code == 0, done.log
        return float(done.of("step")[0]["loss"])

    base = plain.of("step")[0]["loss"]
    once = first_loss("once", lambda_struct=1, lambda_light=0.5) - base
    assert once > 0.1
    assert first_loss("twice", lambda_struct=2, lambda_light=1) - base == pytest.approx(2 * once, rel=1e-5)
    assert first_loss("half", loss_weight=0.5, lambda_struct=1, lambda_light=0.5) == pytest.approx((base + once) / 2)


@pytest.mark.upstream
def test_an_attribute_that_is_wrong_stops_the_start_with_the_nearest_name(train: Trainer, tmp_path: Path) -> None:
    images = copied_images(tmp_path / "images")
    attributes = {"loss_wieght": 1, "lambda_tex": "much", "diff_output_preservation": False}
    done = train(tmp_path, runtime=LOSS, datasets=with_attributes(dataset(images), attributes))
    assert done.code == 3
    assert "did you mean `loss_weight`?" in done.log
    assert "`lambda_tex` must be a number, not 'much'" in done.log
    assert str(images) in done.log
    assert "Traceback" not in done.log


def test_per_dataset_gives_each_dataset_the_same_weight_however_large_it_is() -> None:
    def stub(size: int) -> Any:
        shared = {"loss_weight": 2.0}
        subsets = [SimpleNamespace(custom_attributes=shared) for _ in range(2)]
        return SimpleNamespace(num_train_images=size, subsets=subsets)

    datasets = [stub(30), stub(10)]
    dataset_loss._weigh_datasets(datasets)
    factors = [each.subsets[1].custom_attributes["lora_scope_factor"] for each in datasets]
    assert [30 * factors[0], 10 * factors[1]] == pytest.approx([20, 20])
    assert datasets[0].subsets[0].custom_attributes["loss_weight"] == 2.0
