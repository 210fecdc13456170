"""What the README shows runs, and what it names exists."""

import re
from pathlib import Path

import pytest
import torch

import torchops

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
TABLE = README[README.index("| subject | functions |") : README.index("## Command line")]


def test_the_example_runs_and_says_what_its_comments_say(capsys):
    (source,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names = {}
    exec(source, names)
    assert len([line for line in source.splitlines() if line.strip()]) <= 12
    u, v = names["flow"][..., 16:-16, 16:-16].median(-1).values.median(-1).values[0].tolist()
    assert abs(u - 1) < 0.05
    assert abs(v) < 0.05
    expected = torch.tensor([[1.0, 0.0, 3.0], [0.0, 1.0, 2.0], [0.0, 0.0, 1.0]])
    assert names["found"].converged.all()
    assert (names["found"].matrix - expected).abs().max() < 1e-2
    assert names["image"].grad.isfinite().all()
    assert capsys.readouterr().out


@pytest.mark.parametrize(
    "name", re.findall(r"^\| [a-z ]+ \| (`.+`[^|]*) \| [^|]+ \|$", TABLE, re.MULTILINE)
)
def test_the_ops_of_the_table_exist(name):
    for word in re.findall(r"`(\w+)`", name):
        assert hasattr(torchops, word)


@pytest.mark.parametrize("test", re.findall(r"`([\w/]+\.py)::(\w+)`", README))
def test_the_table_of_mistakes_names_tests(test):
    path, function = test
    assert f"def {function}(" in (ROOT / "tests" / path).read_text()


def test_pictures_and_pages_it_links_to_are_there():
    for target in re.findall(r"\]\((?!http|#)([^)]+)\)", README):
        assert (ROOT / target).exists(), target
