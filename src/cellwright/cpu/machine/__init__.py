"""What this machine is: instruction sets, its compiler and the cache of code, its memory."""
