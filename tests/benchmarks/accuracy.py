"""Top-1 of the model `imagenet` on one image of each of ImageNet's 1,000 classes: JPEG bytes through gRPC.

python -m tests.benchmarks.accuracy --images PATH
"""

import argparse
from pathlib import Path

from tests.benchmarks import pictures, results, serving
from vertebra.client import Client

CLASSES = 1000
BATCH = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repository", type=Path, default=Path(".demo/alone"))
    parser.add_argument("--images", type=Path, required=True, help="imagenet-samples.tar or its folder")
    arguments = parser.parse_args()
    files = pictures.read(arguments.images, CLASSES)  # by name, which is by class
    top5: list[list[int]] = []
    with serving.served(arguments.repository) as service, Client(service.address, deadline_s=120) as client:
        for start in range(0, CLASSES, BATCH):
            answers = client.classify(files[start : start + BATCH], model="imagenet", top_k=5).answers()
            top5 += [[label.index for label in answer.labels] for answer in answers]
    figures = {
        "images": len(top5),
        "top_1": sum(found[0] == expected for expected, found in enumerate(top5)) / CLASSES,
        "top_5": sum(expected in found for expected, found in enumerate(top5)) / CLASSES,
    }
    print(f"top-1 {figures['top_1']:.1%}, top-5 {figures['top_5']:.1%} of {figures['images']} images")
    print(f"kept in {results.keep('accuracy', figures)}")


if __name__ == "__main__":
    main()
