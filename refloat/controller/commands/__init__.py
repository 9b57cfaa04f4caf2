"""One module per command of `refloat-controller`; each has `run(paths, arguments, progress)`."""
