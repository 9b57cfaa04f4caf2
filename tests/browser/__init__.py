"""The hub's page in a real browser, over a simulated estate."""
