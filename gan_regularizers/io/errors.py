"""What stops a command with one line for the person who typed it."""


class CommandError(Exception):
    """A wrong input or a missing part, named together with the remedy.

    Args:
        message: the line.
        more: what else is to be shown below it, in any number of lines.
    """

    def __init__(self, message: str, more: str = "") -> None:
        super().__init__(message)
        self.more = more
