"""Time Cellwright against torch.nn: `cellwright bench` and the repository's benchmarks."""
