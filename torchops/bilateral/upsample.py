"""Joint bilateral upsampling: a small image in, the edges of a large guide in the result."""

from functools import partial
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from torchops._common.checks import check_choice, check_image, check_same_device, describe
from torchops._common.precision import compute_dtype, no_autocast
from torchops.bilateral.arguments import (
    IMAGE_DTYPES,
    Batch,
    by_group,
    make_batch,
    restore,
    window_radii,
)
from torchops.bilateral.cells import area_mean, window_sums
from torchops.bilateral.exact import countable, normalised
from torchops.bilateral.filter import Image, Sigma


class _Problem(NamedTuple):
    """A batch on the small grid, whose guide is `area_mean` of the large one, and that guide."""

    small: Batch
    guide: Tensor  # (B, D, H, W)

    def select(self, samples: list[int]) -> "_Problem":
        """Keep some samples."""
        index = torch.tensor(samples, device=self.guide.device)
        return _Problem(self.small.select(samples), self.guide.index_select(0, index))


def joint_bilateral_upsample(
    image: Image,
    guide: Image,
    sigma_space: Sigma | tuple[Sigma, Sigma],
    sigma_range: Sigma,
    *,
    radius: int | tuple[int, int] | None = None,
    distance: Literal["l2", "l1"] = "l2",
    mask: Bool[Tensor, "..."] | Float[Tensor, "..."] | None = None,
) -> Image:
    """Enlarge an image to the size of a guide, with the edges where the guide has them.

    For depth, labels, chroma, exposure: whatever was cheap to get at low resolution while a
    photograph of the scene is there at full resolution. With p a pixel of the guide, p' its
    position on the grid of the small image, q the pixels of that image and m the mask::

        output_p = sum_q m_q w_pq image_q / sum_q m_q w_pq
        w_pq = exp(-|p' - q|^2 / (2 sigma_space^2)) exp(-d(guide_p, mean_q)^2 / (2 sigma_range^2))

    The two grids cover the same area, edge on edge: with s = H / h, pixel i of the small image
    covers [i s, (i + 1) s) of the guide's rows, and p' = (p + 1/2) / s - 1/2. mean_q is the mean of
    the guide over that area, parts of pixels included, because a small image is most often made so:
    where q mixes two sides of an edge, mean_q is a mixture too, and neither side takes it.

    Args:
        image: (*batch, C, h, w), floating or uint8; any number of channels, any range of values.
        guide: (*batch, D, H, W), floating or uint8, no smaller than ``image`` on either axis; any
            ratios H / h and W / w.
        sigma_space: Standard deviation of the spatial Gaussian in pixels of ``image``: a number, a
            0-d tensor, a tensor of the batch shape, or a pair of these (y, x). 0.5 to 1 serves
            dense images; sparse ones need about the distance between their samples.
        sigma_range: Standard deviation of the range Gaussian in units of the guide (grey levels
            for a uint8 guide). A number, a 0-d tensor or a tensor of the batch shape.
        radius: How many pixels of ``image`` the window reaches to each side of the one that p lies
            in, also as a pair (y, x). Default: ceil(3 * sigma_space) of each sample, which for
            0.5 is the 5 x 5 window of the paper; read as in `bilateral_filter`.
        distance: d between two guide values across channels, "l2" or "l1".
        mask: (*batch, 1, h, w), boolean or weights in [0, 1]: how much a pixel of ``image`` counts,
            such as the validity of sparse depth. Where it is 0 the image may hold anything.

    Returns:
        (*batch, C, H, W), leading dimensions broadcast, of the dtype of ``image``; uint8 is rounded
        half to even. Nothing lies outside the image: the window ends at its border. Weights
        are taken relative to the largest of the window, so that a guide value unlike all others
        takes what is least unlike it. 0 where nothing in the window counts, and where the guide is
        not finite; mean_q leaves such guide pixels out, and a q that covers no others is masked.

    Raises:
        TypeError: If an argument has the wrong type or dtype.
        ValueError: If a shape, a value or a device does not fit; or if ``radius`` is needed while
            the value of a tensor sigma_space cannot be read (see `bilateral_filter`).

    Gradients:
        To image, guide, float mask and both sigmas, in memory for a few images of the guide's
        size; derivatives of second order keep that much for every pixel of the window. 0 where
        the output is defined as 0. Not smooth: "l1" where two guide values are equal. The radius is
        a constant.

    References:
        Kopf, Cohen, Lischinski and Uyttendaele, "Joint bilateral upsampling", 2007.

    Example:
        >>> import torch
        >>> guide = torch.tensor([[[0.0, 0.0, 0.0, 1.0, 1.0, 1.0]]])
        >>> depth = torch.tensor([[[1.0, 2.0, 3.0]]])  # the middle one lies across the edge
        >>> joint_bilateral_upsample(depth, guide, 0.5, 0.1)
        tensor([[[1.0000, 1.0000, 1.0000, 3.0000, 3.0000, 3.0000]]])
    """
    check_choice("distance", distance, ("l2", "l1"))
    check_image("image", image, dtypes=IMAGE_DTYPES)
    check_image("guide", guide, dtypes=IMAGE_DTYPES)
    check_same_device(image=image, guide=guide)
    size, low_size = guide.shape[-2:], image.shape[-2:]
    if size[0] < low_size[0] or size[1] < low_size[1]:
        raise ValueError(
            f"guide must be no smaller than image, whose size is {tuple(low_size)}, "
            f"got {describe(guide)}"
        )
    with no_autocast(image):
        guide = guide.to(compute_dtype(image, guide))
        mean = area_mean(guide, (low_size[0], low_size[1]))
        small, lead = make_batch(image, mean, mask, sigma_space, sigma_range, 2)
        shape = guide.shape[-3:]
        flat_guide = guide.expand(*lead, *shape).reshape(lead.numel(), *shape)
        radii = window_radii(radius, sigma_space, lead, 2)
        run = partial(_upsample, distance=distance)
        result = by_group(_Problem(small, flat_guide), radii, run)
        return restore(result, lead, image.dtype)


def _upsample(problem: _Problem, radii: tuple[int, ...], *, distance: str) -> Tensor:
    """Upsample a batch with one window."""
    small = problem.small
    values, counts, low_guide, _ = countable(small.image, small.guide, small.mask)
    known = problem.guide.isfinite().all(1, keepdim=True)
    guide = torch.where(known, problem.guide, 0)
    sums = window_sums(
        torch.cat([values, counts], 1),
        low_guide,
        guide,
        small.sigma_space,
        small.sigma_range,
        (radii[0], radii[1]),
        distance,
    )
    return normalised(sums[:, :-1], sums[:, -1:], known)
