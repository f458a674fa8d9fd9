"""LoRA: small matrices are trained beside frozen layers, and merged into them at the end.

`settings` is what a recipe says, `adapters` puts them into a model by PEFT and refuses what does not
fit, `merging` is the one place where an adapter and its layer become one weight.
"""
