"""Bringing a replica from one complete sync point to the next (DESIGN.md, Sync points)."""
