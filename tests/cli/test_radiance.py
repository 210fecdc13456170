"""Radiance RGBE against OpenCV, every scan order, every run-length form, damaged files."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchops.cli.io import read_hdr, sample_path
from torchops.cli.radiance import decode, encode

# value = mantissa * 2^(exponent - 136): exactly representable, so orientations compare equal.
RGBE = np.random.default_rng(0).integers(128, 256, (3, 4, 4), dtype=np.uint8)
PIXELS = RGBE[..., :3] * np.exp2(RGBE[..., 3:].astype(np.float64) - 136).astype(np.float32)


def flat(rgbe, size, magic=b"#?RADIANCE"):
    return magic + b"\nFORMAT=32-bit_rle_rgbe\n\n" + size + b"\n" + rgbe.tobytes()


def opencv(path):
    cv2 = pytest.importorskip("cv2")
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)[..., ::-1]


def noise(height, width, seed=0):
    """Radiance over 20 decades, with black pixels and runs of equal ones."""
    rng = np.random.default_rng(seed)
    image = rng.random((height, width, 3)) * 10.0 ** rng.uniform(-10, 10, (height, width, 1))
    image[rng.random((height, width)) < 0.1] = 0
    image[:, width // 3 : width // 2] = image[:, :1]
    return image.astype(np.float32)


@pytest.mark.parametrize("shape", [(5, 7), (4, 8), (3, 300), (1, 1), (2, 1000)])
def test_written_files_are_read_alike_by_opencv(tmp_path, shape):
    image = noise(*shape)
    (tmp_path / "w.hdr").write_bytes(encode(image))
    read = decode((tmp_path / "w.hdr").read_bytes())
    np.testing.assert_array_equal(read, opencv(tmp_path / "w.hdr"))
    # Half a step of an eight-bit mantissa whose largest entry is at least 128.
    assert (np.abs(read - image) <= image.max(axis=2, keepdims=True) / 256).all()


@pytest.mark.parametrize("width", [4, 100])  # OpenCV writes run lengths for the wider one
def test_opencvs_files_are_read_alike(tmp_path, width):
    cv2 = pytest.importorskip("cv2")
    assert cv2.imwrite(str(tmp_path / "cv.hdr"), noise(20, width))
    read = decode((tmp_path / "cv.hdr").read_bytes())
    np.testing.assert_array_equal(read, opencv(tmp_path / "cv.hdr"))


def test_the_sample_is_read_as_opencv_reads_it():
    path = sample_path("courtyard.hdr")
    np.testing.assert_array_equal(read_hdr(path).permute(1, 2, 0), opencv(path))


def test_a_real_file_of_another_program_is_read_as_opencv_reads_it(shared_data):
    path = shared_data / "hdr" / "memorial.hdr"
    np.testing.assert_array_equal(read_hdr(path).permute(1, 2, 0), opencv(path))


@pytest.mark.parametrize(
    ("size", "turn"),
    [
        (b"-Y 3 +X 4", lambda a: a),
        (b"-Y 3 -X 4", lambda a: a[:, ::-1]),
        (b"+Y 3 -X 4", lambda a: a[::-1, ::-1]),
        (b"+Y 3 +X 4", lambda a: a[::-1]),
        # Column by column, the first axis being the slower one.
        (b"+X 3 -Y 4", lambda a: a.transpose(1, 0, 2)),
        (b"-X 3 -Y 4", lambda a: a.transpose(1, 0, 2)[:, ::-1]),
        (b"-X 3 +Y 4", lambda a: a.transpose(1, 0, 2)[::-1, ::-1]),
        (b"+X 3 +Y 4", lambda a: a.transpose(1, 0, 2)[::-1]),
    ],
)
def test_all_eight_scan_orders_come_out_upright(size, turn):
    np.testing.assert_array_equal(decode(flat(RGBE, size)), turn(PIXELS))


def test_both_magic_words_and_other_header_lines_are_accepted():
    data = flat(RGBE, b"-Y 3 +X 4", b"#?RGBE\n# a comment\nEXPOSURE=2.5\nGAMMA=1")
    np.testing.assert_array_equal(decode(data), PIXELS)


def test_old_run_lengths():
    line = b"".join(
        [
            bytes(RGBE[0, 0]),
            b"\x01\x01\x01\x02",  # twice more
            bytes(RGBE[0, 1]),
            b"\x01\x01\x01\x03\x01\x01\x01\x01",  # 3 + 256 times more
        ]
    )
    width = 1 + 2 + 1 + 3 + 256
    data = flat(np.frombuffer(line, np.uint8), b"-Y 1 +X %d" % width)
    expected = np.repeat(PIXELS[:1, :2], [3, 260], axis=1)
    np.testing.assert_array_equal(decode(data), expected)


def test_an_exponent_of_zero_is_black():
    rgbe = np.array([[[200, 100, 50, 0], [128, 0, 0, 129]]], np.uint8)
    np.testing.assert_array_equal(decode(flat(rgbe, b"-Y 1 +X 2")), [[[0, 0, 0], [1, 0, 0]]])


@given(st.lists(st.tuples(st.integers(0, 255), st.integers(1, 300)), min_size=1, max_size=12))
def test_any_pattern_of_runs_survives(runs):
    mantissa = np.repeat([128 + v // 2 for v, _ in runs], [n for _, n in runs])
    image = np.stack([mantissa / 256, mantissa / 512, np.zeros(len(mantissa))], -1)[None]
    np.testing.assert_allclose(decode(encode(image.astype(np.float32))), image, atol=1 / 512)


def test_runs_compress():
    assert len(encode(np.ones((10, 1000, 3), np.float32))) < 1000


@given(st.floats(2.0**-126, 2.0**126, width=32))
def test_the_error_is_at_most_half_a_step(value):
    read = decode(encode(np.full((1, 1, 3), value, np.float32))).item(0)
    assert abs(read - value) <= value / 256


def test_rounding_up_to_the_next_power_of_two():
    assert (decode(encode(np.full((1, 1, 3), 0.9999, np.float32))) == 1).all()


def test_negative_values_become_black_and_tiny_ones_too():
    image = np.array([[[-1, 0.5, 1], [-1, -2, 0], [1e-40, 0, 0]]], np.float32)
    np.testing.assert_array_equal(decode(encode(image)), [[[0, 0.5, 1], [0, 0, 0], [0, 0, 0]]])


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
def test_what_the_format_cannot_hold_raises(value):
    with pytest.raises(ValueError, match=r"the picture holds .* which \.hdr cannot store"):
        encode(np.full((1, 1, 3), value, np.float32))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "does not begin"),
        (b"P6 4 3 255\n", "does not begin"),
        (b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n", "header is truncated"),
        (b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 3 +X 4", "header is truncated"),
        (b"#?RADIANCE\nFORMAT=32-bit_rle_xyze\n\n-Y 3 +X 4\n", "got FORMAT=32-bit_rle_xyze"),
        (b"#?RADIANCE\n\n-Y 3 +Y 4\n", "size line must read like"),
        (b"#?RADIANCE\n\n-Y 0 +X 4\n", "size line must read like"),
        (b"#?RADIANCE\n\n3 4\n", "size line must read like"),
        (b"#?RADIANCE\n\n-Y 1 +X 4\n\x01\x01\x01\x02" + bytes(8), "run of equal pixels"),
        (b"#?RADIANCE\n\n-Y 1 +X 4\n\x05\x05\x05\x05\x01\x01\x01\x09", "run of equal pixels"),
        (b"#?RADIANCE\n\n-Y 1 +X 9\n\x02\x02\x00\x08" + bytes(90), "not as long as"),
        (b"#?RADIANCE\n\n-Y 1 +X 9\n\x02\x02\x00\x09\xff\x01" + bytes(90), "passes the end"),
        (b"#?RADIANCE\n\n-Y 1 +X 9\n\x02\x02\x00\x09\x00" + bytes(90), "truncated or damaged"),
        (b"#?RADIANCE\n\n-Y 999999999 +X 999999999\n" + bytes(90), "truncated"),
    ],
)
def test_bad_files_raise_and_say_why(tmp_path, data, message):
    path = tmp_path / "bad.hdr"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=rf"bad\.hdr is not a readable \.hdr file: .*{message}"):
        read_hdr(path)


@pytest.mark.parametrize("width", [4, 40])
def test_a_truncated_file_raises_at_every_length(width):
    data = encode(noise(3, width))
    for length in range(len(data)):
        with pytest.raises(ValueError, match=r"truncated|begin"):
            decode(data[:length])
