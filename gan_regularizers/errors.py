"""What stops a command with one line for the person who typed it."""


class CommandError(Exception):
    """A wrong input or a missing part, named together with the remedy."""
