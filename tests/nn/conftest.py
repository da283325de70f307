import pytest
import torch

from cellwright.autograd import operation
from cellwright.graph.interpret import interpret_layer

ENGINES = [
    ("kernel", torch.float32),
    ("kernel", torch.float64),
    ("interpreter", torch.float64),
]


@pytest.fixture(params=ENGINES, ids=["float32", "float64", "interpreter"])
def dtype(request, monkeypatch):
    """The dtype of a test; in float64 it runs twice: as a user would, and on the interpreter."""
    engine, dtype = request.param
    if engine == "interpreter":
        monkeypatch.setattr(operation, "run_layer", lambda *call: interpret_layer(*call[:6]))
    return dtype
