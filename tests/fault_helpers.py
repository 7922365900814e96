"""Files with wrong bytes."""

import random
from collections.abc import Iterator


def spoilt_copies(content: bytes, seed: str) -> Iterator[bytes]:
    """Sixty copies of a file, each with a flipped bit, zeros, more, less or exchanged bytes somewhere."""
    rng = random.Random(seed)
    for _ in range(60):
        spoilt, at = bytearray(content), rng.randrange(len(content))
        kind = rng.choice(("flip", "zeros", "cut", "insert", "swap"))
        if kind == "flip":
            spoilt[at] ^= 1 << rng.randrange(8)
        elif kind == "zeros":
            spoilt[at : at + 200] = bytes(len(spoilt[at : at + 200]))
        elif kind == "cut":
            del spoilt[at:]
        elif kind == "insert":
            spoilt[at:at] = rng.randbytes(9)
        else:
            spoilt[at : at + 64], spoilt[:64] = spoilt[:64], spoilt[at : at + 64]
        yield bytes(spoilt)
