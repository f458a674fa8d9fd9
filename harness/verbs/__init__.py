"""One file a verb (or two that belong together). A verb reads its flags and makes one call."""
