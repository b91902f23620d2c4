"""``barrier check``: the command, the ranks that it starts, and what they have measured."""
