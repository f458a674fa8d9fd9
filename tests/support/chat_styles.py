"""How families of models write a chat, as small templates of our own, and tokenizers to try them with."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

WORDS = "Name a plant that grows in salt water . Eelgrass does , so do mangroves and glasswort"


class Style(NamedTuple):
    """A template and what is true of it.

    Attributes:
        source: the template.
        marks: its tokens, beside ``begin`` and ``stop``, the tokenizer's own begin and end tokens.
        end: what ends an answer; empty: nothing of its own.
        before: written between the open prompt and an answer.
        prefix: whether an open prompt begins the whole.
        arguments: given to it.
        begin, stop: as the tokenizer has them.
    """

    source: str
    marks: Sequence[str]
    end: str
    before: str = ""
    prefix: bool = True
    arguments: Mapping[str, Any] = {}
    begin: str = "<s>"
    stop: str = "</s>"

    def tokenizer(self, **names: Any) -> PreTrainedTokenizerFast:
        """A tokenizer with this template and its tokens."""
        marks = [self.begin, self.stop, *self.marks]
        made = tokenizer(marks, bos_token=self.begin, eos_token=self.stop, **names)
        made.chat_template = self.source
        return made


def tokenizer(
    marks: Sequence[str] = ("<s>", "</s>"),
    *,
    size: int = 320,
    texts: Sequence[str] = (WORDS,),
    adds: str = "",
    normalizer: Any = None,
    **names: Any,
) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer; ``adds``: a mark that it puts before texts of its own accord."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(dict.fromkeys(marks)),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    if normalizer is not None:
        core.normalizer = normalizer
    if adds:
        core.post_processor = TemplateProcessing(
            single=f"{adds} $A", special_tokens=[(adds, core.token_to_id(adds))]
        )
    names = {"bos_token": "<s>", "eos_token": "</s>", **names}
    return PreTrainedTokenizerFast(tokenizer_object=core, **names)


def _turns(each: str, opened: str, first: str = "") -> str:
    loop = "{% for m in messages %}" + each + "{% endfor %}"
    return first + loop + "{% if add_generation_prompt %}" + opened + "{% endif %}"


_CHATML = _turns(
    "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}",
    "{{ '<|im_start|>assistant\n' }}",
)
_ROLE = "{{ ('<|' ~ m.role ~ '|>\n') ~ m.content ~ eos_token ~ '\n' }}"
_THINKS = _turns(
    "{% set head = '<|im_start|>' ~ m.role ~ '\n' %}"
    "{% if m.role == 'assistant' and loop.last %}{% set head = head ~ '<think>\n\n</think>\n\n' %}"
    "{% endif %}{{ head ~ m.content ~ '<|im_end|>\n' }}",
    "{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{% endif %}",
)
_INST = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}"
    "{{ '[INST] ' ~ m.content ~ ' [/INST]' }}{% else %}{{ ' ' ~ m.content | trim ~ ' ' ~ eos_token }}"
    "{% endif %}{% endfor %}"
)
_HEADERS = _turns(
    "{{ '<|head|>' ~ m.role ~ '<|body|>\n\n' ~ (m.content | trim) ~ '<|eot_id|>' }}",
    "{{ '<|head|>assistant<|body|>\n\n' }}",
    "{{ bos_token }}{{ '<|head|>system<|body|>\n\nToday Date: ' ~ strftime_now('%d %b %Y') ~ '<|eot_id|>' }}",
)
_THINK_MARKS = ("<|im_start|>", "<|im_end|>", "<think>", "</think>")

STYLES: dict[str, Style] = {
    "chatml": Style(_CHATML, ("<|im_start|>", "<|im_end|>"), "<|im_end|>"),
    "chatml, its end token": Style(
        _CHATML, ("<|im_start|>",), "<|im_end|>", stop="<|im_end|>", begin="<|endoftext|>"
    ),
    "chatml, words instead of tokens": Style(_CHATML, (), ""),
    "llama 2": Style(_INST, (), "</s>", before=" "),
    "llama 3, with the date": Style(_HEADERS, ("<|head|>", "<|body|>", "<|eot_id|>"), "<|eot_id|>"),
    "llama 3.1, date_string": Style(
        _HEADERS.replace("strftime_now('%d %b %Y')", "date_string"),
        ("<|head|>", "<|body|>", "<|eot_id|>"),
        "<|eot_id|>",
    ),
    "gemma": Style(
        _turns(
            "{{ '<start_of_turn>' ~ ('model' if m.role == 'assistant' else m.role) ~ '\n' }}"
            "{{ m.content | trim ~ '<end_of_turn>\n' }}",
            "{{ '<start_of_turn>model\n' }}",
            "{{ bos_token }}",
        ),
        ("<start_of_turn>", "<end_of_turn>"),
        "<end_of_turn>",
        begin="<bos>",
        stop="<eos>",
    ),
    "mistral": Style(
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}"
        "{{ '[INST]' ~ m.content ~ '[/INST]' }}{% else %}{{ m.content ~ eos_token }}{% endif %}{% endfor %}",
        ("[INST]", "[/INST]"),
        "</s>",
    ),
    "phi 3": Style(
        _turns("{{ '<|' ~ m.role ~ '|>\n' ~ m.content ~ '<|end|>\n' }}", "{{ '<|assistant|>\n' }}"),
        ("<|user|>", "<|assistant|>", "<|end|>"),
        "<|end|>",
        stop="<|endoftext|>",
    ),
    "qwen 3": Style(_THINKS, _THINK_MARKS, "<|im_end|>", before="<think>\n\n</think>\n\n"),
    "qwen 3, not thinking": Style(
        _THINKS, _THINK_MARKS, "<|im_end|>", arguments={"enable_thinking": False}
    ),
    "qwen 3, told to think": Style(
        _THINKS,
        _THINK_MARKS,
        "<|im_end|>",
        before="<think>\n\n</think>\n\n",
        arguments={"enable_thinking": True},
    ),
    "deepseek": Style(
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '<User>' ~ m.content }}{% else %}"
        "{{ '<Bot>' ~ m.content.split('</think>')[-1] ~ eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<Bot><think>\n' }}{% endif %}",
        ("<User>", "<Bot>", "<think>"),
        "<end>",
        before="",
        prefix=False,
        begin="<begin>",
        stop="<end>",
    ),
    "zephyr": Style(_turns(_ROLE, "{{ '<|assistant|>\n' }}"), (), "</s>"),
    "vicuna": Style(
        "{{ 'A chat. ' }}{% for m in messages %}{% if m.role == 'user' %}{{ 'USER: ' ~ m.content ~ ' ' }}"
        "{% else %}{{ 'ASSISTANT: ' ~ m.content ~ eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}",
        (),
        "</s>",
        before=" ",
    ),
    "alpaca": Style(
        "{% for m in messages %}{% if m.role == 'user' %}{{ '### Instruction:\n' ~ m.content ~ '\n\n' }}"
        "{% else %}{{ '### Response:\n' ~ m.content ~ '\n\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '### Response:\n' }}{% endif %}",
        (),
        "",
    ),
    "granite, roles as tokens": Style(
        _turns(
            "{{ '<|role|>' ~ m.role ~ '<|/role|>' ~ m.content ~ '<|text_end|>\n' }}",
            "{{ '<|role|>assistant<|/role|>' }}",
        ),
        ("<|role|>", "<|/role|>", "<|text_end|>"),
        "<|text_end|>",
    ),
    "command, begin token and two marks": Style(
        _turns(
            "{{ '<|TURN|>' ~ '<|' ~ m.role ~ '|>' ~ m.content ~ '<|/TURN|>' }}",
            "{{ '<|TURN|><|assistant|>' }}",
            "{{ bos_token }}",
        ),
        ("<|TURN|>", "<|/TURN|>", "<|user|>", "<|assistant|>"),
        "<|/TURN|>",
        begin="<BOS>",
        stop="<EOS>",
    ),
}
