"""Vocabularies: the numbers that stand for the words of categories. Learned in training, frozen into the graph.

A model-dependent transform: only the exported graph applies it when serving, so no second implementation can differ.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Vocabulary"]


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The known words of each category column, in order: the word at place i has code i + 1.

    Code 0 is everything else: null, and what was never seen.
    """

    words: tuple[tuple[str, ...], ...]

    @classmethod
    def learn(cls, categories: NDArray[np.object_]) -> Vocabulary:
        """Learn from object[n, m] of str: the more frequent, the lower the code; ties by name; `""` is null."""
        return cls(tuple(_by_frequency(categories[:, i]) for i in range(categories.shape[1])))

    def encode(self, categories: NDArray[np.object_]) -> NDArray[np.float32]:
        """Return the codes of object[n, m] of str as float32[n, m]."""
        codes = np.zeros(categories.shape, np.float32)
        for i, words in enumerate(self.words):
            known = {word: code for code, word in enumerate(words, start=1)}
            codes[:, i] = [known.get(word, 0) for word in categories[:, i]]
        return codes

    def decode(self, codes: NDArray[np.float32]) -> NDArray[np.object_]:
        """Return a word for each code, object[n, m]; for 0 and for codes that stand for no word, an unknown word."""
        words = np.empty(codes.shape, np.object_)
        for i, known in enumerate(self.words):
            table = dict(enumerate(known, start=1))
            unknown = self.unknown_word(i)
            words[:, i] = [table.get(int(code), unknown) for code in codes[:, i]]
        return words

    def unknown_word(self, column: int) -> str:
        """Return a word that a column's vocabulary does not hold."""
        word = "never seen in training"
        while word in self.words[column]:
            word += "!"
        return word


def _by_frequency(column: NDArray[np.object_]) -> tuple[str, ...]:
    counts = Counter(word for word in column if word)
    return tuple(sorted(counts, key=lambda word: (-counts[word], word)))
