"""Names that people type first: short ones of ours, and those of other tools.

A short name stands for another option (``--lr 1e-4`` for ``--set train.lr=1e-4``), so that a setting has one
way into a run. What is called something else here is answered with its name here, before anything is loaded.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from kdbench.harness.errors import InputError

TRAINED = {
    "--lr": "train.lr",
    "--batch-size": "train.batch_size",
    "--epochs": "train.epochs",
    "--steps": "train.steps",
}
"""Options that are a setting of the student's training."""
PAIR = {"--teacher": "pair.teacher", "--student": "pair.student"}
"""Options of what trains one student that are settings of what trains many."""
TRAINS = ("run", "train", "ablate", "tune")
SETTINGS: Mapping[str, Mapping[str, str]] = {
    **dict.fromkeys(TRAINS, TRAINED),
    **dict.fromkeys(("ablate", "tune"), TRAINED | PAIR),
    "run": TRAINED | {"--protocol": "tasks.protocol"},
    "doctor": {"--batch-size": "train.batch_size"},
    "eval": {"--batch-size": "generate.batch_size"},
}
"""Verb -> option -> the setting that it stands for."""
_RUNS, _TABLES = {"--output": "--runs-dir"}, {"--output": "--out"}
OPTIONS: Mapping[str, Mapping[str, str]] = {
    **dict.fromkeys(("run", "train", "eval"), _RUNS),
    **{verb: {**_TABLES, "--seed": "--seeds"} for verb in ("ablate", "tune")},
    **dict.fromkeys(("leaderboard", "report", "claims", "ledger", "bundle", "distill"), _TABLES),
    "new-method": {"--output": "--folder"},
}
"""Verb -> option -> the option that it stands for."""

EVALUATED = "kdbench eval --model FOLDER_OR_HUB_ID"
DATA = "kdbench distill --data FILE, or --set data.train=FILE"
OTHERS: Mapping[str, str] = {
    # lm-eval
    "model_args": f"the model itself is given: {EVALUATED}",
    "pretrained": f"the model itself is given: {EVALUATED}",
    "output_path": "--output (a folder of runs); tables are written by kdbench leaderboard --out",
    "apply_chat_template": "--template chat",
    "fewshot_as_multiturn": "prompts are the task's own; write one with --include-path",
    "num_fewshot": "the task says it; write one with another number in --include-path",
    "gen_kwargs": "--set generate.temperature=0, --set generate.top_p=0.9 and so on",
    "log_samples": "nothing: answers are always kept; see kdbench show RUN --sample N",
    "use_cache": "nothing: answers are always kept, and none is drawn twice",
    "system_instruction": "a system turn in the rows, or a chat template that writes one",
    # TRL and transformers
    "model_name_or_path": "--student",
    "student_model": "--student",
    "teacher_model": "--teacher",
    "teacher_model_name_or_path": "--teacher",
    "dataset_name": DATA,
    "dataset": DATA,
    "train_file": DATA,
    "learning_rate": "--lr",
    "num_train_epochs": "--epochs",
    "max_steps": "--steps",
    "per_device_train_batch_size": "--batch-size (of an optimiser step, all processes)",
    "train_batch_size": "--batch-size",
    "per_device_eval_batch_size": "--set generate.batch_size=N",
    "gradient_accumulation_steps": "--set train.micro_tokens=N: micro-batches are cut by tokens",
    "output_dir": "--output",
    "max_length": "--set train.max_length=N",
    "max_seq_length": "--set train.max_length=N",
    "max_new_tokens": "--set generate.max_new_tokens=N",
    "temperature": "--set generate.temperature=T of answers, a method's own by kdbench ls settings METHOD",
    "warmup_steps": "--set train.warmup=N",
    "weight_decay": "--set train.weight_decay=X",
    "lr_scheduler_type": "--set train.schedule=cosine",
    "logging_steps": "nothing: every step is logged",
    "eval_steps": "--set train.eval_every=N",
    "save_steps": "--set train.save_every=N",
    "report_to": "--track",
    "run_name": "nothing: a run is named by what decides its student",
    "bf16": "--set train.precision=bf16",
    "fp16": "--set train.precision=bf16",
    "push_to_hub": "nothing is sent anywhere; upload the student's folder with: hf upload",
    "resume_from_checkpoint": "nothing: the same command goes on where it stopped",
    "trust_remote_code": "nothing: code that comes with a model is never run",
    "beta": "--set method.KEY=VALUE; kdbench ls settings METHOD names its fields",
    "lmbda": "--set method.KEY=VALUE; kdbench ls settings METHOD names its fields",
    # alpaca_eval, sacrebleu, inspect_ai
    "model_outputs": "kdbench score --outputs FILE --references FILE",
    "reference_outputs": "kdbench score --outputs FILE --references FILE",
    "annotators_config": "kdbench judge --judge NAME_OR_YAML",
    "confidence": "nothing: every number has its interval",
    "tokenize": "--rouge-tokenizer unicode (kdbench score)",
    "log_dir": "--runs-dir",
    "max_samples": "--limit",
    "num_samples": "--limit",
}
"""Options of other tools, as they write them with ``_`` for ``-``, and what does the same here."""
BACKENDS = ("hf", "hf-auto", "huggingface", "vllm", "sglang", "local-completions", "openai")
"""What lm-eval takes for ``--model``."""
VERBS: Mapping[str, str] = {
    "view": "kdbench show RUN --sample N, and the page of kdbench leaderboard RUNS --out DIR",
    "evaluate": "kdbench eval",
    "generate": "kdbench eval, which keeps every answer",
    "list": "kdbench ls",
    "status": "kdbench ls runs, or kdbench watch RUN",
    "logs": "kdbench watch RUN, and run.log in the run's folder",
    "sweep": "kdbench ablate STUDY.yaml, or kdbench tune --methods a,b",
    "plot": "kdbench report RUN",
    "lm_eval": "kdbench eval --tasks NAME, which knows the tasks of lm-eval",
}
"""Verbs of other tools."""
GLOBAL = ("--debug", "--version", "--help", "-h")


def expanded(argv: Sequence[str]) -> list[str]:
    """A command line in which short names are written out."""
    verb = verb_of(argv)
    settings, options = SETTINGS.get(verb, {}), OPTIONS.get(verb, {})
    words: list[str] = []
    rest = iter(argv)
    for word in rest:
        name, sign, value = word.partition("=")
        if name in settings:
            given = value if sign else next(rest, None)
            if given is None or given.startswith("--"):
                raise InputError(f"{name} needs a value, as in {name} 3")
            words += ["--set", f"{settings[name]}={given}"]
        elif name in options:
            words.append(f"{options[name]}{sign}{value}")
        else:
            words.append(word)
    return words


def verb_of(argv: Sequence[str]) -> str:
    """The verb of a command line; empty where it names none."""
    return next((word for word in argv if not word.startswith("-")), "")


def answer(argv: Sequence[str], own: Mapping[str, Collection[str]]) -> None:
    """Refuses names of other tools with what does the same here.

    Args:
        argv: written out by `expanded`.
        own: options by verb.

    Raises:
        InputError: one sentence.
    """
    verb = verb_of(argv)
    if verb in VERBS and verb not in own:
        raise InputError(f"{verb} is another tool's word; here it is {VERBS[verb]}")
    known = own.get(verb)
    if known is None:
        return
    given = dict(_options(argv))
    if verb == "eval" and (given.get("--model") or "") in BACKENDS:
        raise InputError(f"--model is the model itself here: {_model(given)}")
    for option in given:
        if option in known or option in GLOBAL:
            continue
        plain = option.lstrip("-").replace("-", "_")
        dashed = f"--{plain.replace('_', '-')}"
        if plain == "model_args":
            raise InputError(f"{option} is another tool's; here {_model(given)}")
        if dashed != option and dashed in {*known, *_short(verb)}:
            raise InputError(f"{option} is written {dashed} here")
        if plain in OTHERS:
            raise InputError(f"{option} is another tool's; here it is {OTHERS[plain]}")
        if option in TRAINED and verb == "eval":
            raise InputError(f"{option} belongs to a training: kdbench run {option} VALUE")


def _model(given: Mapping[str, str | None]) -> str:
    """How the model of ``--model hf --model_args pretrained=X`` is given."""
    said = given.get("--model_args") or given.get("--model-args") or ""
    named = [part.removeprefix("pretrained=") for part in said.split(",") if "pretrained=" in part]
    return f"kdbench eval --model {named[0]}" if named else EVALUATED


def _options(argv: Iterable[str]) -> Iterator[tuple[str, str | None]]:
    """Long options with the word after ``=`` or behind them."""
    words = list(argv)
    for place, word in enumerate(words):
        if word == "--":
            return
        if word.startswith("--"):
            name, sign, value = word.partition("=")
            behind = words[place + 1] if place + 1 < len(words) else None
            yield name, value if sign else behind


def _short(verb: str) -> list[str]:
    return [*SETTINGS.get(verb, {}), *OPTIONS.get(verb, {})]


def explained(verb: str) -> list[tuple[str, str]]:
    """The short names of a verb and what they stand for, for its help."""
    rows = [(f"{name} VALUE", f"--set {key}=VALUE") for name, key in SETTINGS.get(verb, {}).items()]
    return rows + [(f"{name} VALUE", f"{key} VALUE") for name, key in OPTIONS.get(verb, {}).items()]
