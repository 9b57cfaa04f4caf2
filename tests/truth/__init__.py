"""Sabotages, and the verdict that must come out: never success, and the cause in words."""
