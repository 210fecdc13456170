"""The house rules that hold for the whole package, proved in fresh processes and on its source."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import torchops

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "torchops"
ROOMS = ("alignment", "bilateral", "colorization", "erase", "flow", "stats")
FILES = sorted(PACKAGE.rglob("*.py"))


def run(code):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )


def test_import_is_light():
    heavy = [
        "triton",
        "torchvision",
        "matplotlib",
        "jinja2",
        "scipy",
        "cv2",
        "kornia",
        "skimage",
        "PIL",
        "tqdm",
    ]
    result = run(
        "import sys, torch; before = set(sys.modules); import torchops; "
        f"print(sorted(m for m in set(sys.modules) - before if m.split('.')[0] in {heavy!r}))"
    )
    assert result.stderr == ""
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("missing", ["triton", "torchvision", "matplotlib", "PIL"])
def test_import_works_without(missing):
    result = run(
        f"import sys; sys.modules[{missing!r}] = None; import torchops; "
        "print(torchops.bilateral_filter.__name__)"
    )
    assert result.stdout.strip() == "bilateral_filter", result.stderr


def test_every_public_name_is_there_and_documented():
    assert sorted(torchops.__all__) == sorted(set(torchops.__all__))
    for name in torchops.__all__:
        thing = getattr(torchops, name)
        assert callable(thing), name
        assert (thing.__doc__ or "").strip(), f"{name} has no docstring"


CONTRACT = {
    "bilateral": "bilateral_filter BilateralFilter durand_tonemap joint_bilateral_upsample",
    "colorization": "levin_weights colorization_loss ColorizationLoss colorize Colorization "
    "scribbles_from_marked rgb_to_yuv yuv_to_rgb rgb_to_yiq yiq_to_rgb",
    "flow": "lucas_kanade LucasKanade OpticalFlow warp_by_flow endpoint_error angular_error "
    "read_flo write_flo",
    "alignment": "align LucasKanadeAligner Alignment AlignmentStatus motion_matrix "
    "motion_parameters motion_jacobian warp_points warp_image parameter_covariance "
    "to_opencv from_opencv to_kornia from_kornia",
    "erase": "sample_disjoint_boxes erase_boxes boxes_to_mask",
    "transforms": "RandomMultiErase",
    "stats": "ChannelStats dataset_stats",
}


@pytest.mark.parametrize("room", CONTRACT)
def test_the_names_of_the_contract_are_importable_from_the_package_and_its_room(room):
    module = __import__(f"torchops.{room}", fromlist=["*"])
    for name in CONTRACT[room].split():
        assert name in torchops.__all__
        assert getattr(torchops, name) is getattr(module, name)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_doors_open_one_way(path):
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    allowed = {"colorization": {"flow"}, "transforms": {"erase"}}.get(room, set()) | {room}
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] != "torchops" or room in ("__init__", "__main__"):
                continue
            if room == "cli":
                assert len(parts) == 1 or parts[1] == "cli", f"the command line imports {name}"
            elif len(parts) > 1 and parts[1] in (*ROOMS, "transforms", "cli"):
                assert parts[1] in allowed, f"{room} imports {name}"
                assert parts[1] == room or len(parts) == 2, f"{room} imports the private {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_never_bears_the_name_of_a_function_it_exports(path):
    tree = ast.parse(path.read_text())
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    assert path.stem not in defined


def test_the_version_is_the_one_of_the_project_file():
    assert f'version = "{torchops.__version__}"' in (ROOT / "pyproject.toml").read_text()
