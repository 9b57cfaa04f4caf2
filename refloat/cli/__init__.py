"""The command line: a client of the hub's API. Nothing heavy is imported before a command needs it."""
