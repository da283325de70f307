"""Other libraries, timed beside Cellwright and torch.nn on the same layers."""
