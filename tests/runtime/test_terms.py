from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from lora_training.runtime import terms  # noqa: E402 - needs torch


def pictures(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", terms.TERMS)
def test_a_term_is_zero_between_the_same_and_positive_otherwise(name: str) -> None:
    target = pictures(2, 4, 8, 8)
    predicted = target.clone()
    predicted[1, :, :2] *= 3
    found = terms.TERMS[name](predicted, target)
    assert found[0] == 0
    assert found[1] > 0


@pytest.mark.parametrize("name", terms.TERMS)
def test_a_term_has_a_finite_slope_even_where_it_is_zero(name: str) -> None:
    predicted = torch.ones(1, 4, 8, 8, requires_grad=True)
    terms.TERMS[name](predicted, torch.ones(1, 4, 8, 8)).sum().backward()
    assert predicted.grad.isfinite().all()


def test_structure_sees_edges_and_no_change_of_level() -> None:
    flat, edge = torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)
    edge[..., 2:] = 6.0
    assert terms.structure(flat + 5, flat).item() == 0
    # one of three horizontal differences is 6 in each row, and no vertical one is anything
    assert terms.structure(edge, flat).item() == pytest.approx(2.0)


def test_light_sees_the_level_and_not_the_pattern() -> None:
    flat = torch.zeros(1, 2, 8, 8)
    checks = (torch.arange(8)[:, None] + torch.arange(8)[None]) % 2 * 2.0 - 1.0
    assert terms.light(flat + 3, flat).item() == pytest.approx(9.0)
    assert terms.light(flat + checks, flat).item() == pytest.approx(0.0)


def test_color_sees_each_channels_mean_and_deviation_and_not_the_places() -> None:
    target = pictures(1, 3, 8, 8)
    assert terms.color(target.flip(-1), target).item() == pytest.approx(0.0, abs=1e-9)
    shifted = target.clone()
    shifted[:, 0] += 3.0
    assert terms.color(shifted, target).item() == pytest.approx(9.0 / 3, rel=1e-5)


def test_texture_sees_the_pattern_and_not_the_level() -> None:
    flat = torch.zeros(1, 1, 8, 8)
    checks = (torch.arange(8)[:, None] + torch.arange(8)[None]) % 2 * 2.0 - 1.0
    assert terms.texture(flat + 3, flat).item() == pytest.approx(0.0)
    assert terms.texture(flat + checks, flat).item() == pytest.approx(1.0)


def test_every_sample_has_its_own_factors() -> None:
    predicted, target = pictures(2, 4, 8, 8), torch.zeros(2, 4, 8, 8)
    found = terms.weighted(predicted, target, {"lambda_struct": [0.0, 2.0], "lambda_tex": [3.0, 0.0]})
    assert found[0] == 3 * terms.texture(predicted, target)[0]
    assert found[1] == 2 * terms.structure(predicted, target)[1]


def test_frames_of_a_video_count_as_channels_and_small_latents_are_fine() -> None:
    found = terms.weighted(
        pictures(2, 4, 1, 3, 5), torch.zeros(2, 4, 1, 3, 5), {name: [1.0, 1.0] for name in terms.TERMS}
    )
    assert found.shape == (2,)
    assert found.isfinite().all()
