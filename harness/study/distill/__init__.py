"""``kdbench distill``: from a teacher, a student and a file to the best student and a table."""
