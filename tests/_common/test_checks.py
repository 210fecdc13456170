"""Every error text has one form: "<argument> must be <requirement>, got <what came>"."""

import pytest
import torch

from torchops._common import checks


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: checks.check_image("image", [1]), TypeError, "image must be a torch.Tensor, got"),
        (
            lambda: checks.check_image("image", torch.zeros(3, 4)),
            ValueError,
            r"image must be of shape \(\*batch, C, H, W\), got a float32 tensor of shape \(3, 4\)",
        ),
        (
            lambda: checks.check_image("image", torch.zeros(3, 4, 4, dtype=torch.int32)),
            TypeError,
            "image must be of dtype float16, bfloat16, float32, float64, got a int32 tensor",
        ),
        (
            lambda: checks.check_image("luma", torch.zeros(3, 4, 4), channels=1),
            ValueError,
            "luma must have 1 channel",
        ),
        (
            lambda: checks.check_image("image", torch.zeros(3, 0, 4)),
            ValueError,
            "image must have at least one channel and pixel",
        ),
        (
            lambda: checks.check_number("sigma", float("nan"), above=0),
            ValueError,
            "sigma must be a finite number > 0, got nan",
        ),
        (
            lambda: checks.check_number("p", 1.5, minimum=0, maximum=1),
            ValueError,
            "p must be a finite number >= 0 and <= 1, got 1.5",
        ),
        (
            lambda: checks.check_number("p", True),
            TypeError,
            "p must be a finite number, got True",
        ),
        (
            lambda: checks.check_integer("radius", -1, minimum=0),
            ValueError,
            "radius must be an integer >= 0, got -1",
        ),
        (
            lambda: checks.check_integer("radius", 1.0),
            TypeError,
            "radius must be an integer, got 1.0",
        ),
        (
            lambda: checks.check_choice("border", "wrap", ("zeros", "reflect")),
            ValueError,
            "border must be one of 'zeros', 'reflect', got 'wrap'",
        ),
        (
            lambda: checks.check_bool("inplace", 1),
            TypeError,
            "inplace must be True or False, got 1",
        ),
        (
            lambda: checks.check_same_device(
                image=torch.zeros(1), guide=torch.zeros(1, device="meta"), mask=None
            ),
            ValueError,
            "image and guide must be on one device, got image on cpu, guide on meta",
        ),
        (
            lambda: checks.broadcast_batch(template=(2, 3), image=(4, 3)),
            ValueError,
            r"must have batch dimensions that broadcast, got template \(2, 3\), image \(4, 3\)",
        ),
    ],
)
def test_messages(call, error, text):
    with pytest.raises(error, match=text):
        call()


def test_what_is_right_passes():
    checks.check_image("image", torch.zeros(0, 3, 4, 4))
    checks.check_number("sigma", 1, above=0)
    checks.check_integer("radius", 0, minimum=0)
    assert checks.broadcast_batch(template=(1, 3), image=(4, 1)) == (4, 3)
