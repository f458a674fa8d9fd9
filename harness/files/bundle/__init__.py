"""Many runs as one small file: what boards read of them, and nothing that only their makers need.

A bundle is a tar of four files, the last three compressed by xz::

    bundle.json        Contents: the runs, what of each is not here, and a sha256 of the other files
    documents.jsonl.xz a line a file: its run, its path in the run folder, its text
    scores.json.xz     Group: how scores of one evaluation look, and the values that they take
    scores.bin.xz      which answer of which run has which of them

`packing` makes one of run folders, `opening` makes run folders of one; every file that it holds is then
what it was, byte by byte.
"""
