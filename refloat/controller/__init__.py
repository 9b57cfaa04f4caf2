"""The controller: what runs in it (`refloat-controller`), and the hub's client for it."""
