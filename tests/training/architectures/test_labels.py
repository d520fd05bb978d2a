from timm.data.imagenet_info import ImageNetInfo

from training.architectures.labels import imagenet_labels, no_labels


def test_the_thousand_labels_differ_and_stand_in_synset_order() -> None:
    labels = imagenet_labels()
    assert len(labels) == len(set(labels)) == 1000
    assert all(label == label.strip() and label for label in labels)
    info = ImageNetInfo()
    synsets = [info.index_to_label_name(index) for index in range(1000)]
    assert synsets == sorted(synsets)
    known = {0: "tench", 207: "golden retriever", 281: "tabby", 985: "daisy", 999: "toilet tissue"}
    assert {index: labels[index] for index in known} == known


def test_labels_that_would_be_the_same_are_told_apart() -> None:
    labels = imagenet_labels()
    assert [labels[index] for index in (134, 517)] == ["crane (bird)", "crane (machine)"]
    assert [labels[index] for index in (638, 639)] == ["maillot (tights)", "maillot (swimsuit)"]


def test_there_may_be_none() -> None:
    assert no_labels() == ()
