"""The all-integer network in C99, compiled and run from Python."""
