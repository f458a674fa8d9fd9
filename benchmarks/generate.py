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
import resource
import statistics
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any

PEERS = ["lm-eval", "vllm"]


def main() -> None:
    options = parse()
    if options.side:
        print(json.dumps(SIDES[options.side](options)))
        return
    turns: dict[str, list[dict[str, Any]]] = {"ours": [], "peer": []}
    for turn in range(options.turns):
        for side in ("ours", "peer") if turn % 2 else ("peer", "ours"):
            turns[side].append(in_own_process(options.peer if side == "peer" else side))
            if not options.json:
                shown = {k: v for k, v in turns[side][-1].items() if k != "answers"}
                print(turn, side, json.dumps(shown), flush=True)
    print(json.dumps(report(turns)) if options.json else json.dumps(report(turns), indent=1))


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
    parser.add_argument("--side", choices=["ours", *PEERS], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.data_dir:
        parser.error("give --data-dir or set KDBENCH_DATA: the folder that holds dolly/valid.jsonl")
    return options


def in_own_process(side: str) -> dict[str, Any]:
    """Runs one side as a child with this command's own arguments; its last line is the result."""
    command = [sys.executable, __file__, *sys.argv[1:], "--side", side]
    done = subprocess.run(command, check=True, capture_output=True)
    result: dict[str, Any] = json.loads(done.stdout.decode().strip().splitlines()[-1])
    return result


def report(turns: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Medians over turns of each side, and ours / peer."""
    sides = {
        side: {
            key: statistics.median(row[key] for row in rows)
            for key in (
                "tokens_per_second",
                "tokens_per_cpu_second",
                "peak_memory",
                "useful_tokens",
                "seconds",
            )
        }
        | {"turns": [round(row["tokens_per_second"], 1) for row in rows]}
        for side, rows in turns.items()
    }
    ratio = {
        key: sides["ours"][key] / sides["peer"][key]
        for key in ("tokens_per_second", "tokens_per_cpu_second", "peak_memory")
    }
    found = {**sides, "ratio": ratio}
    first, other = (turns[side][0].get("answers") for side in ("ours", "peer"))
    if first and other:
        found["equal_answers"] = [sum(map(list.__eq__, first, other)), len(first)]
    return found


def dolly_prompts(options: argparse.Namespace) -> list[str]:
    path = Path(options.data_dir) / "dolly" / "valid.jsonl"
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line)["prompt"] for line in islice(lines, options.prompts)]


def clock() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def measured(useful_tokens: int, clocks: tuple[float, float]) -> dict[str, Any]:
    seconds, cpu_seconds = (now - then for now, then in zip(clock(), clocks, strict=True))
    peak_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "tokens_per_second": useful_tokens / seconds,
        # With --threads 1 this is what to look at on a machine that is busy with other work.
        "tokens_per_cpu_second": useful_tokens / cpu_seconds,
        "peak_memory": peak_kb * 1024,
        "useful_tokens": useful_tokens,
        "seconds": seconds,
    }


def loaded(options: argparse.Namespace) -> tuple[Any, Any]:
    """The tokenizer, and the model as our engine."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from kdbench.trainers.engine import LoadedModel
    from kdbench.trainers.models import Vocabulary

    torch.set_num_threads(options.threads)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForCausalLM.from_pretrained(
        options.model, dtype=getattr(torch, options.dtype)
    ).eval()
    words = Vocabulary(
        size=model.config.vocab_size,
        eos_ids=(tokenizer.eos_token_id,),
        pad_id=tokenizer.pad_token_id,
    )
    engine = LoadedModel(
        model=model, vocabulary=words, batch_size=options.batch_size, chunk=options.prompts
    )
    return tokenizer, engine


def answered(options: argparse.Namespace, tokenizer: Any, engine: Any) -> list[list[int]]:
    """Texts to texts; returns the answers as ids."""
    from kdbench.trainers.types import Decoding, Prompt

    encoded = tokenizer(dolly_prompts(options))["input_ids"]
    prompts = [Prompt(tuple(ids), key=index) for index, ids in enumerate(encoded)]
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
    longest = max(map(len, tokenizer(dolly_prompts(options))["input_ids"])) + options.new_tokens
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
        for index, text in enumerate(dolly_prompts(options))
    ]
    start = clock()
    lm.generate_until(requests, disable_tqdm=True)
    return measured(sum(lengths), start)


SIDES = {"ours": ours, "lm-eval": peer, "vllm": vllm}

if __name__ == "__main__":
    main()
