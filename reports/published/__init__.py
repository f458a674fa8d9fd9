"""Numbers that papers printed, and what is needed to put ours beside them: data only.

``numbers.csv`` has one number a row: where it stands (paper, pair, method, setting, task, metric,
value), how it was read (``status``: ``paper`` from the paper's text, ``secondary`` quoted by another
source), which suites reproduce it (none: no suite does), the method's options that make its setting,
and where our value is (``measure``, ``bucket`` of reference lengths, ``factor`` to the paper's unit).
``ledger.yaml`` has the models' sizes, the papers' prompt counts and known causes of differences.
"""
