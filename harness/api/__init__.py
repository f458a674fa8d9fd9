"""What ``import kdbench`` offers; the command line calls the same functions."""
