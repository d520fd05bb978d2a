"""Looks into a model and draws what it sees there; does not know how good the model is."""
