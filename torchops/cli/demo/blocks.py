"""What a page is made of: sections of text, code, pictures and tables, as plain data."""

import ast
import inspect
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Picture:
    """One image file of the page, with the words under it."""

    file: str
    caption: str
    detail: str  # the numbers, in a smaller line
    alt: str
    width: int
    height: int
    data_uri: str


@dataclass(frozen=True)
class Gallery:
    """Pictures side by side, each at least ``width`` CSS pixels wide where the screen allows."""

    kind: ClassVar[str] = "gallery"
    pictures: Sequence[Picture]
    width: int = 220


@dataclass(frozen=True)
class Table:
    """A table of numbers; the first column names the row."""

    kind: ClassVar[str] = "table"
    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Text:
    """A paragraph; what stands between backticks is code."""

    kind: ClassVar[str] = "text"
    text: str


@dataclass(frozen=True)
class Note:
    """A paragraph that must not be overlooked."""

    kind: ClassVar[str] = "note"
    text: str


@dataclass(frozen=True)
class Code:
    """Lines of Python."""

    kind: ClassVar[str] = "code"
    text: str


@dataclass(frozen=True)
class Heading:
    """A title inside a section."""

    kind: ClassVar[str] = "heading"
    text: str


Block = Gallery | Table | Text | Note | Code | Heading


@dataclass(frozen=True)
class Section:
    """One subject of the page."""

    key: str
    title: str
    ops: Sequence[str]  # the public names it shows
    headline: str  # its most telling result, one line with numbers
    blocks: Sequence[Block]


def code(function: Callable[..., object]) -> Code:
    """Show the body of ``function``, so that the code on the page is the code that ran.

    The signature and the docstring are left out, and of a final ``return`` the word, or the whole
    line where it only hands back names.
    """
    source = textwrap.dedent(inspect.getsource(function))
    definition = ast.parse(source).body[0]
    assert isinstance(definition, ast.FunctionDef)
    statements = definition.body
    if ast.get_docstring(definition) is not None:
        statements = statements[1:]
    lines = source.splitlines()
    body = lines[statements[0].lineno - 1 : definition.end_lineno]
    last = statements[-1]
    if isinstance(last, ast.Return):
        first = last.lineno - statements[0].lineno
        names = last.value.elts if isinstance(last.value, ast.Tuple) else [last.value]
        if all(isinstance(name, ast.Name) for name in names):
            del body[first:]
        else:
            body[first] = body[first].replace("return ", "", 1)
    return Code(textwrap.dedent("\n".join(body)))
