"""Verbs, configuration, run folders and stages of kdbench."""
