"""``barrier new``: the command, and the templates of what it writes."""
