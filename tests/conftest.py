"""What holds for all tests: no network, no login."""

import os

os.environ["WANDB_MODE"] = "disabled"
os.environ["HF_HUB_OFFLINE"] = "1"
# Set where the tests themselves were started by a launcher; the launcher's tests start processes of their own.
for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
    os.environ.pop(name, None)
