"""Measures of world models that a still image cannot score well in. `training/evaluation.py` calls them."""
