"""`python -m isoprefill`: the same as the console script."""

from isoprefill.cli.entry import main

if __name__ == "__main__":
    main()
