"""The hub's REST API: the one place where requests are checked and records become JSON."""
