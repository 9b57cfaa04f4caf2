mod
