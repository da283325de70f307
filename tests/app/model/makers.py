"""Small models of every task, with random weights and odd sizes."""

import torch

from cellwright import cell, sigmoid, tanh
from cellwright.app.model.design import Design
from cellwright.app.model.folder import Model
from cellwright.app.model.network import Network
from cellwright.app.problem import Scaling
from cellwright.app.schema import Feature, Schema, Task
from cellwright.cells import CELLS
from cellwright.graph.cell import Cell


@cell
def coupled(x, h, c, *, p_f=1.0):
    """One gate for input and forgetting, which sees the cell state: no bundled cell."""
    f = sigmoid(x.f + h.f + p_f * c)
    o = sigmoid(x.o + h.o)
    c = f * c + (1 - f) * tanh(x.g + h.g)
    return o * tanh(c), c


SCHEMAS = {
    Task.CLASSIFY: Schema(
        Task.CLASSIFY,
        targets=("kind",),
        features=(Feature("a"), Feature("b"), Feature("colour", ("blue", "red"))),
        series="id",
        classes=("none", "some", "ÿ many"),
    ),
    Task.FORECAST: Schema(
        Task.FORECAST,
        targets=("b", "a"),
        features=(Feature("a"), Feature("b"), Feature("wind")),
        series="station",
        time="date",
        frequency="1d",
        horizon=3,
    ),
    Task.TEXT: Schema(Task.TEXT, vocabulary=tuple("\n abcdeé")),
}


def scaling_of(schema: Schema) -> Scaling | None:
    if schema.task is Task.TEXT:
        return None
    inputs = len(schema.input_names)
    targets = len(schema.targets) if schema.task is Task.FORECAST else 0
    mean, deviation = torch.randn(inputs), torch.rand(inputs) + 0.3
    columns = [schema.input_names.index(name) for name in schema.targets[:targets]]
    return Scaling(mean, deviation, mean[columns], deviation[columns])


def make_model(
    task: Task = Task.FORECAST,
    cell: Cell | str = coupled,
    *,
    num_layers: int = 2,
    bidirectional: bool = False,
    schema: Schema | None = None,
) -> Model:
    """A model that nobody trained; dropout is on, so that a mode for training would show."""
    schema = schema or SCHEMAS[task]
    scaling = scaling_of(schema)
    one = CELLS[cell] if isinstance(cell, str) else cell
    design = Design(
        one, hidden_size=7, num_layers=num_layers, bidirectional=bidirectional, dropout=0.25
    )
    network = Network(schema, design, scaling)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn_like(parameter) / 2)
    return Model(network, schema, scaling, {"command": "a test", "metrics": {"loss": 0.5}})
