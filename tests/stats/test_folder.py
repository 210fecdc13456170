"""Folders of picture files: one stated rule for every mode, one clear error for every bad file."""

import os
import shutil

import numpy as np
import pytest
import torch
from helpers import SAMPLES
from PIL import Image

from torchops import ChannelStats, dataset_stats
from torchops.stats.folder import Folder, picture_to_counts, picture_to_tensor, read_rgb


def noise(*shape, seed=0, dtype=np.uint8):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)


def save(path, array, mode=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(array)
    (picture if mode is None else picture.convert(mode)).save(path)
    return path


def read(path):
    image = read_rgb(path)
    return image if isinstance(image, torch.Tensor) else picture_to_tensor(image)


def planes(array):
    return torch.from_numpy(array.copy()).permute(2, 0, 1)


def test_rgb_is_read_as_it_is(tmp_path):
    array = noise(7, 9, 3)
    image = read(save(tmp_path / "a.png", array))
    assert image.dtype == torch.uint8
    assert torch.equal(image, planes(array))


def test_gray_counts_as_three_equal_channels(tmp_path):
    array = noise(7, 9)
    image = read(save(tmp_path / "a.png", array))
    assert torch.equal(image, torch.from_numpy(array).expand(3, 7, 9))
    bilevel = read(save(tmp_path / "b.png", array, "1"))
    assert sorted(bilevel.unique().tolist()) == [0, 255]
    assert bilevel.shape == (3, 7, 9)


def test_alpha_is_dropped_not_blended(tmp_path):
    array = noise(7, 9, 4)
    assert torch.equal(read(save(tmp_path / "a.png", array)), planes(array[..., :3]))
    gray = noise(7, 9, 2)
    expected = torch.from_numpy(gray[..., 0].copy()).expand(3, 7, 9)
    assert torch.equal(read(save(tmp_path / "b.png", gray)), expected)


@pytest.mark.parametrize("transparent", [None, 3, bytes(range(256))])
def test_palettes_are_looked_up(tmp_path, transparent):
    picture = Image.fromarray(noise(20, 20, 3)).quantize(16)
    expected = planes(np.asarray(picture.convert("RGB")))
    options = {} if transparent is None else {"transparency": transparent}
    picture.save(tmp_path / "a.png", **options)
    assert torch.equal(read(tmp_path / "a.png"), expected)
    assert len(expected.flatten(1).unique(dim=1).T) <= 16


def test_cmyk_is_converted_as_pillow_does(tmp_path):
    Image.fromarray(noise(16, 16, 3)).convert("CMYK").save(tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as picture:
        assert picture.mode == "CMYK"
        expected = planes(np.asarray(picture.convert("RGB")))
    assert torch.equal(read(tmp_path / "a.jpg"), expected)


def test_sixteen_bits_are_kept(tmp_path):
    gray = noise(7, 9, dtype=np.uint16)
    for name in ("a.png", "a.tif", "a.pgm"):
        image = read(save(tmp_path / name, gray))
        assert image.dtype == torch.uint16, name
        assert torch.equal(image.int(), torch.from_numpy(gray.astype(np.int32)).expand(3, 7, 9))


@pytest.mark.parametrize("name", ["rgb.png", "rgba.png", "rgb.ppm", "rgb.tif"])
def test_sixteen_bit_colour_is_refused_rather_than_cut_to_eight(tmp_path, name):
    import cv2

    array = noise(7, 9, 4 if "rgba" in name else 3, dtype=np.uint16)
    cv2.imwrite(str(tmp_path / name), array)
    with pytest.raises(ValueError, match=rf"{name} \(16-bit colour, which Pillow would cut to 8"):
        dataset_stats(tmp_path, progress=False)


def test_float_tiff_is_floating(tmp_path):
    array = np.linspace(-1, 3, 63, dtype=np.float32).reshape(7, 9)
    stats = dataset_stats(save(tmp_path / "a.tif", array).parent, progress=False)
    assert stats.min.tolist() == [-1] * 3
    assert stats.max.tolist() == [3] * 3


def test_exif_rotation_changes_nothing(tmp_path):
    array = noise(8, 12, 3)
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "turned").mkdir()
    Image.fromarray(array).save(tmp_path / "turned" / "a.png", exif=exif)
    save(tmp_path / "upright" / "a.png", np.rot90(array).copy())
    a, b = (dataset_stats(tmp_path / name, progress=False) for name in ("turned", "upright"))
    assert torch.equal(a.std, b.std)
    assert torch.equal(a.mean_image_std, b.mean_image_std)


def test_of_several_frames_the_first_counts(tmp_path):
    first, second = Image.new("L", (4, 4), 10), Image.new("L", (4, 4), 200)
    first.save(tmp_path / "a.tif", save_all=True, append_images=[second])
    assert dataset_stats(tmp_path, progress=False).max.tolist() == [10 / 255] * 3


def test_pillow_images_keep_their_channels():
    array = noise(5, 6, 4)
    assert torch.equal(picture_to_tensor(Image.fromarray(array)), planes(array))
    assert picture_to_tensor(Image.fromarray(array[..., 0])).shape == (1, 5, 6)
    palette = Image.fromarray(array[..., :3]).quantize(8)
    assert picture_to_tensor(palette).shape == (3, 5, 6)
    assert picture_to_tensor(Image.fromarray(array[..., 0]).convert("1")).unique().tolist() == [
        0,
        255,
    ]
    deep = Image.fromarray(np.array([[70000]], dtype=np.int32))
    with pytest.raises(ValueError, match="leave the 16-bit range, mode I"):
        picture_to_tensor(deep)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "CMYK"])
def test_the_counts_of_pillow_are_the_counts_of_the_tensor(mode):
    array = noise(40, 30, 3) // np.array([1, 3, 7], dtype=np.uint8)
    picture = Image.fromarray(array).convert(mode)
    if mode == "RGBA":
        picture.putalpha(Image.fromarray(noise(40, 30)))
    counts = picture_to_counts(picture)
    expected = [
        torch.bincount(plane.flatten(), minlength=256) for plane in picture_to_tensor(picture)
    ]
    assert torch.equal(counts, torch.stack(expected))
    for other in ("P", "LA", "1", "I", "F", "YCbCr"):
        assert picture_to_counts(Image.new(other, (3, 3))) is None


def test_subfolders_are_searched_and_hidden_or_other_files_are_not(tmp_path):
    save(tmp_path / "b" / "x.png", noise(3, 3, 3))
    save(tmp_path / "a" / "deep" / "y.JPG", noise(3, 3, 3))
    save(tmp_path / "z.bmp", noise(3, 3, 3))
    save(tmp_path / ".hidden" / "h.png", noise(3, 3, 3))
    save(tmp_path / "._a.png", noise(3, 3, 3))
    (tmp_path / "notes.txt").write_text("no picture")
    assert Folder(tmp_path).names == [
        os.path.join("a", "deep", "y.JPG"),
        os.path.join("b", "x.png"),
        "z.bmp",
    ]


def test_a_link_to_a_folder_is_followed_and_a_loop_counts_nothing_twice(tmp_path):
    save(tmp_path / "elsewhere" / "x.png", noise(3, 3, 3))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "data")
    assert Folder(tmp_path / "data").names == [os.path.join("link", "x.png")]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_mixed_folder_equals_its_images_converted_to_rgb(tmp_path, num_workers):
    images = []
    for k in range(9):
        array = noise(5 + k, 9, 3, seed=k)
        mode = ("RGB", "L", "RGBA", "P", "LA", "1")[k % 6]
        path = save(tmp_path / f"{k % 2}" / f"{k}.png", array, mode)
        with Image.open(path) as picture:
            images.append(planes(np.asarray(picture.convert("RGB"))))
    expected = ChannelStats()
    for image in images:
        expected.update(image)
    stats = dataset_stats(tmp_path, num_workers=num_workers, batch_size=4, progress=False)
    assert stats.images == 9
    for name in ("mean", "std", "mean_image_std", "min", "max", "mean_standard_error"):
        assert torch.equal(getattr(stats, name), getattr(expected, name)), name


def damaged(tmp_path):
    """Five good pictures, one cut off in the middle, one of text, one of nothing."""
    for k in range(5):
        save(tmp_path / f"good_{k}.png", noise(6, 6, 3, seed=k))
    save(tmp_path / "long.jpg", noise(90, 90, 3))
    whole = (tmp_path / "long.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "long.jpg").unlink()
    (tmp_path / "text.png").write_text("<html>404</html>")
    (tmp_path / "zero.tif").write_bytes(b"")
    return tmp_path


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_damaged_file_is_named(tmp_path, num_workers):
    folder = damaged(tmp_path)
    with pytest.raises(
        ValueError,
        match=r"data must hold readable images, got .*cut\.jpg \(image file is truncated",
    ) as caught:
        dataset_stats(folder, num_workers=num_workers, batch_size=1, progress=False)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_damaged_files_can_be_skipped_and_are_listed(tmp_path, num_workers):
    folder = damaged(tmp_path)
    with pytest.warns(
        UserWarning, match="3 of 8 images could not be read and were skipped"
    ) as caught:
        stats = dataset_stats(
            folder, num_workers=num_workers, batch_size=3, on_error="skip", progress=False
        )
    for name in ("cut.jpg", "text.png", "zero.tif"):
        assert name in str(caught[0].message)
    assert [os.path.basename(line.split(" (")[0]) for line in stats.skipped] == [
        "cut.jpg",
        "text.png",
        "zero.tif",
    ]
    expected = ChannelStats()
    for k in range(5):
        expected.update(planes(noise(6, 6, 3, seed=k)))
    assert stats.images == 5
    assert torch.equal(stats.std, expected.std)


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp", "tif", "webp"])
def test_a_file_cut_anywhere_is_read_whole_or_named(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(noise(24, 24, 3)).save(path)
    content = path.read_bytes()
    whole = read(path)
    step = max(1, len(content) // 40)
    messages = []
    for size in range(0, len(content), step):
        path.write_bytes(content[:size])
        try:
            stats = dataset_stats(tmp_path, progress=False)
        except ValueError as error:
            messages.append(str(error))
        else:  # what was cut off can only be a trailer
            assert torch.equal(stats.mean, ChannelStats().update(whole).mean)
    assert len(messages) >= 35
    assert all(str(path) in message for message in messages)


def test_more_skipped_files_than_the_warning_names(tmp_path):
    save(tmp_path / "good.png", noise(3, 3, 3))
    for k in range(12):
        (tmp_path / f"bad_{k:02}.png").write_text("no")
    with pytest.warns(UserWarning, match=r"bad_09.*\n  and 2 more, see \.skipped"):
        stats = dataset_stats(tmp_path, on_error="skip", progress=False)
    assert len(stats.skipped) == 12


@pytest.mark.parametrize("num_workers", [0, 2])
def test_eight_and_sixteen_bit_files_together_are_refused_by_name(tmp_path, num_workers):
    save(tmp_path / "a.png", noise(3, 3, 3))
    save(tmp_path / "b.png", noise(3, 3, dtype=np.uint16))
    with pytest.raises(
        TypeError, match=r"data must hold images of one kind, got .*b\.png: .*uint8"
    ):
        dataset_stats(tmp_path, num_workers=num_workers, progress=False)


def test_an_empty_folder_and_no_folder(tmp_path):
    with pytest.raises(
        ValueError, match=r"data must be a folder with at least one picture file .*none in"
    ):
        dataset_stats(tmp_path, progress=False)
    with pytest.raises(
        ValueError, match="data must be the path of a folder, got a path that does not exist"
    ):
        dataset_stats(str(tmp_path / "missing"), progress=False)
    path = save(tmp_path / "a.png", noise(3, 3, 3))
    with pytest.raises(ValueError, match="data must be the path of a folder, got a file"):
        dataset_stats(path, progress=False)


def test_the_bundled_photographs(tmp_path):
    for name in ("coffee", "chelsea", "astronaut"):
        shutil.copy(SAMPLES / f"{name}.png", tmp_path)
    stats = dataset_stats(tmp_path, progress=False)
    arrays = []
    for name in ("coffee", "chelsea", "astronaut"):
        with Image.open(SAMPLES / f"{name}.png") as picture:
            arrays.append(
                np.asarray(picture.convert("RGB")).reshape(-1, 3).astype(np.float64) / 255
            )
    pixels = np.concatenate(arrays)
    assert stats.pixels == len(pixels)
    assert np.abs(stats.mean.numpy() - pixels.mean(0)).max() < 1e-11
    assert np.abs(stats.std.numpy() - pixels.std(0)).max() < 1e-11


def test_real_files_of_every_mode(shared_data, tmp_path):
    """JPEG gray, RGB, CMYK, EXIF-turned; GIF palette; TGA with alpha; PNG RGBA."""
    natural = shared_data / "natural"
    names = [
        "hopper.gif",
        "la.tga",
        "pil_sample_cmyk.jpg",
        "kodak_03_half_cmyk.jpg",
        "chicky_512.png",
        "imagenet_n02692877_airship.jpg",
        "imagenet_n02951585_can_opener.jpg",
        "bsd_3096.jpg",
    ]
    expected = ChannelStats()
    for name in names:
        (tmp_path / name).symlink_to(natural / name)
        with Image.open(natural / name) as picture:
            expected.update(planes(np.asarray(picture.convert("RGB"))))
    stats = dataset_stats(tmp_path, num_workers=2, batch_size=3, progress=False)
    assert stats.images == len(names)
    assert torch.equal(stats.std, expected.std)
    deep = tmp_path / "deep"
    deep.mkdir()
    for name in ("12in16bit.tif", "hopper_16bit.pgm"):
        (deep / name).symlink_to(natural / name)
    assert dataset_stats(deep, progress=False).max.tolist() == [1, 1, 1]
