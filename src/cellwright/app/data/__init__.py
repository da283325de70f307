"""Files and tables in, tensors ready to be learned out."""
