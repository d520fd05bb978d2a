"""Learning from images without labels; begin at pretrain.py."""
