"""What README.md and docs/ show is true: their code runs, and its output is the one shown.

A block of Python may be followed by a `text` block: what it prints. Below a comment
`<!-- numbers vary -->` numbers, instruction sets and plurals are left out of the comparison.
"""

import contextlib
import io
import linecache
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from cellwright.app.cli import program as app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
VARIES = "<!-- numbers vary -->"
FILE = "my_cell.py"
"""What a block is called in the error messages that it prints."""

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, the line it starts at, whether numbers vary."""

    language: str
    text: str
    line: int
    varies: bool


def blocks(page):
    found, language, before, inner, start = [], None, "", [], 0
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if language is None and line.startswith("```"):
            language, inner, start = line.removeprefix("```"), [], number
        elif line == "```":
            found.append(Block(language, "\n".join(inner) + "\n", start, before == VARIES))
            language = None
        elif language is not None:
            inner.append(line)
        else:
            before = line or before
    assert language is None, f"{page.name}:{start}: the block does not end"
    return found


def masked(text):
    text = re.sub(r"\b(avx512|avx2|neon|sse2)\b", "ISA", text)
    return re.sub(r"\d[\d.,]*(e[+-]?\d+)?( threads?\b)?", "#", text)


def printed(block, names):
    """Run a block; return what it prints."""
    lines = block.text.splitlines(keepends=True)
    linecache.cache[FILE] = (len(block.text), None, lines, FILE)  # errors quote their line
    with contextlib.redirect_stdout(io.StringIO()) as output:
        exec(compile(block.text, FILE, "exec", dont_inherit=True), names)
    return output.getvalue()


@each_page
def test_code_runs_and_prints_what_is_shown(page, tmp_path, monkeypatch):
    monkeypatch.setenv("CELLWRIGHT_CACHE_DIR", str(tmp_path))
    names = {"__name__": "my_cell"}
    found = blocks(page)
    with torch.random.fork_rng(devices=[]):
        for block, after in zip(found, [*found[1:], None][: len(found)], strict=True):
            if block.language != "python":
                continue
            output = printed(block, names)
            where = f"{page.name}:{block.line}"
            if after is None or after.language != "text":
                assert output == "", f"{where} prints what is not shown"
            elif after.varies:
                assert masked(output) == masked(after.text), where
            else:
                assert output == after.text, where


@each_page
def test_commands_print_what_is_shown(page):
    for block in blocks(page):
        if block.language == "console":
            command, _, shown = block.text.partition("\n")
            program, *arguments = shlex.split(command.removeprefix("$ "))
            assert program == "cellwright"
            done = CliRunner().invoke(app, arguments)
            assert (done.exit_code, done.stdout) == (0, shown), f"{page.name}:{block.line}"


def test_the_readme_shows_the_lstm():
    assert any(b.text.startswith("$ cellwright describe lstm\n") for b in blocks(PAGES[0]))


@each_page
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_make_targets_exist():
    shown = "".join(b.text for page in PAGES for b in blocks(page) if b.language == "sh")
    targets = set(re.findall(r"^make (\w+)", shown, re.MULTILINE))
    made = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert {"demo", "test", "bench"} <= targets <= set(made)


def test_the_code_layout_is_the_repositorys():
    (tree,) = (b for b in blocks(PAGES[0]) if b.language == "tree")
    paths = set()
    for line in tree.text.splitlines():
        folder, names, ending = re.match(r"([^{ ]*)(?:\{(\S*)\})?(\S*)", line).groups(default="")
        paths |= {folder + name + ending for name in names.split(",")}
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []
    top = {"/".join(path.split("/")[:3]) for path in paths}
    for part in (ROOT / "src" / "cellwright").iterdir():
        if part.suffix == ".py" or (part / "__init__.py").exists():
            assert part.stem == "__init__" or str(part.relative_to(ROOT)) in top, part.name
