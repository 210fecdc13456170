"""Colour spaces against Python's colorsys and scikit-image, and their inverses."""

import colorsys

import pytest
import torch
from helpers import assert_close, layouts
from skimage.color import rgb2yuv

from torchops import rgb_to_yiq, rgb_to_yuv, yiq_to_rgb, yuv_to_rgb

PAIRS = [(rgb_to_yuv, yuv_to_rgb), (rgb_to_yiq, yiq_to_rgb)]


def test_yiq_equals_colorsys(device):
    image = torch.rand(3, 4, 5, dtype=torch.float64)
    pixels = image.flatten(1).T.tolist()
    expected = torch.tensor([colorsys.rgb_to_yiq(*rgb) for rgb in pixels], dtype=torch.float64)
    assert_close(rgb_to_yiq(image.to(device)).cpu(), expected.T.reshape(3, 4, 5), 1e-15)


def test_yuv_equals_scikit_image(device):
    # scikit-image scales by 0.492111 and 0.877283; here it is 0.436 / 0.886 and 0.615 / 0.701.
    image = torch.rand(3, 6, 5, dtype=torch.float64)
    expected = torch.from_numpy(rgb2yuv(image.permute(1, 2, 0).numpy())).permute(2, 0, 1)
    assert_close(rgb_to_yuv(image.to(device)).cpu(), expected, 5e-5)


@pytest.mark.parametrize(("forth", "back"), PAIRS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 1e-6)])
def test_inverse_is_the_true_inverse(forth, back, dtype, tolerance, device):
    image = torch.rand(2, 3, 3, 8, 7, dtype=dtype, device=device) * 4 - 2
    assert_close(back(forth(image)), image, 4 * tolerance)


@pytest.mark.parametrize(("forth", "back"), PAIRS)
def test_grey_has_no_chroma(forth, back, device):
    grey = torch.rand(1, 5, 5, dtype=torch.float64, device=device).expand(3, 5, 5)
    converted = forth(grey)
    assert_close(converted[0], grey[0], 1e-15)
    assert converted[1:].abs().max() < 1e-15


@pytest.mark.parametrize("convert", [f for pair in PAIRS for f in pair])
def test_dtypes_layouts_and_empty_batches(convert, device):
    image = torch.rand(2, 3, 6, 5, device=device)
    expected = convert(image.double())
    for dtype, tolerance in [(torch.float32, 1e-6), (torch.float16, 5e-3), (torch.bfloat16, 4e-2)]:
        result = convert(image.to(dtype))
        assert result.dtype == dtype
        assert_close(result, expected, tolerance)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        assert_close(convert(image), expected, 1e-6)
    for _, view in layouts(image):
        assert torch.equal(convert(view), convert(image))
    assert convert(image[:0]).shape == (0, 3, 6, 5)


@pytest.mark.parametrize("convert", [f for pair in PAIRS for f in pair])
def test_gradient(convert):
    image = torch.rand(3, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(convert, (image,))
