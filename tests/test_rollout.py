"""The sampler: right tokens for every family, the same at every batch size, and honest limits."""

import copy
import gc
import weakref
from collections.abc import Sequence

import architectures
import pytest
import tiny
import torch
from scipy import stats
from transformers import (
    LogitsProcessorList,
    NoRepeatNGramLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from kdbench.harness.errors import InputError
from kdbench.trainers import cpu
from kdbench.trainers.sampler import llama as llama_decoder
from kdbench.trainers.sampler import sampler as rollout
from kdbench.trainers.sampler.alone import AloneDecoder
from kdbench.trainers.sampler.as_asked import cast_copy
from kdbench.trainers.sampler.choice import decoder_for
from kdbench.trainers.sampler.decoders import ForwardDecoder, KeyValues, prompt_groups
from kdbench.trainers.sampler.draw import (
    NgramBlock,
    filtered,
    gumbel,
    hash31,
    mixed,
    position_keys,
    stream_key,
    token_table,
)
from kdbench.trainers.sampler.llama import LlamaDecoder, is_plain_llama
from kdbench.trainers.sampler.sampler import generate
from kdbench.trainers.types import Answer, Decoding, Prompt

CPU = torch.device("cpu")
VOCAB = tiny.VOCAB
SMALL_P = 1e-3
LENGTHS = (1, 2, 5, 9, 30)


def prompts(count: int = 24, *, seed: int = 0) -> list[Prompt]:
    generator = torch.Generator().manual_seed(seed)
    return [
        Prompt(
            tuple(
                torch.randint(2, VOCAB, (LENGTHS[i % len(LENGTHS)],), generator=generator).tolist()
            ),
            key=1000 + i,
        )
        for i in range(count)
    ]


def answers(model, asked: Sequence[Prompt], decoding: Decoding, **options) -> list[Answer]:
    settings = {"eos_ids": frozenset({tiny.EOS}), "pad_id": 0, "vocab": VOCAB} | options
    return [a for chunk in generate(model, asked, decoding, **settings) for a in chunk]


def naive(model, prompt: Prompt, decoding: Decoding, vocab: int = VOCAB) -> Answer:
    """One full forward pass a token, on the prompt alone, with our noise."""
    model = cast_copy(model, torch.float64).eval()
    table = token_table(vocab, CPU)
    stream = stream_key(decoding.seed, prompt.key, prompt.sample)
    keys = position_keys([stream], decoding.max_new_tokens, CPU)[0]
    ids: list[int] = []
    for key_2 in keys:
        with torch.no_grad():
            whole = torch.tensor([[*prompt.ids, *ids]])
            scores = model(input_ids=whole, use_cache=False).logits[:, -1, :vocab]
        block = NgramBlock(decoding.no_repeat_ngram, [*prompt.ids, *ids])
        scores = filtered(scores, decoding, [block] if decoding.no_repeat_ngram else [])
        noise = gumbel(hash31(key_2[None], table), torch.float64)
        ids.append(int((scores + noise).argmax()))
        if ids[-1] == tiny.EOS:
            return Answer(tuple(ids), True)
    return Answer(tuple(ids), False)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_equals_a_full_forward_pass_a_token(family):
    model = tiny.model(family)
    asked = prompts(10)
    decoding = Decoding(max_new_tokens=16, seed=4, temperature=1.3, no_repeat_ngram=3)
    ours = answers(model, asked, decoding, batch_size=4, dtype=torch.float64)
    assert ours == [naive(model, prompt, decoding) for prompt in asked]
    assert any(a.finished for a in ours) or family == "opt"


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_same_at_every_batch_size(family):
    model = tiny.model(family)
    asked = prompts(70 if family == "llama" else 20)
    decoding = Decoding(max_new_tokens=12, seed=7, temperature=1.5)
    options = {"chunk": 64, "dtype": torch.float64}
    alone = answers(model, asked, decoding, batch_size=1, **options)
    for batch_size in (7, 64):
        assert answers(model, asked, decoding, batch_size=batch_size, **options) == alone
    assert len({a.ids for a in alone}) > 0.8 * len(asked)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_same_however_many_prompts_are_read_ahead(family, monkeypatch):
    model, teacher = tiny.model(family), tiny.model("opt", seed=3)
    asked = prompts(40)
    decoding = Decoding(max_new_tokens=12, seed=7, temperature=1.5)
    options = {"dtype": torch.float64, "batch_size": 7, "mix": (teacher, 0.3)}
    usual = answers(model, asked, decoding, **options)
    assert usual == answers(model, asked, decoding, **(options | {"batch_size": 40}))
    for ahead in (1, 3):
        monkeypatch.setattr(rollout, "_READ_AHEAD", ahead)
        assert answers(model, asked, decoding, **options) == usual


def test_same_in_any_order_and_chunking():
    model = tiny.model("llama")
    asked = prompts(30)
    decoding = Decoding(max_new_tokens=12, seed=1)
    straight = answers(model, asked, decoding, dtype=torch.float64, chunk=30)
    for chunk in (1, 8):
        assert answers(model, asked, decoding, dtype=torch.float64, chunk=chunk) == straight
    backwards = answers(model, asked[::-1], decoding, dtype=torch.float64, chunk=7)
    assert backwards[::-1] == straight


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_rows_that_end_early_change_nothing_for_the_others(family):
    """With every token allowed to go on, an answer begins with the one that stopped earlier."""
    model = tiny.model(family)
    asked = prompts(40)
    decoding = Decoding(max_new_tokens=20, seed=2, temperature=2.0)
    stops = frozenset(range(1, 9))
    short = answers(model, asked, decoding, eos_ids=stops, batch_size=8, dtype=torch.float64)
    long = answers(model, asked, decoding, eos_ids=frozenset(), batch_size=8, dtype=torch.float64)
    assert sum(a.finished for a in short) > 20
    for cut, whole in zip(short, long, strict=True):
        assert whole.ids[: len(cut.ids)] == cut.ids
        assert cut.finished == (cut.ids[-1] in stops)
        assert not stops & set(cut.ids[:-1])


def test_a_chunk_is_yielded_whole_and_can_be_resumed():
    model = tiny.model("llama")
    asked = prompts(20)
    decoding = Decoding(max_new_tokens=8)
    options = {"eos_ids": frozenset({tiny.EOS}), "pad_id": 0, "vocab": VOCAB, "chunk": 8}
    chunks = list(generate(model, asked, decoding, batch_size=3, **options))
    assert [len(chunk) for chunk in chunks] == [8, 8, 4]
    assert list(generate(model, asked[8:], decoding, batch_size=3, **options)) == chunks[1:]


def test_seed_key_and_sample_choose_the_answer():
    model = tiny.model("llama")
    one = Prompt((5, 6, 7), key=1)
    decoding = Decoding(max_new_tokens=12, temperature=2.0)
    variants = [one, Prompt(one.ids, key=2), Prompt(one.ids, key=1, sample=1), one]
    first, other_key, other_sample, again = answers(model, variants, decoding)
    assert first == again
    (other_seed,) = answers(model, [one], Decoding(max_new_tokens=12, temperature=2.0, seed=1))
    assert len({first, other_key, other_sample, other_seed}) == 4


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("ngram", [0, 2])
def test_greedy_equals_transformers(family, ngram):
    model = tiny.model(family)
    asked = prompts(5)
    ours = answers(
        model, asked, Decoding(max_new_tokens=14, temperature=0.0, no_repeat_ngram=ngram)
    )
    for prompt, answer in zip(asked, ours, strict=True):
        ids = torch.tensor([prompt.ids])
        theirs = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=14,
            do_sample=False,
            no_repeat_ngram_size=ngram,
            pad_token_id=0,
            eos_token_id=tiny.EOS,
        )
        assert tuple(theirs[0, len(prompt.ids) :].tolist()) == answer.ids


def logits_of(decoder, asked: Sequence[Prompt], steps: int) -> torch.Tensor:
    decoder.reset(len(asked), 64)
    decoder.fill(list(range(len(asked))), [prompt.ids[:-1] for prompt in asked])
    tokens = torch.tensor([prompt.ids[-1] for prompt in asked])
    rows = []
    for step in range(steps):
        rows.append(decoder.step(tokens)[:, :VOCAB])
        tokens = (tokens * 7 + step) % VOCAB
    return torch.stack(rows)


@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.parametrize("width", [32, 256])  # the wider one's weights are laid out for oneDNN
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@torch.no_grad()
def test_cheap_path_equals_the_models_own_forward(family, width, dtype):
    torch.manual_seed(1)
    model = tiny.model(family, width=width, tied=False)
    for name, parameter in model.named_parameters():
        if name.endswith(("bias", "norm.weight")):
            parameter.add_(torch.randn_like(parameter) * 0.3)
    if width == 256:
        for parameter in model.parameters():
            parameter.mul_(0.3)
    asked = prompts(9)
    assert is_plain_llama(model)
    fast = logits_of(decoder_for(model, dtype=dtype, vocab=VOCAB, pad_id=0, longest=64), asked, 6)
    slow = logits_of(ForwardDecoder(model, dtype, 0), asked, 6)
    assert fast.dtype == dtype
    # transformers computes norms in float32 even in a float64 model
    tolerance = {torch.float32: 1e-4, torch.float64: 1e-5, torch.bfloat16: 0.08}[dtype]
    assert (fast - slow).abs().max() < tolerance * slow.abs().max()


@pytest.mark.parametrize("family", ["llama", "qwen2"])
@torch.no_grad()
def test_prompts_read_in_float32_equal_the_models_own_forward(family, monkeypatch):
    monkeypatch.setattr(cpu, "slow_in_half", lambda dtype: True)
    monkeypatch.setattr(llama_decoder, "_WIDEN_FROM", 1)
    torch.manual_seed(1)
    model = tiny.model(family, width=256, tied=False)
    for name, parameter in model.named_parameters():
        parameter.copy_(torch.randn_like(parameter) * 0.3 if name.endswith("bias") else parameter)
        parameter.mul_(0.3)
    asked = prompts(9)
    fast = logits_of(
        decoder_for(model, dtype=torch.bfloat16, vocab=VOCAB, pad_id=0, longest=64), asked, 6
    )
    exact = logits_of(ForwardDecoder(model, torch.float64, 0), asked, 6)
    own = logits_of(ForwardDecoder(model, torch.bfloat16, 0), asked, 6)
    assert (fast - own).abs().max() < 0.08 * own.abs().max()
    assert (fast - exact).abs().max() < 1.1 * (own - exact).abs().max()


@torch.no_grad()
def test_cheap_path_knows_scaled_rotary_embeddings():
    config = tiny.config("llama")
    config.rope_parameters = {
        "rope_type": "llama3",
        "rope_theta": 1000.0,
        "factor": 4.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    }
    torch.manual_seed(0)
    model = type(tiny.model("llama"))(config).eval()
    asked = prompts(5)
    fast = logits_of(LlamaDecoder(model, torch.float32, 0, VOCAB, 64), asked, 4)
    assert torch.allclose(
        fast, logits_of(ForwardDecoder(model, torch.float32, 0), asked, 4), atol=1e-5
    )


def test_anything_but_a_plain_llama_takes_the_general_path():
    model = tiny.model("llama")
    assert not is_plain_llama(tiny.model("gpt2"))

    class Adapter(torch.nn.Linear):
        pass

    model.model.layers[0].self_attn.q_proj = Adapter(32, 32, bias=False)
    assert not is_plain_llama(model)
    decoder = decoder_for(model, dtype=None, vocab=VOCAB, pad_id=0, longest=40)
    assert isinstance(decoder, ForwardDecoder)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_general_path_with_either_attention(attention):
    model = tiny.model("gpt2")
    model.set_attn_implementation(attention)
    decoding = Decoding(max_new_tokens=10, seed=4)
    asked = prompts(6)
    ours = answers(model, asked, decoding, batch_size=3, dtype=torch.float64)
    assert ours == [naive(model, prompt, decoding) for prompt in asked]


def test_filters_equal_transformers():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(6, 50, generator=generator, dtype=torch.float64) * 3
    scores[2, 10:14] = 4.0  # ties at the border
    ids = torch.randint(0, 4, (6, 30), generator=generator)
    for temperature, k, p, ngram in [
        (0.7, 0, 1.0, 0),
        (1.0, 5, 1.0, 0),
        (1.0, 0, 0.6, 0),
        (1.7, 8, 0.9, 3),
        (1.0, 1, 0.1, 2),
        (1.0, 99, 0.999, 1),
    ]:
        theirs = LogitsProcessorList()
        if ngram:
            theirs.append(NoRepeatNGramLogitsProcessor(ngram))
        theirs.append(TemperatureLogitsWarper(temperature))
        if k:
            theirs.append(TopKLogitsWarper(k))
        if p < 1:
            theirs.append(TopPLogitsWarper(p))
        blocks = [NgramBlock(ngram, row) for row in ids.tolist()] if ngram else []
        decoding = Decoding(
            max_new_tokens=1, temperature=temperature, top_k=k, top_p=p, no_repeat_ngram=ngram
        )
        assert torch.equal(filtered(scores, decoding, blocks), theirs(ids, scores.clone()))


@pytest.mark.parametrize("n", [1, 2, 6])
def test_ngram_block_equals_transformers_on_growing_sequences(n):
    generator = torch.Generator().manual_seed(n)
    sequence = torch.randint(0, 3, (40,), generator=generator)
    block, processor = NgramBlock(n, []), NoRepeatNGramLogitsProcessor(n)
    for length in range(1, 40):
        block.append(int(sequence[length - 1]))
        theirs = processor(sequence[None, :length], torch.zeros(1, 3))
        assert set(block.banned()) == set(theirs.isinf().nonzero()[:, 1].tolist())


def uniform_model():
    """All logits are zero."""
    model = tiny.model("gpt2", tied=False)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    return model


def fixed_model(log_probabilities: torch.Tensor):
    """A model that predicts the same distribution always: the head reads a constant feature."""
    model = uniform_model()
    with torch.no_grad():
        model.transformer.ln_f.bias[0] = 1.0
        model.lm_head.weight[: len(log_probabilities), 0] = log_probabilities
    return model


def test_uniform_logits_give_uniform_tokens():
    count, length = 256, 40
    asked = [Prompt((3, 4), key=key) for key in range(count)]
    sampled = answers(
        uniform_model(), asked, Decoding(max_new_tokens=length), eos_ids=frozenset(), batch_size=64
    )
    ids = torch.tensor([a.ids for a in sampled])
    assert ids.shape == (count, length)
    assert stats.chisquare(torch.bincount(ids.flatten(), minlength=VOCAB)).pvalue > SMALL_P
    pairs = (ids[:, :-1] % 8 * 8 + ids[:, 1:] % 8)[ids[:, :-1].lt(64) & ids[:, 1:].lt(64)]
    assert stats.chisquare(torch.bincount(pairs, minlength=64)).pvalue > SMALL_P


@pytest.mark.parametrize("alpha", [0.2, 0.7])
def test_teacher_mixed_frequencies(alpha):
    generator = torch.Generator().manual_seed(3)
    q = 0.05 + torch.rand(VOCAB, generator=generator).pow(3)
    p = 0.05 + torch.rand(VOCAB, generator=generator).pow(3)
    q, p = q / q.sum(), p / p.sum()
    n, length = 200, 60
    sampled = answers(
        fixed_model(q.log()),
        [Prompt((3,), key=key) for key in range(n)],
        Decoding(max_new_tokens=length, seed=5),
        eos_ids=frozenset(),
        mix=(fixed_model(p.log()), alpha),
        batch_size=64,
        chunk=128,
    )
    counts = torch.bincount(torch.tensor([a.ids for a in sampled]).flatten(), minlength=VOCAB)
    share = ((1 - alpha) * q + alpha * p).double()
    assert stats.chisquare(counts, share / share.sum() * counts.sum()).pvalue > SMALL_P


def test_mixing_nothing_is_plain_sampling_and_mixing_all_is_the_teacher():
    student, teacher = tiny.model("llama", seed=1), tiny.model("gpt2", seed=2)
    asked = prompts(12)
    decoding = Decoding(max_new_tokens=10, seed=3, temperature=1.4, top_k=20)
    plain = answers(student, asked, decoding, dtype=torch.float64)
    assert answers(student, asked, decoding, mix=(teacher, 0.0), dtype=torch.float64) == plain
    taught = answers(teacher, asked, decoding, dtype=torch.float64)
    assert answers(student, asked, decoding, mix=(teacher, 1.0), dtype=torch.float64) == taught
    assert plain != taught


def test_mixing_equals_two_full_forward_passes_a_token():
    student, teacher = tiny.model("qwen2", seed=1), tiny.model("opt", seed=2)
    decoding = Decoding(max_new_tokens=12, seed=3, temperature=1.4, top_p=0.9)
    asked = prompts(9)
    ours = answers(student, asked, decoding, mix=(teacher, 0.4), dtype=torch.float64, batch_size=4)
    both = [cast_copy(model, torch.float64).eval() for model in (student, teacher)]
    for prompt, answer in zip(asked, ours, strict=True):
        keys = position_keys([stream_key(3, prompt.key, 0)], 12, CPU)[0]
        for place, token in enumerate(answer.ids):
            ids = torch.tensor([[*prompt.ids, *answer.ids[:place]]])
            with torch.no_grad():
                q, p = (
                    filtered(m(input_ids=ids, use_cache=False).logits[:, -1], decoding, [])
                    for m in both
                )
            mixture = (0.6 * q.softmax(-1) + 0.4 * p.softmax(-1)).log()
            bits = hash31(keys[place][None], token_table(VOCAB, CPU))
            assert int((mixture + gumbel(bits, torch.float64)).argmax()) == token


def test_mixture_in_log_space():
    q, p = torch.randn(3, 9, dtype=torch.float64), torch.randn(3, 9, dtype=torch.float64)
    q[0, :4] = -torch.inf
    p[0, 2:] = -torch.inf
    direct = 0.75 * q.softmax(-1) + 0.25 * p.softmax(-1)
    assert torch.allclose(mixed(q, p, 0.25).exp(), direct, rtol=1e-12)
    assert mixed(q, p, 0.25)[0, :2].isfinite().all()


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_vocabulary_padding_is_never_sampled(family):
    model = tiny.model(family, tied=False)
    with torch.no_grad():
        model.get_output_embeddings().weight[60:] *= 0
        model.get_output_embeddings().weight[60:] += model.get_output_embeddings().weight[:1] * 50
    asked = [Prompt((3, 4, 5), key=key) for key in range(20)]
    decoding = Decoding(max_new_tokens=30, temperature=3.0)
    sampled = answers(model, asked, decoding, vocab=60)
    assert max(token for a in sampled for token in a.ids) < 60
    mixture = answers(tiny.model("opt"), asked, decoding, vocab=60, mix=(model, 0.5))
    assert max(token for a in mixture for token in a.ids) < 60


def test_limits():
    model = tiny.model("llama")
    asked = prompts(10)
    decoding = Decoding(max_new_tokens=6)
    unending = {"eos_ids": frozenset(), "batch_size": 3}
    sampled = answers(model, asked, decoding, **unending)
    assert [len(a.ids) for a in sampled] == [6] * 10 and not any(a.finished for a in sampled)
    short = copy.deepcopy(model)
    short.config.max_position_embeddings = 8
    capped = answers(short, asked, decoding, **unending)
    assert [len(a.ids) for a in capped] == [max(0, min(6, 8 - len(p.ids))) for p in asked]
    for a, b in zip(sampled, capped, strict=True):
        assert a.ids[: len(b.ids)] == b.ids
    known = answers(model, asked, Decoding(max_new_tokens=500), **unending)
    assert [len(a.ids) for a in known] == [128 - len(p.ids) for p in asked]
    everything = frozenset(range(VOCAB))
    assert all(
        a.finished and len(a.ids) == 1 for a in answers(model, asked, decoding, eos_ids=everything)
    )
    assert answers(model, [], decoding) == []


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_leaves_the_model_as_it_was(family):
    model = tiny.model(family)
    model.train()
    model.get_input_embeddings().eval()
    if family == "opt":
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.5
        model.model.decoder.layers[0].dropout = 0.9
    before = {name: p.clone() for name, p in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    decoding = Decoding(max_new_tokens=8, seed=1)
    asked = prompts(6)
    sampler = generate(
        model, asked, decoding, eos_ids=frozenset(), pad_id=0, vocab=VOCAB, chunk=3, batch_size=2
    )
    first = next(sampler)
    assert torch.is_grad_enabled()
    assert [module.training for module in model.modules()] == modes
    sampled = first + [a for chunk in sampler for a in chunk]
    assert all(torch.equal(before[name], p) for name, p in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    model.eval()
    assert answers(model, asked, decoding, eos_ids=frozenset(), batch_size=2) == sampled


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_storages_end_with_the_sampling(family, monkeypatch):
    """Python's collector of cycles does not know how full a GPU is."""
    made: list[weakref.ref[KeyValues]] = []
    init = KeyValues.__init__

    def noted(self, *args):
        init(self, *args)
        made.append(weakref.ref(self))

    monkeypatch.setattr(KeyValues, "__init__", noted)
    model = tiny.model(family)
    gc.collect()
    gc.disable()
    try:
        for _ in range(2):
            answers(model, prompts(4), Decoding(max_new_tokens=4))
        alive = [each for each in made if each() is not None]
    finally:
        gc.enable()
    assert len(made) >= 4
    assert not alive


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_other_precisions(family, dtype):
    model = tiny.model(family)
    sampled = answers(model, prompts(8), Decoding(max_new_tokens=6, top_p=0.9), dtype=dtype)
    assert all(1 <= len(a.ids) <= 6 for a in sampled)
    assert model.dtype == torch.float32


def test_casting_keeps_ties_and_rotary_frequencies():
    model = tiny.model("llama")
    copied = cast_copy(model, torch.bfloat16)
    assert copied.lm_head.weight is copied.model.embed_tokens.weight
    assert copied.lm_head.weight.dtype == torch.bfloat16
    assert torch.equal(copied.model.rotary_emb.inv_freq, model.model.rotary_emb.inv_freq)
    assert model.lm_head.weight.dtype == torch.float32


def test_progress_counts_answers_and_tokens():
    seen: list[int] = []
    sampled = answers(
        tiny.model("llama"), prompts(9), Decoding(max_new_tokens=7), on_progress=seen.append
    )
    assert sorted(seen) == sorted(len(a.ids) for a in sampled)


def test_prompt_groups_hold_each_prompt_once_and_little_padding():
    lengths = [3, 200, 5, 5, 190, 0, 64, 60, 1]
    groups = prompt_groups(lengths, padding=16, tokens=390)
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    for group in groups:
        assert lengths[group[0]] == max(lengths[i] for i in group)
        assert len(group) * lengths[group[0]] - sum(lengths[i] for i in group) <= 16
        assert len(group) == 1 or len(group) * lengths[group[0]] <= 390
    assert prompt_groups([], padding=1, tokens=1) == []


@pytest.mark.parametrize(
    ("asked", "options", "said"),
    [
        ([Prompt((), key=0)], {}, "no tokens"),
        ([Prompt((VOCAB,), key=0)], {}, "outside the vocabulary"),
        ([Prompt((3,), key=0)], {"batch_size": 0}, "at least 1"),
        ([Prompt((3,), key=0)], {"vocab": VOCAB + 1}, "output tokens"),
        ([Prompt((3,), key=0)], {"decoding": Decoding(max_new_tokens=1, top_p=0.0)}, "top_p"),
    ],
)
def test_refuses_what_it_cannot_do(asked, options, said):
    decoding = options.pop("decoding", Decoding(max_new_tokens=3))
    with pytest.raises(InputError, match=said):
        answers(tiny.model("gpt2"), asked, decoding, **options)


def test_rows_side_by_side_see_their_own_windows():
    config = tiny.config("qwen2")
    config.layer_types = ["sliding_attention", "full_attention"]
    config.sliding_window = 8
    model = type(tiny.model("qwen2"))(config).eval()
    decoding = Decoding(max_new_tokens=12, seed=4)
    asked = prompts(6)
    decoder = decoder_for(model, dtype=None, vocab=VOCAB, pad_id=0, longest=40)
    assert isinstance(decoder, ForwardDecoder)
    ours = answers(model, asked, decoding, batch_size=3, dtype=torch.float64)
    assert ours == [naive(model, prompt, decoding) for prompt in asked]


@pytest.mark.parametrize(
    ("name", "remembers"),
    [("bloom", True), ("gpt_neo", True), ("mamba2", True), ("recurrent_gemma", False)],
)
def test_what_slots_do_not_fit_is_decoded_alone(name, remembers):
    model = architectures.model(name).double()
    asked = [Prompt(p.ids, p.key, p.sample) for p in prompts(4)]
    decoding = Decoding(max_new_tokens=10, seed=4)
    options = {"dtype": None, "vocab": VOCAB, "pad_id": 0, "longest": 40}
    decoder = decoder_for(model, **options)
    assert isinstance(decoder, AloneDecoder) and decoder.remembers == remembers
    ours = answers(model, asked, decoding, batch_size=3)
    assert ours == [naive(model, prompt, decoding) for prompt in asked]


def test_what_sees_the_future_cannot_be_sampled_from():
    with pytest.raises(InputError, match="bert cannot be sampled from"):
        answers(architectures.model("bert, bidirectional"), prompts(1), Decoding(max_new_tokens=2))
