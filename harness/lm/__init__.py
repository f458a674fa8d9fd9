"""The door to lm-eval, and the only package that imports it.

Our own text tasks do not pass here (their YAML files serve plain lm-eval); its generation tasks give their
prompts and take answers, its likelihood tasks run over an engine. lm-eval's own response cache is never
used: its key ignores the model.
"""
