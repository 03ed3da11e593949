"""The commands, one module a family. Each is a thin shell: it reads arguments, calls one function, shows the result."""
