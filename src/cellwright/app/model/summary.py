"""A trained model in words."""

from cellwright.app.model.folder import Model
from cellwright.app.schema import Schema, Task
from cellwright.describe import describe
from cellwright.nn import Recurrent

__all__ = ["summarise"]


def summarise(model: Model) -> str:
    """What a model does, from what, how well, and its cell's equations."""
    design, schema, about = model.network.design, model.schema, model.about
    parameters = sum(one.numel() for one in model.network.parameters())
    sizes = f"{design.label}, hidden size {design.hidden_size}, {parameters:,} parameters"
    lines = [sizes, "", f"Task     {_task(schema)}", f"Reads    {_inputs(schema)}"]
    if "data" in about:
        lines.append(f"Data     {about['data']['name']}: {about['data']['summary']}")
    if "metrics" in about:
        lines.append(f"Scores   {_scores(about['metrics'])}")
    if "training" in about:
        training = about["training"]
        ended = "" if training["finished"] else ", interrupted"
        lines.append(
            f"Training best epoch {training['best_epoch']} of {training['epochs']}{ended}, seed "
            f"{training['seed']}, {training['seconds']:.1f} s"
        )
    if "command" in about:
        lines.append(f"Command  {about['command']}")
    versions = ", ".join(f"{name} {version}" for name, version in about.get("versions", {}).items())
    if versions:
        lines.append(f"Versions {versions}")
    recurrent = model.network.recurrent
    width = recurrent.input_size if isinstance(recurrent, Recurrent) else None
    return "\n".join([*lines, "", str(describe(design.cell, width, design.hidden_size))])


def _task(schema: Schema) -> str:
    match schema.task:
        case Task.CLASSIFY:
            return f"classify {schema.targets[0]}: {', '.join(schema.classes)}"
        case Task.FORECAST:
            ahead = "1 step" if schema.horizon == 1 else f"1 to {schema.horizon} steps"
            return f"forecast {', '.join(schema.targets)}, {ahead} ahead"
        case Task.TEXT:
            return f"text, {schema.known} {schema.unit}s"


def _inputs(schema: Schema) -> str:
    names = list(schema.input_names) or [f"the {schema.unit}s before"]
    columns = [f"series {schema.series!r}"] if schema.series else []
    columns += [f"time {schema.time!r}"] if schema.time else []
    return ", ".join(names) + (f" (by {', '.join(columns)})" if columns else "")


def _scores(metrics: dict[str, object]) -> str:
    parts = [
        f"{part} {metrics[part]:.4f}"
        for part in ("validation", "test")
        if metrics.get(part) is not None
    ]
    return f"{metrics['name']}: {', '.join(parts)}"
