"""How a network is trained: every number that is neither the data's nor the network's."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from cellwright.app.errors import InputError
from cellwright.app.problem import Problem
from cellwright.app.schema import Task

__all__ = ["Precision", "Recipe", "recipe_for"]

Precision = Literal["32-true", "64-true"]

CLASSIFY_STEPS = 8000
FORECAST_STEPS = 4000
TEXT_SYMBOLS = 10_000_000
"""About how many steps there are, or symbols read, on much data; little ends by its epochs."""


@dataclass(frozen=True)
class Recipe:
    """How one network, or every network of a comparison, is trained.

    The optimiser is AdamW; its learning rate rises and falls once over all epochs.

    Attributes:
        epochs: passes over the training part; fewer where patience runs out.
        batch_size: sequences of a batch, over all processes; text: streams read side by side.
        learning_rate: the highest.
        weight_decay: of AdamW.
        gradient_norm: a longer gradient is shortened to this length.
        noise: deviation of Gaussian noise on scaled inputs, fresh in each batch; not for text.
        patience: epochs without a better validation score after which the training ends; None
            means that it never does. The best epoch's weights are kept either way.
        window: steps through which a gradient flows back. Longer sequences and texts are read in
            windows, the state carried on from one to the next. Forecasts learn from windows of so
            many steps. A network in two directions reads sequences whole.
        context: forecast: steps before a window that warm the state and have no loss.
        precision: of weights and arithmetic in training, as Lightning names it.
        checkpoint_seconds: with a folder, a checkpoint is written after the step or epoch where
            the last one is this old; 0 means after every step.

    Raises:
        InputError: a value that makes no sense.
    """

    epochs: int = 60
    batch_size: int = 30
    learning_rate: float = 6e-3
    weight_decay: float = 1e-2
    gradient_norm: float = 1.0
    noise: float = 0.0
    patience: int | None = 15
    window: int = 1024
    context: int = 0
    precision: Precision = "32-true"
    checkpoint_seconds: float = 1.0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "window"):
            _check(name, getattr(self, name), at_least=1)
        for name in ("weight_decay", "noise", "context", "checkpoint_seconds"):
            _check(name, getattr(self, name), at_least=0)
        for name in ("learning_rate", "gradient_norm"):
            _check(name, getattr(self, name), above=0)
        if self.patience is not None:
            _check("patience", self.patience, at_least=1)
        if self.precision not in ("32-true", "64-true"):
            raise InputError(
                f"expected the precision 32-true or 64-true, but got {self.precision!r}; "
                "choose one of these"
            )

    @classmethod
    def for_problem(cls, problem: Problem) -> "Recipe":
        """The recipe to begin with: chosen on the bundled data, never on a test part."""
        match problem.schema.task:
            case Task.CLASSIFY:
                return _classify(len(problem.train))
            case Task.FORECAST:
                return _forecast(problem)
            case Task.TEXT:
                return _text(len(problem.train.inputs.values))

    def to_json(self) -> dict[str, Any]:
        """The recipe as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Recipe":
        """The recipe that `to_json` wrote.

        Raises:
            InputError: the values are not those of a recipe.
        """
        names = {field.name for field in fields(cls)}
        if set(values) != names:
            raise InputError(
                f"expected the values {', '.join(sorted(names))}, but got "
                f"{', '.join(sorted(values))}; the recipe is another version's"
            )
        return cls(**values)


def recipe_for(problem: Problem, **changes: Any) -> Recipe:
    """The recipe of the problem's task; what is given and not None takes its place.

    Raises:
        InputError: there is no such name, or a value makes no sense.
    """
    names = [one.name for one in fields(Recipe)]
    unknown = next((name for name in changes if name not in names), None)
    if unknown is not None:
        raise InputError(f"expected one of {', '.join(names)}, but got {unknown!r}; name one")
    given = {name: value for name, value in changes.items() if value is not None}
    return replace(Recipe.for_problem(problem), **given)


def _classify(sequences: int) -> Recipe:
    batch_size = min(max(sequences // 9, 8), 30 if sequences < 2000 else 128)
    steps = -(-sequences // batch_size)  # of an epoch
    epochs = min(60, max(10, CLASSIFY_STEPS // steps))
    return Recipe(epochs=epochs, batch_size=batch_size, noise=0.6)


def _forecast(problem: Problem) -> Recipe:
    window = max(64, 4 * problem.schema.season)
    windows = -(-len(problem.train.inputs.values) // window)  # of an epoch
    batch_size = 8 if windows < 800 else 64
    return Recipe(
        epochs=min(80, max(10, FORECAST_STEPS * batch_size // windows)),
        batch_size=batch_size,
        learning_rate=3e-3,
        noise=0.2,
        patience=20,
        window=window,
        context=window // 2,
    )


def _text(symbols: int) -> Recipe:
    return Recipe(
        epochs=min(8, max(1, TEXT_SYMBOLS // symbols)),
        batch_size=min(32, max(1, symbols // 1000)),
        learning_rate=1e-2,
        patience=3,
        window=64,
    )


def _check(
    name: str, value: float, *, at_least: float | None = None, above: float | None = None
) -> None:
    fits = value >= at_least if at_least is not None else above is not None and value > above
    if not fits:  # written so that NaN fails too
        bound = f"at least {at_least}" if at_least is not None else f"above {above}"
        raise InputError(f"expected {name} {bound}, but got {value}; choose another")
