"""Measures of world models that the copy-last baseline cannot score well in. `training/evaluation.py` calls them."""
