"""Loss terms that compare prediction and target as images; each gives one number per sample.

Prediction and target are those that upstream compares: noise, velocity or latents, as the model predicts them. They
have the shape (batch, channels, height, width); other dimensions between the first and the last two count as channels.
All terms are 0 where both are equal, and are computed in float32.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn.functional import avg_pool2d, interpolate

# Side, in latent pixels, of the squares whose mean is the low-frequency part: 32 pixels of an image.
_LOW = 4
_TINY = 1e-8


def structure(predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of the gradients, along both axes: (batch,).

    The gradient difference loss of Mathieu, Couprie and LeCun, "Deep multi-scale video prediction beyond mean square
    error" (ICLR 2016), section 3.2, with the gradients themselves in place of their magnitudes.
    """
    axes = [(predicted.diff(dim=axis) - target.diff(dim=axis)).abs() for axis in (-1, -2)]
    return axes[0].mean(dim=(1, 2, 3)) + axes[1].mean(dim=(1, 2, 3))


def light(predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean squared difference of the low-frequency luminance, the blurred mean of the channels: (batch,).

    After the colour loss of Ignatov et al., "DSLR-quality photos on mobile devices with deep convolutional networks"
    (ICCV 2017), section 3.1: a squared difference after blurring; with a box for the Gaussian, on luminance alone.
    """
    difference = (predicted - target).mean(dim=1, keepdim=True)
    return avg_pool2d(difference, _side(difference)).square().mean(dim=(1, 2, 3))


def color(predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Squared differences of each channel's mean and standard deviation, averaged over the channels: (batch,).

    The statistics loss of Li et al., "Demystifying neural style transfer" (IJCAI 2017), equation 13, on the latents'
    own channels.
    """
    means = predicted.mean(dim=(2, 3)) - target.mean(dim=(2, 3))
    deviations = _deviation(predicted) - _deviation(target)
    return (means.square() + deviations.square()).mean(dim=1)


def texture(predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Squared difference of each channel's high-frequency energy, averaged over the channels: (batch,).

    The energy is the mean square of the image without its low frequencies: the finest level of the pyramid of Burt and
    Adelson, "The Laplacian pyramid as a compact image code" (IEEE Trans. Commun. 1983), with the energy as the
    measure of texture of Laws, "Textured image segmentation" (USC 1980).
    """
    return (_energy(predicted) - _energy(target)).square().mean(dim=1)


TERMS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "lambda_struct": structure,
    "lambda_light": light,
    "lambda_color": color,
    "lambda_tex": texture,
}


def weighted(predicted: torch.Tensor, target: torch.Tensor, factors: dict[str, list[float]]) -> torch.Tensor:
    """Return the sum of the terms, each times its sample's factor: (batch,). `factors` holds lists of batch length."""
    predicted, target = _pictures(predicted), _pictures(target)
    return torch.stack(
        [TERMS[name](predicted, target) * factors_on(predicted, values) for name, values in factors.items()]
    ).sum(dim=0)


def factors_on(beside: torch.Tensor, values: list[float]) -> torch.Tensor:
    """Return the values as a tensor of the type of `beside` on its device, without a synchronization."""
    return torch.tensor(values, dtype=beside.dtype).to(beside.device, non_blocking=True)


def _pictures(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float().reshape(tensor.shape[0], -1, *tensor.shape[-2:])


def _side(tensor: torch.Tensor) -> int:
    return int(min(_LOW, *tensor.shape[-2:]))


def _deviation(tensor: torch.Tensor) -> torch.Tensor:
    # the derivative of the square root is infinite at 0
    return (tensor.var(dim=(2, 3), unbiased=False) + _TINY).sqrt()


def _energy(tensor: torch.Tensor) -> torch.Tensor:
    low = interpolate(avg_pool2d(tensor, _side(tensor)), size=tensor.shape[-2:], mode="nearest")
    return (tensor - low).square().mean(dim=(2, 3))
