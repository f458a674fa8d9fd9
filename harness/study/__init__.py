"""Grids of runs: what a study is, which runs it needs, who runs them, and the table they make."""
