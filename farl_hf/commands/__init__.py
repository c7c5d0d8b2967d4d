"""
The `farl` command, one file a subcommand. Starts without torch; each subcommand imports what it needs when it runs.

May import everything; nothing imports it.
"""
