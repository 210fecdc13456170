import ast
import base64
import io
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import get_args

import pytest
import torch
from PIL import Image

import torchops
from torchops.bilateral.filter import Method
from torchops.cli import demo
from torchops.cli.demo import bilateral
from torchops.cli.demo import page as page_module
from torchops.cli.demo.blocks import Gallery, Section, Table, Text
from torchops.cli.demo.disturbed import light, occlusion
from torchops.cli.demo.scene import Scene
from torchops.cli.demo.sheet import Sheet
from torchops.cli.io import read_image

SECTIONS = [
    "statistics",
    "erasing",
    "colorization",
    "learning",
    "bilateral",
    "tonemapping",
    "flow",
    "alignment",
]


class Reader(HTMLParser):
    """Collects what a test asks about: attributes by tag, and the text of some elements."""

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.words = []
        self.code = []
        self._inside = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "pre":
            self.code.append("")
        if tag not in ("img", "meta", "link"):
            self._inside.append(tag)

    def handle_endtag(self, tag):
        assert self._inside.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data):
        if "pre" in self._inside:
            self.code[-1] += data
        elif "style" not in self._inside:
            self.words.append(data)

    def values(self, name, *tags):
        return [a[name] for tag, a in self.tags if name in a and (not tags or tag in tags)]


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "new" / "out"
    assert demo.run(folder, "cpu", quick=True) == folder / "index.html"
    return folder


@pytest.fixture(scope="module")
def source(out):
    return (out / "index.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def reader(source):
    return Reader(source)


def test_holds_every_section_in_order(reader):
    assert reader.values("id", "section") == SECTIONS


def test_is_self_contained(source, reader):
    assert "http" not in source
    assert "@import" not in source
    assert "url(" not in source
    assert not [tag for tag, _ in reader.tags if tag in ("script", "iframe", "object", "embed")]
    ids = reader.values("id")
    for target in reader.values("href"):
        assert target == "data:," or target.removeprefix("#") in ids
    for image in reader.values("src"):
        assert image.startswith("data:image/png;base64,")


def test_pictures_beside_the_page_are_the_pictures_on_it(out, reader):
    embedded = {base64.b64decode(uri.partition(",")[2]) for uri in reader.values("src")}
    beside = {path.name: path.read_bytes() for path in out.iterdir() if path.suffix == ".png"}
    assert sorted(path.name for path in out.iterdir()) == sorted([*beside, "index.html"])
    assert set(beside.values()) == embedded
    assert {name.partition("-")[0] for name in beside} == set(SECTIONS)


def test_pictures_can_be_seen_or_read(reader):
    images = [attributes for tag, attributes in reader.tags if tag == "img"]
    assert len(images) > 40
    for attributes in images:
        assert len(attributes["alt"]) > 8
        with Image.open(io.BytesIO(base64.b64decode(attributes["src"].partition(",")[2]))) as image:
            image.load()
            assert image.size == (int(attributes["width"]), int(attributes["height"]))


def test_numbers_are_there_and_finite(reader):
    text = " ".join(reader.words)
    assert not re.search(r"\b(nan|inf|None|tensor)\b", text)
    sections = text.split("Computed and drawn in")
    assert len(sections) == len(SECTIONS) + 1
    for words in sections[:-1]:
        assert len(re.findall(r"\d+\.\d+", words)) >= 3


def test_no_markup_is_left_over(reader):
    assert not [words for words in reader.words if "`" in words or "**" in words or "{" in words]


def test_code_is_python_and_calls_public_names(reader):
    assert len(reader.code) >= len(SECTIONS)
    called = set()
    for text in reader.code:
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "torchops":
                assert hasattr(torchops, node.attr)
                called.add(node.attr)
    assert called >= {
        "dataset_stats",
        "RandomMultiErase",
        "ColorizationLoss",
        "colorize",
        "bilateral_filter",
        "durand_tonemap",
        "lucas_kanade",
        "align",
    }


def test_achieved_fraction_is_the_asked_one_to_the_pixel(reader):
    text = " ".join(reader.words)
    pairs = re.findall(r"asked ([\d.]+)%\s+achieved ([\d.]+)%", text)
    assert len(pairs) == 8
    for asked, achieved in pairs:
        assert abs(float(asked) - float(achieved)) <= 100 * 0.5 / (48 * 64) + 1e-3


def test_smoothness_alone_is_not_hidden(reader):
    text = " ".join(reader.words)
    assert "The smoothness loss alone teaches nothing" in text
    for case in ("zero chroma", "one constant colour", "L2 alone", "L2 + ColorizationLoss"):
        assert case in re.sub(r"\s+", " ", text)


def test_made_up_motion_is_called_so(reader):
    assert "not a film" in " ".join(reader.words)


def test_every_fast_method_is_shown_beside_exact_with_its_difference(out, reader):
    text = " ".join(reader.words)
    for number, method in enumerate(get_args(bilateral.Method), start=3):
        assert (out / f"bilateral-{number}-{method}.png").is_file()
        assert (out / f"bilateral-{number}-{method}-difference.png").is_file()
        (agreement,) = re.findall(rf"close to exact:.*?\b{method} ([\d.]+) dB", text)
        assert float(agreement) > 40
    assert set(get_args(bilateral.Method)) | {"exact"} == set(get_args(Method))


def test_at_full_size_ecc_stands_another_light_and_tukey_something_in_front(tmp_path):
    sheet = Sheet("alignment", tmp_path, torch.device("cpu"))
    scene = Scene(sheet)
    guess = scene.guess(torch.tensor([5.0, -4.0]))
    blocks = [*light(sheet, scene, guess), *occlusion(sheet, scene, guess)]
    rows = [row for block in blocks if isinstance(block, Table) for row in block.rows]
    errors = {row[0].strip("`"): float(row[4].removesuffix(" px")) for row in rows}
    assert list(errors) == ["ssd", "ecc", "none", "huber", "tukey"]
    assert max(errors["ecc"], errors["tukey"]) < 0.05
    assert min(errors["ssd"], errors["none"]) > 1
    for stem, after in (("light", "4-ecc"), ("occlusion", "4-tukey")):
        colours = []
        for name in ("2-before", after):
            red, green, _ = read_image(tmp_path / f"alignment-{stem}-{name}.png")
            colours.append((red - green).abs().flatten().median())
        assert colours[1] < 0.3 * colours[0]


def test_the_alignment_section_shows_light_and_occlusion(out, reader):
    text = re.sub(r"\s+", " ", " ".join(reader.words))
    for heading in ("Another light", "Something in front", "Many at once"):
        assert heading in text
    for stem in ("light-1-as-it-is", "light-3-ssd", "occlusion-1-image", "occlusion-3-plain"):
        assert (out / f"alignment-{stem}.png").is_file()


def _one(sheet):
    picture = sheet.picture(torch.rand(3, 4, 5), "one", "caption", alt="a picture")
    return Section("one", "One", ["align"], "1.0", [Text("a & b < c"), Gallery([picture])])


def _fails(sheet):
    sheet.picture(torch.rand(1, 4, 5), "two", "caption", alt="another picture")
    raise RuntimeError("stop")


def test_a_failing_section_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(page_module, "_SECTIONS", {"one": _one, "two": _fails})
    with pytest.raises(RuntimeError, match="stop"):
        demo.run(tmp_path / "new" / "out", "cpu")
    assert list(tmp_path.iterdir()) == []


def test_a_failing_section_leaves_an_earlier_page_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(page_module, "_SECTIONS", {"one": _one})
    demo.run(tmp_path, "cpu")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(page_module, "_SECTIONS", {"one": _one, "two": _fails})
    with pytest.raises(RuntimeError, match="stop"):
        demo.run(tmp_path, "cpu")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_failing_template_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(page_module, "_SECTIONS", {"one": lambda sheet: None})
    with pytest.raises(Exception, match="None"):
        demo.run(tmp_path / "out", "cpu")
    assert list(tmp_path.iterdir()) == []


def test_a_second_run_replaces_the_page_and_keeps_other_files(tmp_path, monkeypatch):
    monkeypatch.setattr(page_module, "_SECTIONS", {"one": _one})
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "index.html").write_text("old")
    demo.run(tmp_path, "cpu")
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["index.html", "notes.txt", "one-one.png"]
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert "a &amp; b &lt; c" in (tmp_path / "index.html").read_text()


def test_relative_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(page_module, "_SECTIONS", {"one": _one})
    monkeypatch.chdir(tmp_path)
    path = demo.run(Path("a/b"), "cpu")
    assert path.as_posix() == "a/b/index.html"
    assert (tmp_path / path).is_file()
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_out_that_is_a_file(tmp_path):
    (tmp_path / "out").write_text("mine")
    for out in (tmp_path / "out", tmp_path / "out" / "below"):
        with pytest.raises(NotADirectoryError, match=r"out must be a folder, got .* is a file"):
            demo.run(out, "cpu")
    assert (tmp_path / "out").read_text() == "mine"


def test_progress_bar_counts_the_sections(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(page_module, "_SECTIONS", {"one": _one})
    demo.run(tmp_path, "cpu")
    assert "1/1" in capsys.readouterr().err


def test_picks_the_gpu_by_itself(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        page_module, "_SECTIONS", {"one": lambda s: (seen.append(s.device.type), _one(s))[1]}
    )
    demo.run(tmp_path, None)
    assert seen == ["cuda" if torch.cuda.is_available() else "cpu"]


def test_without_matplotlib_the_page_says_so_and_prints_the_numbers(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    chosen = {key: page_module._SECTIONS[key] for key in ("statistics", "alignment")}
    monkeypatch.setattr(page_module, "_SECTIONS", chosen)
    demo.run(tmp_path, "cpu", quick=True)
    text = re.sub(r"\s+", " ", " ".join(Reader((tmp_path / "index.html").read_text()).words))
    assert text.count("pip install torchops[demo]") == 2
    assert "mean corner error (px)" in text
    assert "forward additive ESM" in text  # the columns of the table
    assert not list(tmp_path.glob("*quantiles*"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_every_section_runs_on_the_gpu(tmp_path):
    demo.run(tmp_path, "cuda", quick=True)
    assert Reader((tmp_path / "index.html").read_text()).values("id", "section") == SECTIONS
