"""The use cases of the program, each of which joins several packages; no Click, no printing, no exits."""
