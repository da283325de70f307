"""A trained model at work: predictions, streams, generated text."""
