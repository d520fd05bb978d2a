"""Makes runs: a pretrained backbone, as it is or adapted to images."""
