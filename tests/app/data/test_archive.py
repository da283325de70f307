"""Files of the UEA and UCR archives."""

import torch

from cellwright.app import data
from cellwright.app.data import Options

HEADER = """#A comment
@problemName Gestures
@timeStamps false
@missing true
@univariate false
@dimensions 2
@equalLength false
@classLabel true up down
@data
"""
CASES = """1.5,2,3:4,?,6:up
7,8:9,10:down
-1,-2,-3.25:0,0,1e2:up
0.5:1:down
"""
BOTH = Options(validation_share=0.0, test_share=0.5)


def test_a_file_in_long_form(write):
    table = data.read_table(write("g.ts", HEADER + CASES))
    assert table.columns == ["series", "step", "dim_0", "dim_1", "label"]
    assert table["dim_0"].to_list() == [1.5, 2, 3, 7, 8, -1, -2, -3.25, 0.5]
    assert table["dim_1"].to_list() == [4, None, 6, 9, 10, 0, 0, 100, 1]
    assert table["label"].to_list() == ["up"] * 3 + ["down"] * 2 + ["up"] * 3 + ["down"]
    assert table["step"].to_list() == [0, 1, 2, 0, 1, 0, 1, 2, 0]


def test_a_pair_of_files(write):
    train = write("g_TRAIN.ts", HEADER + CASES.replace("?", "5"))
    test = write("g_TEST.ts", HEADER + "1,2:3,4:down\n")
    problem = data.read_problem(train, test=test, options=Options(validation_share=0.0))
    assert problem.name == "Gestures"
    assert problem.schema.classes == ("down", "up")
    assert problem.train.targets.tolist() == [1, 0, 1, 0]
    assert problem.test.targets.tolist() == [0]
    values = torch.tensor([[1.0, 3.0], [2.0, 4.0]])
    expected = (values - problem.scaling.input_mean) / problem.scaling.input_deviation
    torch.testing.assert_close(problem.test.inputs[0], expected)


def test_missing_values_name_their_line_and_dimension(write, refused):
    path = write("g.ts", HEADER + CASES)
    refused(lambda: data.read_problem(path, options=BOTH), "missing", "ffill", place="row 10")


def test_what_is_refused(write, refused):
    def check(header, cases, *words, place=""):
        path = write("bad.ts", header + cases)
        refused(lambda: data.read_problem(path), *words, place=place)

    regression = HEADER.replace("@classLabel true up down", "@targetlabel true")
    check(regression, CASES, "regression", "not supported")
    check(HEADER.replace("@timeStamps false", "@timeStamps true"), CASES, "time stamps")
    check(HEADER.replace("@classLabel true up down", "@classLabel false"), CASES, "labels")
    check(HEADER.replace("@data\n", ""), "", "@data")
    check(HEADER, "", "a case in each line")
    check(HEADER, "1,2:3,4:up\n1,2:up\n", "2 dimensions", "got 1", place="row 11")
    check(HEADER, "1,2:3:up\n", "one length", "[1, 2]", place="row 10")
    check(HEADER, "1,2:3,x:up\n", "'x'", place="row 10, column 'dim_1'")
    check(HEADER, "1,2,3\n", "a label", place="row 10")
    check(HEADER, CASES + "1:2:left\n", "'left'", "up, down", "@classLabel", place="row 14")


def test_a_header_without_its_labels_takes_any(write):
    path = write("g.ts", HEADER.replace("true up down", "true") + CASES)
    assert set(data.read_table(path)["label"]) == {"up", "down"}
