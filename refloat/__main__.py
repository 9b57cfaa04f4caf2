"""`python -m refloat` is the same as `refloat`."""

from refloat.cli.main import main

main()
