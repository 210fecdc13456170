"""What ships as sample pictures: small, of stated origin and licence, and readable."""

import re

import pytest
import torch
from helpers import SAMPLES

from torchops.cli.io import read_hdr, read_image, sample_path

PICTURES = sorted(path.name for path in SAMPLES.iterdir() if path.name != "README.md")


def test_the_whole_folder_is_at_most_3_megabytes():
    assert sum(path.stat().st_size for path in SAMPLES.iterdir()) <= 3_000_000


def test_every_picture_has_a_row_with_origin_and_licence_and_every_row_a_picture():
    rows = [
        [cell.strip() for cell in line.strip("|\n ").split("|")]
        for line in (SAMPLES / "README.md").read_text().splitlines()
        if line.startswith("| `")
    ]
    assert sorted(row[0].strip("`") for row in rows) == PICTURES
    for quoted, what, size, origin, licence in rows:
        name = quoted.strip("`")
        width, height = map(int, re.fullmatch(r"(\d+) x (\d+)", size).groups())
        read = read_hdr if name.endswith(".hdr") else read_image
        assert read(sample_path(name)).shape[-2:] == (height, width)
        assert what
        assert origin
        assert re.match(r"CC0: |public domain: ", licence)


@pytest.mark.parametrize("name", ["camera.png", "chelsea.png", "coffee.png", "astronaut.png"])
def test_photographs_are_what_scikit_image_ships(name):
    data = pytest.importorskip("skimage").data
    array = torch.from_numpy(getattr(data, name.removesuffix(".png"))())
    expected = array[None] if array.ndim == 2 else array.permute(2, 0, 1)
    assert torch.equal(read_image(sample_path(name)), (expected.double() / 255).float())


def test_the_radiance_picture_needs_tone_mapping():
    image = read_hdr(sample_path("courtyard.hdr"))
    luminance = (image * torch.tensor([0.2126, 0.7152, 0.0722])[:, None, None]).sum(0).flatten()
    low, high = luminance.double().quantile(torch.tensor([0.01, 0.99], dtype=torch.float64))
    assert (high / low).log2() > 12  # stops


def test_an_unknown_sample_name_lists_the_known_ones():
    with pytest.raises(
        ValueError, match=r"name must be one of astronaut\.png, .*, got 'lena\.png'"
    ):
        sample_path("lena.png")
