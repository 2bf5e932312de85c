"""Libraries kept from talking to the user."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quietly(library: str) -> Iterator[None]:
    """Keep back all warnings, and what the library's logger says short of errors.

    Args:
        library: the name of its logger: "torch.onnx", "diffusers".
    """
    logger = logging.getLogger(library)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
