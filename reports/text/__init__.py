"""Text: one document as a tree, and the formats it is written in."""
