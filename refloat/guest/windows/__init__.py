"""Windows guests: everything about one that is not common to all guests."""
