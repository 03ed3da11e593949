"""The demonstration: a small country on this machine, and the journey of a report through it."""
