"""What suite ``own`` chooses for a pair and its data, and why: one pure function of measured facts.

The rules are few and plain, made to be a sound start, not the best: a search is ``kdbench tune``'s.
No setting of the generated world is among them.

* **Rate.** 1e-4 for 135M parameters and 16 rows a step, falling with the square root of the size (135M:
  1e-4, 1.5B: 3e-5, 7B: 1.4e-5; the range in which full fine-tuning of such models is published) and rising
  with that of the batch (Malladi et al. 2022, arXiv:2205.10287, for Adam). A student with layers cut
  out has to heal: twice that. Methods that train on the student's samples get half of it, policy
  gradients a tenth (the ratios of suites smollm2 and mini).
* **Batch.** About 64 steps a pass: rows / 64 as a power of two, from 8 to 64.
* **Lengths.** What all but 1% of the data's prompts and answers need, and of the test rows' prompts where
  there are some, in steps of 32 tokens, within the context of both models. A single long row sets none.
* **Budget.** 3 passes over up to 20,000 rows, 2 up to 100,000, then 1, said in trained response tokens, so
  that all methods have the same. All start from one short fine-tuning, a pass over at most 20,000 rows.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

OWN = "own"
"""What the suite is called."""
BASE_RATE, BASE_SIZE, BASE_BATCH = 1e-4, 135e6, 16
RATES = (5e-6, 2e-3)
"""No rate leaves this range."""
HEALING = 2.0
"""Factor of a student that lost layers; a random one has the largest rate that its size allows anyway."""
SAMPLED = ("gkd", "imitkd", "opd", "distillm", "distillm2", "dpkd", "plad")
"""Methods that train on answers of the student: half the rate."""
POLICY = ("minillm", "minillm-code")
"""Policy gradients: a tenth, and constant."""
STEP = 32
"""Lengths are multiples of so many tokens."""
ANSWER_CAP = 1024
PASSES = ((20_000, 3), (100_000, 2), (math.inf, 1))
"""Rows up to which so many passes are made."""
ENDLESS = 1e15
"""Steps, passes and tokens that no training has."""
DEV_ROWS = 64
EVALUATIONS = 4
"""Looks at the development rows in a training."""
SHARE = "all but 1% of the data's {} have at most {:,} tokens"


class Lengths(NamedTuple):
    """Tokens of prompts, or of answers with what ends them."""

    mean: float
    most: int
    """Of all but the longest hundredth."""
    longest: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known of a pair and its data before anything is trained.

    Attributes:
        teacher: parameters; ``student`` likewise.
        student_is: whole (trained by somebody), pruned, or random.
        context: tokens that both models can read; None: neither says.
        chat: whether the student's tokenizer has a chat template.
        turns: whether rows say more than one question, so that only a chat template can write them.
        one_tokenizer: whether the two share it.
        rows: of training.
        prompts: their lengths in the student's tokens, what most have those of test rows too; ``answers`` of
            training alone.
        device: cpu or cuda.
    """

    teacher: int
    student: int
    student_is: Literal["whole", "pruned", "random"]
    context: int | None
    chat: bool
    turns: bool
    one_tokenizer: bool
    rows: int
    prompts: Lengths
    answers: Lengths
    device: str


class Choice(NamedTuple):
    """One setting, and why it is what it is."""

    key: str
    value: Any
    why: str


def template_of(*, chat: bool, turns: bool) -> str:
    """The prompt template: the student's own chat template if it has one."""
    return "chat" if chat or turns else "alpaca"


def own_settings(
    facts: Facts, tokens: int | None = None, asked: Mapping[str, Any] | None = None
) -> list[Choice]:
    """Every setting that suite ``own`` chooses.

    Args:
        facts: of the pair and its data.
        tokens: trained response tokens of every method; None: by the number of rows.
        asked: the layer of ``--set`` and flags: warm-up and looks are for as many steps as it leaves.
    """
    batch = batch_of(facts.rows)
    rate = rate_of(facts, batch)
    passes = tokens / (facts.rows * facts.answers.mean) if tokens else passes_of(facts.rows)
    budget = tokens or max(1, round(passes * facts.rows * facts.answers.mean))
    asked = asked or {}
    steps = max(1, math.ceil(_steps(facts, asked.get("train"), passes, batch)))
    chat = "the student's tokenizer has one" if facts.chat else "no chat template in the student"
    healing = {"pruned": ", twice for a student with layers cut out"}.get(facts.student_is, "")
    first = min(1.0, PASSES[0][0] / facts.rows)
    init_steps = _steps(facts, asked.get("init_sft"), first, batch)
    said = "as asked" if tokens else f"{passes:g} passes over {facts.rows:,} rows"
    return [
        Choice("pair.template", template_of(chat=facts.chat, turns=facts.turns), chat),
        *_lengths(facts),
        Choice(
            "train.batch_size",
            batch,
            f"{facts.rows / batch:,.0f} steps a pass over {facts.rows:,} rows",
        ),
        Choice("train.lr", rate, f"{size(facts.student)} parameters, {batch} rows a step{healing}"),
        Choice("train.response_tokens", budget, f"{said}; the same for all methods"),
        Choice("train.warmup", round(0.03 * steps), f"3% of about {steps:,} steps"),
        Choice(
            "train.eval_every", max(1, steps // EVALUATIONS), f"{EVALUATIONS} looks at dev rows"
        ),
        Choice("init_sft.epochs", first, "one pass: where all methods start"),
        Choice("init_sft.lr", rate, "as the methods"),
        Choice("init_sft.warmup", round(0.03 * init_steps), "3% of its steps"),
        Choice("data.dev_limit", DEV_ROWS, "they choose the step that becomes the student"),
        Choice("generate.batch_size", 64 if facts.device == "cuda" else 16, f"on {facts.device}"),
        Choice("train.save_every", 50 if facts.device == "cuda" else 10, "what a kill can cost"),
    ]


def _steps(facts: Facts, asked: Any, passes: float, batch: int) -> float:
    """Steps of a training of so many passes, if its section asks for nothing else."""
    given = {
        name: float(value)
        for name, value in (asked if isinstance(asked, Mapping) else {}).items()
        if isinstance(value, int | float) and 0 < value < ENDLESS  # others are refused later
    }
    rows_a_step = given.get("batch_size", batch)
    a_pass = facts.rows / rows_a_step
    ends = {
        "steps": 1.0,
        "epochs": a_pass,
        "response_tokens": a_pass / (facts.rows * facts.answers.mean),
    }
    said = [given[name] * steps for name, steps in ends.items() if name in given]
    return min(said, default=passes * facts.rows / rows_a_step)


def _lengths(facts: Facts) -> list[Choice]:
    """``max_prompt``, ``max_length`` and what answers may have, within the context."""
    context = facts.context or 1 << 20
    answer = min(_up(facts.answers.most), ANSWER_CAP, max(STEP, context // 2 // STEP * STEP))
    prompt = min(_up(facts.prompts.most), context - answer)
    asked, answered = SHARE.format("prompts", facts.prompts.most), facts.answers.most
    why = f"and {SHARE.format('answers', answered)}"
    if answer < _up(answered):
        why += f"; longer ones are cut at {answer:,}"
    if prompt < _up(facts.prompts.most):
        asked += f"; the models read {context:,}, {answer:,} of them are for answers"
    return [
        Choice("train.max_prompt", prompt, asked),
        Choice("train.max_length", prompt + answer, why),
        Choice("generate.max_new_tokens", answer, "as in training"),
    ]


def batch_of(rows: int) -> int:
    """Rows of an optimiser step: a power of two from 8 to 64."""
    return int(min(64, max(8, 2 ** math.floor(math.log2(max(1, rows / 64))))))


def rate_of(facts: Facts, batch: int) -> float:
    """Peak rate of methods that train on given answers, two digits."""
    rate = BASE_RATE * math.sqrt(BASE_SIZE / max(1, facts.student)) * math.sqrt(batch / BASE_BATCH)
    rate *= HEALING if facts.student_is == "pruned" else 1.0
    return two_digits(min(max(rate, RATES[0]), RATES[1]))


def passes_of(rows: int) -> int:
    """Passes over so many rows."""
    return next(passes for most, passes in PASSES if rows <= most)


def method_settings(rate: float) -> dict[str, dict[str, Any]]:
    """What methods have of their own: ``methods`` of a suite, for a rate of the others."""
    made: dict[str, dict[str, Any]] = {
        name: {"train": {"lr": two_digits(rate / 2)}} for name in SAMPLED
    }
    made |= {
        name: {"train": {"lr": two_digits(rate / 10), "schedule": "constant"}} for name in POLICY
    }
    # the plain equation stays at the init (see its card): anchored at the chosen, greedy answers
    made["dpkd"]["method"] = {"lm_coef": 0, "ce_coef": 1, "chosen": "greedy"}
    # the mode of the teacher's answers, as Kim & Rush 2016 (section 3.2) take it
    made["seqkd"] = {"method": {"answers": "greedy"}}
    return made


def own_tree(choices: list[Choice]) -> dict[str, Any]:
    """The choices as what a suite says, sections nested, with the methods' own."""
    tree: dict[str, Any] = {}
    for key, value, _ in choices:
        section, _, name = key.partition(".")
        tree.setdefault(section, {})[name] = value
    return tree | {"methods": method_settings(tree["train"]["lr"])}


def auto_methods(facts: Facts, cost: Mapping[str, float], most: float) -> list[tuple[str, str]]:
    """The methods that ``--methods auto`` trains, each with the reason.

    SFT, to be better than. With one tokenizer SeqKD, for which the teacher writes an answer to each prompt,
    then forward and reverse KL on the data's answers, then GKD and DistiLLM, which sample the student; what
    writes only where that costs at most ``most`` times SFT. With two tokenizers what can compare them: ULD
    and dual-space KD.

    Args:
        facts: of the pair.
        cost: of a method's training relative to SFT's, by name.
        most: how many times SFT's cost is affordable.
    """
    chosen = [("sft", "the baseline: no teacher")]
    if not facts.one_tokenizer:
        why = "for a teacher with a tokenizer of its own"
        return [*chosen, ("uld", why), ("dskd", why)]
    if (times := cost.get("seqkd", math.inf)) <= most:
        chosen.append(
            ("seqkd", f"the teacher's greedy answers, about {times:.1f} times SFT's cost")
        )
    chosen += [("fkd", "word by word, forward KL"), ("rkd", "word by word, reverse KL")]
    for name in ("gkd", "distillm"):
        if cost.get(name, math.inf) <= most:
            chosen.append((name, f"samples the student, about {cost[name]:.0f} times SFT's cost"))
    return chosen


def size(parameters: float) -> str:
    """A number of parameters as people say it: 135M, 1.5B."""
    for unit, name in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if parameters >= unit:
            return f"{parameters / unit:.3g}{name}"
    return f"{parameters:.0f}"


def two_digits(number: float) -> float:
    """Rounded to two significant digits."""
    return float(f"{number:.2g}")


def _up(tokens: int) -> int:
    return max(STEP, math.ceil(tokens / STEP) * STEP)
