"""The names and units in which predictions are given, the same for a table and for a stream."""

from torch import Tensor

from cellwright.app.model.network import QUANTILES
from cellwright.app.problem import Scaling
from cellwright.app.schema import Schema

__all__ = ["class_columns", "quantile_columns", "unscaled"]


def class_columns(schema: Schema) -> list[str]:
    """The name of the predicted class, then that of each class's probability."""
    return [f"predicted {schema.targets[0]}", *(f"probability {one}" for one in schema.classes)]


def quantile_columns(schema: Schema) -> list[str]:
    """The names of the quantiles of each target, targets first: "temp_max p10", …"""
    return [f"{target} p{round(100 * q)}" for target in schema.targets for q in QUANTILES]


def unscaled(quantiles: Tensor, scaling: Scaling) -> Tensor:
    """Scaled quantiles (…, K, P, 3) in the targets' units."""
    deviation, mean = scaling.target_deviation[:, None, None], scaling.target_mean[:, None, None]
    return quantiles * deviation + mean
