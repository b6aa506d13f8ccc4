"""Vocabularies: the numbers that stand for the words of categories."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from streamfti.training_pipeline.vocabulary import Vocabulary

WORDS = st.lists(st.tuples(st.sampled_from(["", "a", "b", "\u00e9"]), st.text(max_size=3)), min_size=1, max_size=30)


def table(rows: list[tuple[str, ...]]) -> NDArray[np.object_]:
    return np.array(rows, dtype=np.object_).reshape(len(rows), -1)


def test_frequent_words_come_first_and_ties_by_name() -> None:
    learned = Vocabulary.learn(table([("b",), ("a",), ("c",), ("c",), ("",)]))
    assert learned.words == (("c", "a", "b"),)


def test_null_and_unseen_words_have_code_0() -> None:
    learned = Vocabulary((("c", "a"), ("x",)))
    codes = learned.encode(table([("c", "x"), ("a", ""), ("new", "y")]))
    np.testing.assert_array_equal(codes, np.array([[1, 1], [2, 0], [0, 0]], np.float32))
    assert codes.dtype == np.float32


@given(rows=WORDS)
def test_every_learned_word_survives_its_code(rows: list[tuple[str, str]]) -> None:
    words = table(list(rows))
    learned = Vocabulary.learn(words)
    decoded = learned.decode(learned.encode(words))
    known = words != ""
    np.testing.assert_array_equal(decoded[known], words[known])
    np.testing.assert_array_equal(learned.encode(decoded), learned.encode(words))


def test_an_unknown_word_is_in_no_vocabulary() -> None:
    learned = Vocabulary((("never seen in training",),))
    assert learned.unknown_word(0) not in learned.words[0]
    assert learned.decode(np.zeros((1, 1), np.float32))[0, 0] == learned.unknown_word(0)


def test_without_categories_there_is_nothing_to_encode() -> None:
    assert Vocabulary.learn(np.empty((3, 0), np.object_)).encode(np.empty((3, 0), np.object_)).shape == (3, 0)
