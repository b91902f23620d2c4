"""Everything that the author of a plugin imports: the core's one stable face towards plugins."""
