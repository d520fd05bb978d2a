"""Data sets that libraries know by name, as files and a table like those that a person brings; learns nothing."""
