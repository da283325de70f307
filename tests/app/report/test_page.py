"""The page as text: whole, self-contained, safe and small."""

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from statistics import StatisticsError

import pytest
from tests.app.report.comparisons import EVIL, baseline, classify, forecast, text

from cellwright.app.report import write_report
from cellwright.app.report.page import render
from cellwright.app.training.results import Comparison

VOID = {"br", "col", "hr", "img", "input", "link", "meta"}


class Page(HTMLParser):
    """Collects what a test asks for, and that elements are closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.headings: list[int] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.data = ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)
        if re.fullmatch(r"h\d", tag):
            self.headings.append(int(tag[1]))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script" and data.startswith("{"):
            self.data = data
        elif not self.open or self.open[-1] not in ("script", "style"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.mark.parametrize("make", [classify, forecast, text])
def test_a_page_is_well_formed_and_asks_for_nothing(make: Callable[[], Comparison]) -> None:
    html = render(make())
    page = Page(html)
    loading = {
        (tag, value)
        for tag, name, value in page.attributes
        if name in ("src", "srcset", "data-src") or (tag == "link" and name == "href")
    }
    assert loading == {("link", "data:,")}
    style = re.sub(r"<script.*?</script>", "", html, flags=re.DOTALL)
    assert "@import" not in style
    assert "url(" not in style
    assert page.headings[0] == 1
    assert page.headings.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(page.headings))
    data = json.loads(page.data)
    assert len(data["models"]) == len(make().entries)
    assert "NaN" not in page.data
    assert html.count("<math") >= 3
    assert len(html) < 400_000


def test_what_a_user_named_is_shown_and_never_run() -> None:
    html = render(classify())
    assert "<script>window" not in html
    assert "<b>" not in html.partition("<main>")[2].partition('<script type="application/json"')[
        0
    ].replace('<b style="left', "")
    page = Page(html)
    assert f"Data {EVIL}" in page.text
    assert f"summary {EVIL}" in page.text
    assert f"cellwright compare {EVIL}" in page.text
    assert json.loads(page.data)["confusion"]["classes"] == ["a", EVIL, "c"]
    assert html.count("</script>") == 3


def test_figures_in_the_table() -> None:
    page = Page(render(classify()))
    words = page.text.replace("\N{NO-BREAK SPACE}", " ")
    assert "95.0 ± 1.0 %" in words
    assert re.search(r"Bi-GRU best network 95.0 ± 1.0 % 2 [\d,]+ 2.50 s 3.00 s 2.00× –", words)
    assert re.search(r"minimal not a number 1 [\d,]+ 2.50 s 3.00 s 2.00× 12.3 µs", words)
    assert "majority class 10.0 % – – 2.0 ms – – –" in words
    for name in ("Cellwright 0.", "PyTorch 2.", "Python 3.", "threads used", "Linux"):
        assert name in words or name == "Linux"
    assert "1 min 1 s for the whole comparison" in words


def test_a_defeat_is_the_headline() -> None:
    assert "<h1>Weather</h1>" in render(forecast())
    html = render(forecast(beaten=True))
    assert '<p class="headline">A recurrent network does not pay here.</p>' in html
    assert "does not beat the best plain baseline, last value" in html


def test_pages_of_little() -> None:
    made = classify()
    bare = replace(made.entries[0], predictions=None, weights={}, step_microseconds=None)
    for entries in (
        (),
        (baseline("majority class", 0.5),),
        (bare,),
        (replace(bare, runs=(replace(bare.runs[0], history=(), score=math.nan),)),),
        made.entries[:1],
    ):
        Page(render(replace(made, entries=entries)))
    Page(render(replace(text(), entries=text().entries[2:])))
    Page(render(replace(forecast(), entries=())))


def test_a_file_is_replaced_at_once(tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    target.write_text("before")
    broken = replace(classify(), entries=(replace(classify().entries[0], runs=()),))
    with pytest.raises(StatisticsError):  # of no runs there is no mean
        write_report(target, broken)
    assert target.read_text() == "before"
    write_report(target, text())
    assert target.read_text("utf-8").startswith("<!doctype html>")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
