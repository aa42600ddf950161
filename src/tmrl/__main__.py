"""`python -m tmrl`, the same as `tmrl`."""

from tmrl.cli import main

if __name__ == "__main__":
    main()
