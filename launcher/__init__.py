"""The launcher behind `run.py`: command line → Hydra → dataclasses → entry point, in one process."""
