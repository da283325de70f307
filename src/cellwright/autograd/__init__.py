"""The torch operation: a layer with its gradient, on a kernel or on the interpreter."""
