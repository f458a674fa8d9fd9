"""What a teacher says of rows that are known before training, on disk: computed once, read by many runs."""
