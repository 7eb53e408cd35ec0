"""What stops a command with one line for the person who typed it."""


class DemoError(Exception):
    """A wrong input or a missing part, named with its remedy."""
