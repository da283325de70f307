"""What README.md and docs/ show is true: their code runs, and its output is the one shown.

A block of Python may be followed by a `text` block: what it prints. Below a comment
`<!-- numbers vary -->` numbers, builds of torch, instruction sets and plurals are left out of the
comparison; a command below `<!-- not run -->` is long or writes what no two machines do: only its
verb and its options are looked up.
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
NOT_RUN = "<!-- not run -->"
FILE = "my_cell.py"
"""What a block is called in the error messages that it prints."""

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, the line it starts at, the line before."""

    language: str
    text: str
    line: int
    before: str


def blocks(page):
    found, language, before, inner, start = [], None, "", [], 0
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if language is None and line.startswith("```"):
            language, inner, start = line.removeprefix("```"), [], number
        elif line == "```":
            found.append(Block(language, "\n".join(inner) + "\n", start, before))
            language, before = None, ""
        elif language is not None:
            inner.append(line)
        else:
            before = line or before
    assert language is None, f"{page.name}:{start}: the block does not end"
    return found


def masked(text):
    text = re.sub(r"[ ─]+", " ", text)  # columns are as wide as their numbers
    text = re.sub(r" +$", "", text, flags=re.MULTILINE)
    text = re.sub(r"(PyTorch [\d.]+)\+\w+", r"\1", text)  # which build: cpu, cu130
    text = re.sub(r"\b(avx512|avx2|neon|sse2)\b", "ISA", text)
    text = text.replace(" by AMX", "")  # where there is one
    return re.sub(r"\d[\d.,]*(e[+-]?\d+)?( threads?\b)?", "#", text)


def printed(block, names):
    """Run a block; return what it prints."""
    lines = block.text.splitlines(keepends=True)
    linecache.cache[FILE] = (len(block.text), None, lines, FILE)  # errors quote their line
    with contextlib.redirect_stdout(io.StringIO()) as output:
        exec(compile(block.text, FILE, "exec", dont_inherit=True), names)
    return output.getvalue()


@each_page
def test_blocks_do_what_is_shown(page, tmp_path, monkeypatch):
    """In order, in one folder: what a block writes, a later one may read."""
    monkeypatch.setenv("CELLWRIGHT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "my_cell"}
    found = blocks(page)
    with torch.random.fork_rng(devices=[]):
        for block, after in zip(found, [*found[1:], None][: len(found)], strict=True):
            where = f"{page.name}:{block.line}"
            if block.language == "console":
                for command, shown in commands(block):
                    run(command, shown, block, where)
            elif block.language == "python":
                output = printed(block, names)
                if after is None or after.language != "text":
                    assert output == "", f"{where} prints what is not shown"
                else:
                    same(output, after, after.text, where)


def commands(block):
    """The commands of a block, each with what is shown beneath it."""
    parts = re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]
    return [tuple(part.partition("\n")[::2]) for part in parts]


def run(command, shown, block, where):
    """Run `cellwright …`, with `< FILE` as its input, or only see that there is such a command."""
    command, _, file = command.partition(" < ")
    program, *arguments = shlex.split(command)
    assert program == "cellwright", where
    if block.before == NOT_RUN:
        known = CliRunner().invoke(app, [arguments[0], "--help"], env={"COLUMNS": "200"}).stdout
        assert [one for one in arguments if one[:2] == "--" and f"{one} " not in known] == [], where
        return
    given = Path(file).read_text(encoding="utf-8") if file else None
    done = CliRunner().invoke(app, arguments, input=given, env={"COLUMNS": "80"})
    assert done.exit_code == 0, f"{where}: {done.output}"
    same(done.output, block, shown, where)


def same(output, block, shown, where):
    """See that an output is the one shown, but for what varies."""
    if block.before == VARIES:
        assert masked(output) == masked(shown), where
    else:
        assert output == shown, where


@each_page
def test_shown_kernels_are_those_of_any_machine(page):
    """Which calls AMX takes, and in which tiles, is another text where there is none."""
    assert [b.line for b in blocks(page) if b.language == "text" and "(amx, " in b.text] == []


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
