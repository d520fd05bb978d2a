"""docs/glossary.md has the words of the sources in both languages, and the program uses them."""

import re

import pytest

from tests.docs import pages

ROWS = pages.table(pages.text("glossary.md"), "English |")


@pytest.mark.parametrize(
    ("english", "korean"),
    [
        ("transfer learning", "전이학습"),
        ("fine-tuning", "미세조정"),
        ("pretraining", "사전학습"),
        ("feature extraction", "특징 추출"),
        ("backbone", "백본"),
        ("freezing", "동결"),
        ("learning rate", "학습률"),
        ("overfitting", "과적합"),
        ("data augmentation", "데이터 증강"),
        ("unsupervised", "비지도 학습"),
    ],
    ids=lambda word: word if word.isascii() else "in Korean",
)
def test_the_sources_words_are_there(english: str, korean: str) -> None:
    assert [row for row in ROWS if english in row[0] and korean in row[1]]


def test_every_word_is_in_both_languages_and_explained() -> None:
    for english, korean, means in ROWS:
        assert re.search("[a-z]", english)
        assert re.search("[가-힣]", korean), english
        assert means.endswith("."), english


def test_words_are_explained_once() -> None:
    words = [word for row in ROWS for word in row[0].split(", ")]
    assert len(words) == len(set(words))


def test_the_program_uses_the_words() -> None:
    """Umbrella, reuse, evidence: each has its command or regime."""
    said = " ".join(row[2] for row in ROWS)
    for verb in ("as-is", "extract", "probe", "advise"):
        assert f"`vertebra-train {verb}`" in said
    for regime in ("small-similar", "large-similar", "scratch"):
        assert f"`--regime {regime}`" in said
