"""The true answer distribution of the mini world, exact token by token.

An answer is written by a grammar (a path through a graph of words, then end-of-text for ever) and
then copied by a scribe who, at each place and independently, replaces the word by one drawn evenly
from the whole vocabulary with probability ``NOISE``. The first end token copied ends the answer.
So for hidden path y and copy x

    p(x | prompt) = sum_y p(y) prod_t ((1 - NOISE) [x_t = y_t] + NOISE / V),

which the forward algorithm sums exactly: a belief over graph nodes, updated by each token. After a
word the grammar does not know, the belief moves on as if the scribe had slipped, so the truth
resynchronises by itself; every token always has at least probability NOISE / V and divergences are
finite in both directions. (Rabiner 1989, "A Tutorial on Hidden Markov Models", section III.A.)
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from kdbench.tasks.mini.dice import Dice
from kdbench.tasks.mini.facts import World, build
from kdbench.tasks.mini.grammar import (
    END,
    Graph,
    compile_spec,
    count_paths,
    enumerate_answers,
)
from kdbench.tasks.mini.parse import parse
from kdbench.tasks.mini.tokenizer import EOS, SPECIALS, vocabulary
from kdbench.tasks.mini.words import join, split

NOISE = 0.004


class Truth:
    """p*(answer | prompt) of a world.

    Args:
        world: the facts; by default those of seed 0.
        noise: probability that the scribe slips at a place.
    """

    def __init__(self, world: World | None = None, noise: float = NOISE) -> None:
        self.world = world or build()
        self.noise = noise
        self.ids = vocabulary()
        self.words = tuple(self.ids)
        self.eos = self.ids[EOS]
        self._open = lru_cache(maxsize=4096)(self._read)
        self._graph = lru_cache(maxsize=4096)(self._close)

    def _read(self, prompt: str) -> Graph:
        kind, slots = parse(prompt, self.world)
        return compile_spec(kind.answer(self.world, slots))

    def _close(self, prompt: str) -> tuple[Graph, np.ndarray]:
        """The answer graph of a prompt with its last node repeating END; token id of each arc."""
        graph = self._open(prompt)
        last = int(graph.target[graph.word.index(END)])
        closed = Graph(
            graph.nodes,
            np.append(graph.source, last),
            np.append(graph.target, last),
            (*graph.word, END),
            np.append(graph.weight, 1.0),
        )
        return closed, np.array([self.eos if w == END else self.ids[w] for w in closed.word])

    def _distribution(self, graph: Graph, token: np.ndarray, belief: np.ndarray) -> np.ndarray:
        clean = np.bincount(token, belief[graph.source] * graph.weight, minlength=len(self.ids))
        return (1 - self.noise) * clean + self.noise / len(self.ids)

    def _step(self, graph: Graph, token: np.ndarray, belief: np.ndarray, x: int) -> np.ndarray:
        copied = (1 - self.noise) * (token == x) + self.noise / len(self.ids)
        flow = belief[graph.source] * graph.weight * copied
        belief = np.bincount(graph.target, flow, minlength=graph.nodes)
        return belief / belief.sum()

    def log_probs(self, prompt: str, ids: Sequence[int]) -> np.ndarray:
        """Next-token log-probabilities at every place of an answer, (len(ids) + 1, V) float64.

        Row t is the distribution of token t given the prompt and ``ids[:t]``.
        """
        graph, token = self._graph(prompt)
        belief = np.zeros(graph.nodes)
        belief[0] = 1.0
        rows = [self._distribution(graph, token, belief)]
        for x in ids:
            belief = self._step(graph, token, belief, x)
            rows.append(self._distribution(graph, token, belief))
        return np.log(np.stack(rows))

    def sample(self, prompt: str, seed: int, key: int, max_new_tokens: int = 128) -> list[int]:
        """An answer drawn from the truth; equal (seed, key) give the equal answer.

        Ends with the end token unless cut at ``max_new_tokens``. Draws the hidden path and the
        slips themselves, so it is exact whatever the rounding of the marginals.
        """
        fans, node = self._open(prompt).fans(), 0
        said: list[int] = []
        dice = Dice("answer", seed, key)
        while len(said) < max_new_tokens and (not said or said[-1] != self.eos):
            fan = fans[node]
            word = END
            if fan:  # after the end the hidden path stays there, saying END
                _, word, node = fan[0] if len(fan) == 1 else dice.weighted(fan, [a[0] for a in fan])
            slipped = dice.unit() < self.noise
            copied = self.eos if word == END else self.ids[word]
            said.append(dice.below(len(self.ids)) if slipped else copied)
        return said

    def greedy(self, prompt: str, max_new_tokens: int = 128) -> list[int]:
        """The likeliest token after the likeliest tokens so far, to the end token or the limit."""
        graph, token = self._graph(prompt)
        belief = np.zeros(graph.nodes)
        belief[0] = 1.0
        said: list[int] = []
        while len(said) < max_new_tokens and (not said or said[-1] != self.eos):
            said.append(int(self._distribution(graph, token, belief).argmax()))
            belief = self._step(graph, token, belief, said[-1])
        return said

    def sample_text(self, prompt: str, seed: int, key: int) -> str:
        """An answer drawn from the truth as text, without special tokens."""
        return self.decode(self.sample(prompt, seed, key))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of answer tokens, specials left out."""
        return join([self.words[i] for i in ids if self.words[i] not in SPECIALS])

    def modes(self, prompt: str, limit: int = 4096) -> dict[str, float] | None:
        """All valid answers with their probabilities without noise, likeliest first.

        None if there may be more than ``limit`` (long answers): use ``is_valid`` there.
        """
        graph = self._open(prompt)
        if count_paths(graph) > limit:
            return None
        return {join(words): p for words, p in enumerate_answers(graph).items()}

    def is_valid(self, prompt: str, text: str) -> bool:
        """Whether the grammar itself, without slips, can write exactly this text."""
        fans, nodes = self._open(prompt).fans(), {0}
        for word in (*split(text), END):
            nodes = {to for node in nodes for _, written, to in fans[node] if written == word}
        return bool(nodes)

    def category(self, prompt: str) -> str:
        """Which of Dolly's eight categories the prompt belongs to."""
        return parse(prompt, self.world).kind.category
