"""Verbs, those that belong together in one file. A verb reads its flags and makes one call."""
