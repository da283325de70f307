"""A trained model at work: predictions, streams, generated text."""

from cellwright.app.running.generation import generate
from cellwright.app.running.prediction import predict, predict_part
from cellwright.app.running.stream import Stream

__all__ = ["Stream", "generate", "predict", "predict_part"]
