"""What a run will need, before anything is loaded: memory, disk, tokens, FLOPs, hours.

Arithmetic on configurations alone, without torch. A `shapes.Shape` says what a model is, `work.Work` what a
method's step does, a `job.Job` what is trained where; `memory` adds up bytes at the moments where they are
highest, `host` those of main memory while files are read and written, `times` counts tokens and FLOPs, `fit`
looks for the change that makes a run fit, `planning` puts a plan together.
"""
