import math

import pytest
import torch
from helpers import assert_close

from torchops.cli.align.overlay import red_cyan
from torchops.cli.demo.blocks import Gallery, Note, Table, code
from torchops.cli.demo.drawing import (
    flow_colours,
    flow_key,
    heat,
    outline,
    smooth_flow,
    stroke,
)
from torchops.cli.demo.plots import beside, curves
from torchops.cli.demo.sheet import Sheet, fit, to_bytes


@pytest.fixture
def sheet(tmp_path):
    return Sheet("test", tmp_path, torch.device("cpu"), quick=True)


def _returns_names(a):
    """Not shown."""
    b = a + 1  # shown
    c = b
    return b, c


def _returns_a_call(a):
    b = abs(a)
    return max(
        b,
        1,
    )


def test_code_shows_the_body_that_ran():
    assert code(_returns_names).text == "b = a + 1  # shown\nc = b"
    assert code(_returns_a_call).text == "b = abs(a)\nmax(\n    b,\n    1,\n)"


@pytest.mark.parametrize(
    ("u", "v", "channel"),
    [(1, 0, "red"), (0, 1, "yellow"), (-1, 0, "cyan"), (0, -1, "violet")],
)
def test_flow_colours_follow_the_middlebury_wheel(u, v, channel):
    """Right is red, down yellow-green, left cyan, up blue-violet: as in the published figures."""
    flow = torch.tensor([u, v], dtype=torch.float32)[:, None, None].expand(2, 3, 4)
    red, green, blue = flow_colours(flow, 1.0)[:, 0, 0].tolist()
    brightest = {"red": red > 0.9, "yellow": green > 0.5 and blue < 0.1}
    brightest |= {"cyan": red < 0.1 and min(green, blue) > 0.5, "violet": blue > 0.9 > 2 * green}
    assert brightest[channel]


def test_flow_colours_scale_by_the_given_length():
    flow = torch.zeros(2, 1, 4)
    flow[0] = torch.tensor([0.0, 1.0, 2.0, 9.0])
    white, half, full, clipped = flow_colours(flow, 2.0).unbind(-1)
    assert_close(white, torch.ones(3, 1), 1e-6)
    assert white[2] > half[2] > full[2]
    assert_close(clipped, full, 1e-6)


def test_flow_key_shows_the_direction_from_its_centre():
    key = flow_key(41)
    down_and_a_bit_right = torch.tensor([10 / 20, 14 / 20])[:, None, None] * 1.05
    expected = flow_colours(down_and_a_bit_right, 1.0)
    assert_close(key[:3, 34, 30], expected[:, 0, 0], 0.01)
    assert key[3, 0, 0] == 0
    assert key[3, 20, 20] == 1


def test_smooth_flow_is_smooth_and_as_long_as_asked():
    flow = smooth_flow(60, 80, 3.0)
    assert math.isclose(float(flow.square().sum(0).sqrt().max()), 3.0, rel_tol=1e-6)
    assert float(flow.diff(dim=-1).abs().max()) < 0.5
    assert float(flow.diff(dim=-2).abs().max()) < 0.5


def test_stroke_covers_its_line():
    drawn = stroke([(2, 5), (12, 5)], 3, (11, 16))
    assert drawn.shape == (1, 11, 16)
    assert drawn[0, 5, 2:13].all()
    assert not drawn[0, :3].any()
    assert not drawn[0, 8:].any()


def test_outline_is_drawn_at_x_and_y():
    image = torch.zeros(1, 40, 60)
    corners = torch.tensor([[10.0, 5.0], [50.0, 5.0], [50.0, 30.0], [10.0, 30.0]])
    drawn = outline(image, corners, (255, 0, 0))
    assert drawn[0, 5, 30] == 1
    assert drawn[0, 20, 50] == 1
    assert drawn[0, 20, 30] == 0
    assert drawn[1:].max() == 0


def test_overlay_is_gray_where_images_agree():
    image = torch.rand(1, 4, 5)
    assert_close(red_cyan(image, image), image.expand(3, -1, -1), 0)
    assert red_cyan(torch.ones(1, 1, 1), torch.zeros(1, 1, 1)).flatten().tolist() == [1, 0, 0]


def test_heat_grows_brighter_and_clips():
    brightness = heat(torch.linspace(-1, 2, 31)[None, None]).sum(0)[0]
    assert (brightness.diff() >= -1e-6).all()
    assert_close(brightness[:11], brightness[10].expand(11), 1e-5)
    assert_close(brightness[20:], brightness[20].expand(11), 1e-5)
    assert brightness[-1] > 2 > 1 > brightness[0]


@pytest.mark.parametrize("size", [(10, 10), (20, 10), (7, 31)])
def test_fit_crops_about_the_centre(size):
    x = torch.linspace(-1, 1, 60).expand(1, 40, 60)
    fitted = fit(x, size)
    assert fitted.shape == (1, *size)
    assert_close(fitted, -fitted.flip(-1), 1e-5)


def test_bytes_are_rounded_and_clipped():
    values = torch.tensor([-1.0, 0.0, 0.4999 / 255, 0.5001 / 255, 1.0, 7.0])
    assert to_bytes(values).tolist() == [0, 0, 0, 1, 255, 255]


def test_photographs_are_read_once_and_for_all_at_any_size(sheet):
    assert sheet.photograph("camera").shape == (1, 512, 512)
    small = sheet.photograph("coffee", (30, 40))
    assert small.shape == (3, 30, 40)
    assert 0 <= small.min() < small.max() <= 1


SERIES = {"a": (range(20), [x**2 for x in range(20)]), "b": (range(20), list(range(20)))}
LABELS = {"x": "step", "y": "loss", "caption": "words", "alt": "two curves"}


def test_curves_are_drawn(sheet):
    pytest.importorskip("matplotlib")
    first = curves(sheet, "first", SERIES, **LABELS)
    second = curves(sheet, "second", SERIES, log=True, **LABELS)
    (gallery,) = beside(first, second)
    assert [picture.file for picture in gallery.pictures] == ["test-first.png", "test-second.png"]
    assert isinstance(gallery, Gallery)


def test_curves_without_matplotlib_are_tables(sheet, monkeypatch):
    monkeypatch.setattr("torchops.cli.demo.plots.have_matplotlib", lambda: False)
    series = {**SERIES, "c": ([0, 5], [1.0, 2.0])}
    note, table, other = beside(curves(sheet, "name", series, **LABELS))
    assert isinstance(note, Note)
    assert isinstance(table, Table)
    assert "pip install torchops[demo]" in note.text
    assert list(table.head) == ["step", "a", "b"]
    assert len(table.rows) == 9
    assert table.rows[0] == ["0", "0", "0"]
    assert table.rows[-1] == ["19", "361", "19"]
    assert list(other.head) == ["step", "c"]
    assert list(sheet.folder.iterdir()) == []
