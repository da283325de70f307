"""The CPU back end: programs to machine code through LLVM."""
