"""Data sets: rows, where they are found, what they hash to, how they are rendered and tokenised.

Imports neither torch nor transformers; tokenizers are passed in and used through
`kdbench.harness.data.tokens.TokenizerLike`.
"""
