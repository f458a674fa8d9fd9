"""The preflight: the real models of a pair, tried before anything is trained, made or downloaded for them.

One check a file, each a function ``check(subject) -> findings``. What kdbench cannot do with a model or
a pair is said here, in a sentence, and nowhere later. `kdbench.harness.preflight.flight` runs them.
"""
