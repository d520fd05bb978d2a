"""The image formats that can be read, one file each; nothing here makes pixels of another size or knows a model.

A file is outlined before it is opened: found are its size, which way is up, and the parts that make pixels. Pillow is
shown those parts alone, so that no metadata, true, broken or endless, ever costs time or memory.
"""
