"""``python -m kdbench``: the command line."""

from kdbench.harness.cli import main

if __name__ == "__main__":
    main()
