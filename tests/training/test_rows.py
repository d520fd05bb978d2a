import pytest
import torch
from torch import nn

from training import backbones, rows
from training.errors import HeadError


def test_classes_of_the_same_name_are_found() -> None:
    known = ("tench", "golden retriever", "tabby", "Golden-Retriever")
    assert rows.reused_rows(("Tabby", "moth", "golden_retriever"), known) == {0: 2, 2: 1}
    assert rows.reused_rows(("moth",), known) == {}


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["tench", "Great_White-Shark"], {0: 0, 1: 2}),
        (["n01440764", "n01443537_goldfish", "n99999999_unicorn"], {0: 0, 1: 1}),
        (["tench", "Tench", "goldfish"], {0: 0, 2: 1}),  # a class is given to one label
        (["crane"], {}),  # which of the two?
        (["0", "1"], {}),
    ],
)
def test_they_are_classes_of_imagenet_by_their_names_and_ids(labels: list[str], expected: dict[int, int]) -> None:
    assert rows.reused_rows(labels, backbones.imagenet_labels()) == expected


def test_ids_mean_nothing_to_another_backbone() -> None:
    assert rows.reused_rows(["n01440764"], ("ant", "bee")) == {}


def test_rows_are_taken_over_and_the_others_prefer_no_class() -> None:
    torch.manual_seed(0)
    pretrained = nn.Linear(6, 4)
    made = rows.reused(pretrained, {0: 2, 2: 1}, 3)
    x = torch.randn(5, 6)
    before, after = pretrained(x), made(x)
    torch.testing.assert_close(after[:, 0], before[:, 2])
    torch.testing.assert_close(after[:, 2], before[:, 1])
    torch.testing.assert_close(after[:, 1], before.mean(dim=1))
    assert all(each.requires_grad for each in made.parameters())


@pytest.mark.parametrize(("wanted", "columns"), [({3: 0}, 3), ({0: 4}, 3)])
def test_rows_that_there_are_not_are_refused(wanted: dict[int, int], columns: int) -> None:
    with pytest.raises(HeadError, match=r"Expected rows below 3, from rows below 4. Received: "):
        rows.reused(nn.Linear(6, 4), wanted, columns)
