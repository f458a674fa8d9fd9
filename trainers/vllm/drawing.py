"""Our drawing of tokens inside vLLM: its logits are filtered and given noise exactly as by our sampler.

The token is drawn here, and all others are taken away, so that vLLM's own (greedy) choice is ours. All
settings of a decoding, top-p and blocked n-grams included, are therefore computed by one code.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

from kdbench.trainers.sampler.draw import GumbelArgmax, NgramBlock, filtered, position_keys
from kdbench.trainers.types import Decoding

ASKED = "kdbench"
"""Name under which a request says how its answer is drawn."""


@dataclass(eq=False)
class _Row:
    """One answer that vLLM is writing.

    Attributes:
        decoding: how.
        vocab: number of real tokens.
        keys_P2: of the noise at each position.
        written: tokens so far; vLLM appends to it.
        block: n-grams so far, read up to ``seen`` of ``written``.
    """

    decoding: Decoding
    vocab: int
    keys_P2: torch.Tensor
    written: list[int]
    block: NgramBlock | None = None
    seen: int = field(default=0, init=False)

    def blocked(self) -> NgramBlock | None:
        """What may not come next, all that was written being read."""
        if self.block is not None:
            for token in self.written[self.seen :]:
                self.block.append(token)
            self.seen = len(self.written)
        return self.block


class Drawing(LogitsProcessor):
    """vLLM's interface of a logits processor; see the module docstring."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self._device = device
        self._rows: dict[int, _Row] = {}
        self._draws: dict[int, GumbelArgmax] = {}

    def is_argmax_invariant(self) -> bool:
        """It decides the token."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Requests come, go and change places."""
        process_dict_updates(self._rows, batch_update, self._row)

    def _row(self, parameters: Any, prompt: list[int] | None, written: list[int]) -> _Row:
        asked = parameters.extra_args[ASKED]
        decoding = Decoding(**asked["decoding"])
        keys_P2 = position_keys([asked["stream"]], parameters.max_tokens, self._device)[0]
        n = decoding.no_repeat_ngram
        block = NgramBlock(n, prompt or ()) if n else None
        return _Row(decoding, asked["vocab"], keys_P2, written, block)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Leaves each row the token that is drawn for it."""
        alike: dict[tuple[Decoding, int], list[int]] = {}
        for place, row in sorted(self._rows.items()):
            alike.setdefault((row.decoding, row.vocab), []).append(place)
        for (decoding, vocab), places in alike.items():
            drawn_n = self._drawn(logits[places, :vocab].float(), decoding, places)
            logits[places] = -torch.inf
            logits[places, drawn_n] = 0.0
        return logits

    def _drawn(
        self, logits_nV: torch.Tensor, decoding: Decoding, places: list[int]
    ) -> torch.Tensor:
        rows = [self._rows[place] for place in places]
        blocks = [block for row in rows if (block := row.blocked()) is not None]
        scores_nV = filtered(logits_nV, decoding, blocks)
        if decoding.temperature == 0:
            return scores_nV.argmax(dim=-1)
        vocab = scores_nV.shape[-1]
        if vocab not in self._draws:
            self._draws[vocab] = GumbelArgmax(vocab, self._device)
        keys_n2 = torch.stack([row.keys_P2[len(row.written)] for row in rows])
        return self._draws[vocab](scores_nV, keys_n2)
