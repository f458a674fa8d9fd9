"""One run as a document: its report, and the model card of its student."""
