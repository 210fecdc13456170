"""Each test is named after a mistake of common bilateral filter code that it would catch."""

import math

import torch
from helpers import smooth_image

import torchops


def test_the_spatial_gaussian_evaluated_on_pixel_values_instead_of_positions():
    # With an enormous range sigma only positions can matter: the result is a Gaussian blur, the
    # same for an image and for the image with all values negated and shifted.
    image = smooth_image(1, 15, 17)
    blurred = torchops.bilateral_filter(image, 1.5, 1e6)
    negated = torchops.bilateral_filter(7 - image, 1.5, 1e6)
    assert (blurred + negated - 7).abs().max() < 1e-9
    impulse = torch.zeros(1, 15, 17, dtype=torch.float64)
    impulse[0, 7, 8] = 1e-3
    response = torchops.bilateral_filter(impulse, 1.5, 1e6)[0]
    assert math.isclose(
        response[7, 10] / response[7, 8], math.exp(-(2**2) / (2 * 1.5**2)), rel_tol=1e-6
    )


def test_first_and_last_row_dropped():
    for border in ("reflect", "replicate", "circular", "valid_only"):
        image = torch.full((1, 7, 9), 0.7, dtype=torch.float64)
        filtered = torchops.bilateral_filter(image, 2.0, 0.1, border=border)
        assert (filtered - image).abs().max() < 1e-12, border
    # What happens in the first row is seen in the first row, and the last in the last.
    image = smooth_image(1, 7, 9)
    for row in (0, -1):
        changed = image.clone()
        changed[:, row] += 0.05
        step = torchops.bilateral_filter(changed, 2.0, 0.3) - torchops.bilateral_filter(
            image, 2.0, 0.3
        )
        assert step[:, row].abs().min() > 1e-4


def test_intensities_multiplied_instead_of_subtracted():
    # Only differences count: a shift of the image shifts the result.
    image = smooth_image(1, 9, 11)
    shifted = torchops.bilateral_filter(image + 5, 2.0, 0.1) - 5
    assert (shifted - torchops.bilateral_filter(image, 2.0, 0.1)).abs().max() < 1e-9


def test_natural_logarithm_for_gamma_beside_layers_in_decades():
    # The two flat halves keep exactly the contrast that was asked for, not its 2.3rd power.
    radiance = torch.ones(3, 24, 24, dtype=torch.float64)
    radiance[:, :, 12:] = 1000.0
    mapped = torchops.durand_tonemap(radiance, contrast=5.0, method="exact")
    assert math.isclose(mapped.max() / mapped.min(), 5.0, rel_tol=1e-6)
