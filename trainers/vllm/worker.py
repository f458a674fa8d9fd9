"""The process in which vLLM runs: ``python -m kdbench.trainers.vllm.worker``.

Lines of JSON come in on standard input and go out on what was standard output; whatever vLLM prints goes
to standard error. It says what it is, then does what it is told until its input ends. With ``--about`` it
says what it is without starting anything.
"""

import json
import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdbench.trainers.vllm.about import about

DRAWING = "kdbench.trainers.vllm.drawing:Drawing"


class Answerer:
    """vLLM's engine with one model."""

    def __init__(self, told: dict[str, Any]) -> None:
        from vllm import LLM

        gpu = told["device"] != "cpu"
        self._sleep, self._asleep = told["sleep"], False
        room = (
            {"gpu_memory_utilization": told["share"]}
            if gpu
            else {"kv_cache_memory_bytes": told["cache"]}
        )
        self._llm = LLM(
            told["folder"],
            dtype=told["dtype"],
            load_format="dummy",
            max_model_len=told["length"],
            max_num_seqs=told["rows"],
            skip_tokenizer_init=True,
            generation_config="vllm",
            logits_processors=[DRAWING],
            # on a CPU there is nothing to capture; what an answer is must not depend on earlier ones
            enforce_eager=not gpu,
            enable_prefix_caching=False,
            async_scheduling=False,
            enable_sleep_mode=self._sleep > 0,
            seed=0,
            **room,
        )

    def take(self, told: dict[str, Any]) -> None:
        """Weights from a folder of safetensors files."""
        if self._asleep:
            self._llm.wake_up(tags=["weights"])
        self._llm.collective_rpc(
            "reload_weights", kwargs={"weights_iterator": _weights(told["folder"])}
        )
        if self._asleep:
            self._llm.wake_up(tags=["kv_cache"])
        self._asleep = False

    def answer(self, told: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Each answer when it is finished, with its place among those asked."""
        from vllm import SamplingParams

        from kdbench.trainers.vllm.drawing import ASKED

        if self._asleep:
            self._llm.wake_up()
            self._asleep = False
        engine = self._llm.llm_engine
        how = {"decoding": told["decoding"], "vocab": told["vocab"]}
        for place, (ids, stream, limit) in enumerate(
            zip(told["prompts"], told["streams"], told["limits"], strict=True)
        ):
            parameters = SamplingParams(
                temperature=0.0,
                max_tokens=limit,
                stop_token_ids=told["ends"],
                ignore_eos=True,
                detokenize=False,
                extra_args={ASKED: {**how, "stream": stream}},
            )
            engine.add_request(str(place), {"prompt_token_ids": ids}, parameters)
        while engine.has_unfinished_requests():
            for output in engine.step():
                if output.finished:
                    ids = list(output.outputs[0].token_ids)
                    yield {"place": int(output.request_id), "ids": ids}

    def rest(self) -> None:
        """Gives a GPU's memory back until the next weights or prompts come."""
        if self._sleep:
            self._llm.sleep(level=self._sleep)
            self._asleep = True


def _weights(folder: str) -> Iterator[tuple[str, Any]]:
    from safetensors import safe_open

    for file in sorted(Path(folder).glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118
                yield name, opened.get_tensor(name)


def serve(commands: Any, replies: Any) -> None:
    """Does what it is told, a line at a time."""

    def say(reply: dict[str, Any]) -> None:
        replies.write(f"{json.dumps(reply)}\n")
        replies.flush()

    say({"about": about()})
    answerer: Answerer | None = None
    for line in commands:
        told = json.loads(line)
        try:
            if told["do"] == "count":
                used = resource.getrusage(resource.RUSAGE_SELF)
                seconds = used.ru_utime + used.ru_stime
                say({"answer": {"cpu_s": seconds, "peak": used.ru_maxrss * 1024}})
            elif told["do"] == "load":
                answerer = Answerer(told)
            elif answerer is None:
                raise RuntimeError("no model is loaded")
            elif told["do"] == "take":
                answerer.take(told)
            elif told["do"] == "answer":
                for each in answerer.answer(told):
                    say({"answer": each})
            elif told["do"] == "rest":
                answerer.rest()
            say({"done": told["do"]})
        except Exception as error:
            import traceback

            traceback.print_exc()
            say({"failed": f"{type(error).__name__}: {error}"})


def main() -> None:
    """See the module docstring."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    if "--about" in sys.argv[1:]:
        print(json.dumps({"about": about()}), file=replies, flush=True)
        return
    serve(sys.stdin, replies)


if __name__ == "__main__":
    main()
