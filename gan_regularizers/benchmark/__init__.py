"""The benchmark: the modules as a user calls them, timed beside the official sequence of operations and a copy."""
