"""Decoding in C: what torch's operators leave unused of a CPU, for few rows; built on the user's machine, optional."""
