"""How many sampled answers change with the batch size, for nothing but rounding.

The noise of the sampler does not depend on the batch; what is left is that products of matrices
round differently at different shapes. Decodes the same Dolly prompts at several batch sizes and
counts answers, and tokens, that differ from those of the first.

    python benchmarks/batch_invariance.py --model PATH [--dtype float32] [--batch-sizes 7,32]
"""

import argparse
import json
import os
import sys
from itertools import islice
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from made import dolly, engine_of, prompts_of


def main() -> None:
    options = parse()
    sizes = [int(size) for size in options.batch_sizes.split(",")]
    decoded = {size: answers(options, size) for size in sizes}
    first = decoded[sizes[0]]
    rows = [{"batch_size": size, **differences(first, decoded[size])} for size in sizes[1:]]
    result = {"dtype": options.dtype, "reference_batch_size": sizes[0], "compared": rows}
    print(json.dumps(result, indent=None if options.json else 1))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", "--teacher", dest="model", required=True, help="model folder")
    parser.add_argument("--data-dir", default=os.environ.get("KDBENCH_DATA"))
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=48)
    parser.add_argument("--batch-sizes", default="7,32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default="float32", choices=["bfloat16", "float32", "float64"])
    parser.add_argument("--json", action="store_true", help="one line")
    options = parser.parse_args()
    if not options.data_dir:
        parser.error("give --data-dir or set KDBENCH_DATA: the folder that holds dolly/valid.jsonl")
    return options


def answers(options: argparse.Namespace, batch_size: int) -> list[tuple[int, ...]]:
    from kdbench.trainers.types import Decoding

    tokenizer, engine = engine_of(
        options.model, dtype=options.dtype, threads=options.threads, batch_size=batch_size, chunk=64
    )
    rows = islice(dolly("valid", options.data_dir), options.prompts)
    prompts = prompts_of([row["prompt"] for row in rows], tokenizer)
    chunks = engine.answers(prompts, Decoding(max_new_tokens=options.new_tokens, seed=10))
    return [answer.ids for chunk in chunks for answer in chunk]


def differences(first: list[tuple[int, ...]], second: list[tuple[int, ...]]) -> dict[str, Any]:
    """Counts of differing answers; tokens count up to and including the first that differs."""
    pairs = list(zip(first, second, strict=True))
    return {
        "answers": len(pairs),
        "answers_that_differ": sum(a != b for a, b in pairs),
        "tokens_compared": sum(agreed(a, b) + (a != b) for a, b in pairs),
    }


def agreed(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """Length of the common beginning."""
    return next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )


if __name__ == "__main__":
    main()
