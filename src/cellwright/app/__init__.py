"""The command line: bundled data, a plain training loop, a comparison and its report."""
