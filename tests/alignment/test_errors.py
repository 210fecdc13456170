"""Wrong arguments: each message names the argument, what it must be and what came."""

import pytest
import torch

from torchops import (
    LucasKanadeAligner,
    align,
    from_kornia,
    from_opencv,
    motion_jacobian,
    motion_matrix,
    motion_parameters,
    parameter_covariance,
    to_kornia,
    to_opencv,
    warp_image,
    warp_points,
)

pytestmark = pytest.mark.unhooked

CUT, IMAGE = torch.rand(1, 8, 8), torch.rand(1, 20, 20)
EYE = torch.eye(3)


def aligned(**changes):
    arguments = {"template": CUT, "image": IMAGE} | changes
    return lambda: align(arguments.pop("template"), arguments.pop("image"), **arguments)


CASES = {
    "uint8 template": (
        aligned(template=(CUT * 255).byte()),
        TypeError,
        r"template must be of dtype float16.* got a uint8 tensor",
    ),
    "no tensor": (aligned(image=[[1.0]]), TypeError, r"image must be a torch.Tensor, got a list"),
    "rank": (aligned(template=CUT[0]), ValueError, r"template must be of shape \(\*batch, C, H"),
    "no pixel": (
        aligned(image=IMAGE[..., :0]),
        ValueError,
        r"image must have at least one channel and pixel",
    ),
    "dtypes": (
        aligned(image=IMAGE.double()),
        TypeError,
        r"image must be of the dtype of template, got a float64",
    ),
    "channels": (
        aligned(image=IMAGE.expand(3, 20, 20)),
        ValueError,
        r"image must have as many channels as template, 1, got .*\(3, 20, 20\)",
    ),
    "batches": (
        aligned(template=CUT.expand(2, 1, 8, 8), image=IMAGE.expand(3, 1, 20, 20)),
        ValueError,
        r"template and image must have batch dimensions that broadcast",
    ),
    "devices": (
        aligned(image=IMAGE.to("meta")),
        ValueError,
        r"template and image must be on one device, got template on cpu, image on meta",
    ),
    "motion": (
        aligned(motion="rigid"),
        ValueError,
        r"motion must be one of 'translation', .*, got 'rigid'",
    ),
    "algorithm": (
        aligned(algorithm="inverse"),
        ValueError,
        r"algorithm must be one of .*, got 'inverse'",
    ),
    "gradient": (aligned(gradient="last"), ValueError, r"gradient must be one of 'implicit'"),
    "iterations": (
        aligned(iterations=0),
        ValueError,
        r"iterations must be an integer >= 1, got 0",
    ),
    "iterations type": (aligned(iterations=2.0), TypeError, r"iterations must be an integer >= 1"),
    "levels": (aligned(levels=0), ValueError, r"levels must be an integer >= 1, got 0"),
    "tol": (aligned(tol=-1e-3), ValueError, r"tol must be a finite number >= 0, got -0.001"),
    "tol nan": (aligned(tol=float("nan")), ValueError, r"tol must be a finite number >= 0"),
    "initial shape": (
        aligned(initial=torch.eye(2)),
        ValueError,
        r"initial must be of shape \(\*batch, 3, 3\), got .*\(2, 2\)",
    ),
    "initial dtype": (
        aligned(initial=torch.eye(3, dtype=torch.long)),
        TypeError,
        r"initial must be of dtype float16",
    ),
    "mask dtype": (
        aligned(template_mask=torch.ones(1, 8, 8)),
        TypeError,
        r"template_mask must be of dtype bool, got a float32",
    ),
    "mask shape": (
        aligned(image_mask=torch.ones(1, 8, 8, dtype=torch.bool)),
        ValueError,
        r"image_mask must be of shape \(\*batch, 1, 20, 20\), got a bool tensor",
    ),
    "mask channels": (
        aligned(template_mask=torch.ones(2, 8, 8, dtype=torch.bool)),
        ValueError,
        r"template_mask must be of shape \(\*batch, 1, 8, 8\)",
    ),
    "module options": (
        lambda: LucasKanadeAligner(CUT, motion="rigid"),
        ValueError,
        r"motion must be one of",
    ),
    "module mask": (
        lambda: LucasKanadeAligner(CUT, template_mask=torch.ones(1, 8, 8)),
        TypeError,
        r"template_mask must be of dtype bool",
    ),
    "module image": (
        lambda: LucasKanadeAligner(CUT)(IMAGE.double()),
        TypeError,
        r"image must be of the dtype of template",
    ),
    "parameters": (
        lambda: motion_matrix(torch.zeros(5), "affine"),
        ValueError,
        r"parameters must be of shape \(\*batch, 6\) for affine, got .*\(5,\)",
    ),
    "parameters dtype": (
        lambda: motion_matrix(torch.zeros(6, dtype=torch.long), "affine"),
        TypeError,
        r"parameters must be of dtype",
    ),
    "parameters motion": (
        lambda: motion_matrix(torch.zeros(6), "projective"),
        ValueError,
        r"motion must be one of",
    ),
    "matrix": (
        lambda: motion_parameters(torch.eye(4), "affine"),
        ValueError,
        r"matrix must be of shape",
    ),
    "outside": (
        lambda: motion_parameters(2 * EYE + EYE.flip(0), "translation"),
        ValueError,
        r"matrix must be a translation, got a matrix outside that group",
    ),
    "points": (
        lambda: motion_jacobian(torch.zeros(4, 3), torch.zeros(6), "affine"),
        ValueError,
        r"points must be of shape \(\*batch, N, 2\), got .*\(4, 3\)",
    ),
    "warp points": (
        lambda: warp_points(torch.zeros(2), EYE),
        ValueError,
        r"points must be of shape",
    ),
    "warp points device": (
        lambda: warp_points(torch.zeros(1, 2), EYE.to("meta")),
        ValueError,
        r"points and matrix must be on one device",
    ),
    "size": (lambda: warp_image(IMAGE, EYE, 5), TypeError, r"size must be two integers"),
    "size value": (
        lambda: warp_image(IMAGE, EYE, (5, 0)),
        ValueError,
        r"size must be an integer >= 1, got 0",
    ),
    "mode": (
        lambda: warp_image(IMAGE, EYE, (5, 5), mode="nearest"),
        ValueError,
        r"mode must be one of 'bilinear', 'bicubic', got 'nearest'",
    ),
    "border": (
        lambda: warp_image(IMAGE, EYE, (5, 5), border="circular"),
        ValueError,
        r"border must be one of",
    ),
    "warp matrix": (
        lambda: warp_image(IMAGE, torch.eye(2), (5, 5)),
        ValueError,
        r"matrix must be of shape",
    ),
    "warp batches": (
        lambda: warp_image(IMAGE.expand(2, 1, 20, 20), EYE.expand(3, 3, 3), (5, 5)),
        ValueError,
        r"image and matrix must have batch dimensions that broadcast",
    ),
    "covariance": (
        lambda: parameter_covariance(CUT, IMAGE, EYE, "rigid"),
        ValueError,
        r"motion must be one of",
    ),
    "to opencv": (lambda: to_opencv([[1.0]]), TypeError, r"matrix must be a torch.Tensor"),
    "to opencv flag": (
        lambda: to_opencv(EYE, inverse_map=1),
        TypeError,
        r"inverse_map must be True or False, got 1",
    ),
    "from opencv": (
        lambda: from_opencv([[1.0, 2.0]]),
        ValueError,
        r"matrix must be of shape \(\*batch, 2, 3\) or \(\*batch, 3, 3\), got \(1, 2\)",
    ),
    "from opencv type": (
        lambda: from_opencv("warp"),
        TypeError,
        r"matrix must be an array of numbers, got 'warp'",
    ),
    "to kornia": (
        lambda: to_kornia(EYE, (4, 5), 7),
        TypeError,
        r"image_size must be two integers \(height, width\), got 7",
    ),
    "from kornia": (
        lambda: from_kornia(EYE, (0, 5), (7, 7)),
        ValueError,
        r"template_size must be an integer >= 1, got 0",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_wrong_arguments(case):
    call, error, message = CASES[case]
    with pytest.raises(error, match=message):
        call()
