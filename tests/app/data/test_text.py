"""Texts by characters and by bytes."""

import re

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cellwright.app import data
from cellwright.app.data import Options
from cellwright.app.data import text as text_module
from cellwright.app.schema import UNKNOWN, Schema, Task

TEXTS = st.text(st.characters(codec="utf-8"), min_size=30, max_size=200)


def decoded(schema, part):
    letters = "".join(schema.vocabulary[index] for index in part.inputs.values.tolist())
    return letters if schema.unit == "character" else letters.encode("latin-1").decode()


@given(TEXTS, st.sampled_from(["character", "byte"]))
@settings(max_examples=40, deadline=None)
def test_a_text_is_split_by_position_and_comes_back(text, unit):
    problem = data.read_problem(text, options=Options(unit=unit))
    parts = (problem.train, problem.validation, problem.test)
    whole = torch.cat([part.inputs.values for part in parts])
    assert whole.dtype == torch.int64
    letters = "".join(problem.schema.vocabulary[index] for index in whole.tolist())
    size = len(letters)
    seen = set(letters[: len(parts[0].inputs.values)])
    known = text if unit == "byte" else "".join(one if one in seen else UNKNOWN for one in text)
    assert letters == (known if unit == "character" else text.encode().decode("latin-1"))
    assert len(parts[2].inputs.values) == round(size * 0.1)
    assert all(torch.equal(part.targets, part.inputs.values) for part in parts)
    assert problem.schema.vocabulary == tuple(
        sorted(seen | {UNKNOWN}) if unit == "character" else map(chr, range(256))
    )
    assert decoded(problem.schema, data.encode(problem.schema, None, text)) == known


def test_a_file_read_in_pieces_that_cut_characters(write, monkeypatch):
    monkeypatch.setattr(text_module, "CHUNK", 7)
    text = "Zürich – 北京, naïve 🎲\n" * 20
    path = write("t.txt", text)
    assert data.read_text(path) == text
    problem = data.read_problem(path)
    assert problem.name == "t"
    assert decoded(problem.schema, data.encode(problem.schema, None, path)) == text


def test_a_mark_of_utf8_is_no_character(write):
    path = write("t.txt", b"\xef\xbb\xbf" + b"abc" * 30)
    problem = data.read_problem(path)
    assert "\ufeff" not in problem.schema.vocabulary
    assert decoded(problem.schema, problem.train).startswith("abc")


def test_any_file_is_a_text_if_it_is_asked_for(write):
    path = write("program.py", "print('abc')\n" * 9)
    assert data.read_problem(path, options=Options(task=Task.TEXT)).schema.task is Task.TEXT


def test_what_comes_after_the_training_part_does_not_shape_the_vocabulary(write, monkeypatch):
    monkeypatch.setattr(text_module, "CHUNK", 8)
    text = "abc\n" * 30
    problem = data.read_problem(write("t.txt", text + "xyz" * 5))
    assert problem.schema.vocabulary == ("\n", "a", "b", "c", UNKNOWN)
    assert problem.schema.known == 4
    assert decoded(problem.schema, problem.test) == UNKNOWN * 14
    said = "4 different ones; by position .*; 15 characters that training has not, read as unknown"
    assert re.search(said, problem.summary)
    longer = data.read_problem(write("t.txt", text + "x" * 15))
    assert longer.schema == problem.schema


def test_a_character_outside_a_vocabulary_without_unknown_names_its_place(
    write, refused, monkeypatch
):
    monkeypatch.setattr(text_module, "CHUNK", 8)
    train, test = write("train.txt", "abc\n" * 20), write("test.txt", "abc\nabc\nabcc\nabXc\n")
    older = Schema(Task.TEXT, vocabulary=("\n", "a", "b", "c"))
    refused(
        lambda: data.encode(older, None, test),
        "'X'",
        "character 16",
        "bytes",
        place="test.txt, row 4",
    )
    refused(lambda: data.encode(older, None, "a\nb!"), "'!'", place="row 2")
    problem = data.read_problem(train, test=test)
    assert decoded(problem.schema, problem.test) == f"abc\nabc\nabcc\nab{UNKNOWN}c\n"
    by_bytes = data.read_problem(train, test=test, options=Options(unit="byte"))
    assert len(by_bytes.test.inputs.values) == 18


def test_too_short_texts(write, refused):
    refused(lambda: data.read_problem("abc"), "validate", "got 0 of 3")
    refused(lambda: data.read_problem(write("t.txt", "")), "empty")
    options = Options(validation_share=0.0, test_share=0.5)
    problem = data.read_problem("abab", options=options)
    assert problem.validation is None
    assert len(problem.train.inputs.values) == len(problem.test.inputs.values) == 2
