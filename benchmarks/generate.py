"""Sampling speed against the Hugging Face backend of lm-eval, or vLLM, on the same prompts.

Both sides answer the same Dolly prompts with one model at temperature 1, each in its own process,
in turn. A useful token is one that belongs to an answer: everything up to and including its end
token. Loading the model is not timed; tokenising, casting and decoding to text are.

    python benchmarks/generate.py --model PATH [--peer vllm] [--turns 3] [--prompts 64] [--json]

vLLM answers through kdbench's engine with our noise, so there the report also says how many answers are
equal; where vLLM is in another environment, `KDBENCH_VLLM_PYTHON` names its interpreter. Its processor time
and memory are those of its process, and starting it is not timed.

Data are read from ``--data-dir`` or ``KDBENCH_DATA`` (``dolly/valid.jsonl``).
"""

import argparse
import json
import os
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from made import dolly, engine_of, prompts_of
from turns import Timed, child_process, peak_mb, timed

PEERS = ["lm-eval", "vllm"]
RATIOS = ("tokens_per_second", "tokens_per_cpu_second", "peak_memory")


def main() -> None:
    options = parse()
    if options.child:
        print(json.dumps(SIDES[options.child](options)))
        return

    def take(side: str, turn: int) -> dict[str, Any]:
        name = options.peer if side == "peer" else side
        result = child_process(__file__, name, sys.argv[1:], options.threads)
        if not options.json:
            shown = {k: v for k, v in result.items() if k != "answers"}
            print(turn, side, json.dumps(shown), flush=True)
        return result

    keys = (*RATIOS, "useful_tokens", "seconds")
    found = report(timed(["peer", "ours"], take, turns=options.turns, keys=keys))
    print(json.dumps(found, indent=None if options.json else 1))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", "--teacher", dest="model", required=True, help="model folder")
    parser.add_argument("--data-dir", default=os.environ.get("KDBENCH_DATA"))
    parser.add_argument("--peer", default="lm-eval", choices=PEERS)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--new-tokens", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--json", action="store_true", help="print one JSON line only")
    parser.add_argument("--child", choices=["ours", *PEERS], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.data_dir:
        parser.error("give --data-dir or set KDBENCH_DATA: the folder that holds dolly/valid.jsonl")
    return options


def report(found: Timed) -> dict[str, Any]:
    """Medians over turns of each side, and ours / peer."""
    turns = found.turns
    sides: dict[str, Any] = {
        side: {
            **found.medians[side],
            "turns": [round(row["tokens_per_second"], 1) for row in turns[side]],
        }
        for side in ("ours", "peer")
    }
    sides["ratio"] = {key: found.ratio(key, "ours", "peer") for key in RATIOS}
    first, other = (turns[side][0].get("answers") for side in ("ours", "peer"))
    if first and other:
        sides["equal_answers"] = [sum(map(list.__eq__, first, other)), len(first)]
    return sides


def texts_of(options: argparse.Namespace) -> list[str]:
    return [row["prompt"] for row in islice(dolly("valid", options.data_dir), options.prompts)]


def clock() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def measured(useful_tokens: int, clocks: tuple[float, float]) -> dict[str, Any]:
    seconds, cpu_seconds = (now - then for now, then in zip(clock(), clocks, strict=True))
    return {
        "tokens_per_second": useful_tokens / seconds,
        # With --threads 1 this is what to look at on a machine that is busy with other work.
        "tokens_per_cpu_second": useful_tokens / cpu_seconds,
        "peak_memory": peak_mb() * 2**20,
        "useful_tokens": useful_tokens,
        "seconds": seconds,
    }


def loaded(options: argparse.Namespace) -> tuple[Any, Any]:
    """The tokenizer, and the model as our engine."""
    return engine_of(
        options.model,
        dtype=options.dtype,
        threads=options.threads,
        batch_size=options.batch_size,
        chunk=options.prompts,
    )


def answered(options: argparse.Namespace, tokenizer: Any, engine: Any) -> list[list[int]]:
    """Texts to texts; returns the answers as ids."""
    from kdbench.trainers.types import Decoding

    prompts = prompts_of(texts_of(options), tokenizer)
    decoding = Decoding(max_new_tokens=options.new_tokens, seed=10)
    answers = [list(a.ids) for chunk in engine.answers(prompts, decoding) for a in chunk]
    tokenizer.batch_decode(answers, skip_special_tokens=True)
    return answers


def ours(options: argparse.Namespace) -> dict[str, Any]:
    tokenizer, engine = loaded(options)
    start = clock()
    answers = answered(options, tokenizer, engine)
    return {**measured(sum(map(len, answers)), start), "answers": answers}


def vllm(options: argparse.Namespace) -> dict[str, Any]:
    from kdbench.trainers.types import Decoding, Prompt
    from kdbench.trainers.vllm.engine import VllmEngine

    tokenizer, local = loaded(options)
    engine = VllmEngine(local, changes=False, say=lambda line: print(line, file=sys.stderr))
    longest = max(map(len, tokenizer(texts_of(options))["input_ids"])) + options.new_tokens
    list(engine.answers([Prompt((1,) * 8, 0)], Decoding(max_new_tokens=longest - 8, top_k=1)))
    before, start = engine.spent(), clock()
    answers = answered(options, tokenizer, engine)
    found = measured(sum(map(len, answers)), start)
    after = engine.spent()
    own = found["useful_tokens"] / found["tokens_per_cpu_second"]
    found["tokens_per_cpu_second"] = found["useful_tokens"] / (own + after[0] - before[0])
    return {**found, "peak_memory": after[1], "answers": answers}


def peer(options: argparse.Namespace) -> dict[str, Any]:
    import torch
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    torch.set_num_threads(options.threads)
    torch.manual_seed(10)
    lm = HFLM(
        pretrained=options.model,
        device="cpu",
        dtype=options.dtype,
        batch_size=options.batch_size,
        max_length=8192,
    )
    lengths: list[int] = []
    inner = lm._model_generate

    def recorded(context: Any, *args: Any, **kwargs: Any) -> Any:
        output = inner(context, *args, **kwargs)
        for row in output[:, context.shape[1] :].tolist():
            ended = row.index(lm.eot_token_id) + 1 if lm.eot_token_id in row else len(row)
            lengths.append(ended)
        return output

    lm._model_generate = recorded
    settings = {
        "until": [],
        "do_sample": True,
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "max_gen_toks": options.new_tokens,
    }
    requests = [
        Instance("generate_until", {}, (text, dict(settings)), index)
        for index, text in enumerate(texts_of(options))
    ]
    start = clock()
    lm.generate_until(requests, disable_tqdm=True)
    return measured(sum(lengths), start)


SIDES = {"ours": ours, "lm-eval": peer, "vllm": vllm}

if __name__ == "__main__":
    main()
