"""Notices on their way out: who is told (channels), in which words (render), and how (the others)."""
