"""A feature network from an ONNX file, on ONNX Runtime: what the Frechet distance compares pictures by."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from elit_edge.errors import RequestError

BATCH = 64
FLOAT = "tensor(float)"


class FeatureNetwork:
    """One input of samples [B, C, S, S] float32 in [-1, 1], one output of features [B, F] float32."""

    def __init__(self, path: Path, shape: tuple[int, int, int], threads: int | None = None) -> None:
        """Open and try the network.

        Args:
            path: the ONNX file.
            shape: (C, S, S) of the samples that it shall take.
            threads: CPU threads; None leaves it to ONNX Runtime.

        Raises:
            RequestError: it is missing, damaged, of another interface, or makes no features of a sample.
        """
        from elit_edge.runtimes.onnxruntime_.session import inference_session

        if not path.is_file():
            raise RequestError(f"--features {path}: there is no such file; give an ONNX file")
        self.path = path
        try:
            self._session = inference_session(path, threads)
        except RuntimeError as error:
            raise RequestError(
                f"--features {path}: ONNX Runtime refuses it: {error}; give a file as docs/quality.md describes it"
            ) from error
        self._check_interface(shape)
        self.size = self(np.zeros((2, *shape), np.float32)).shape[1]

    def __call__(self, samples: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
        """Features [N, F] of samples [N, C, S, S] in [-1, 1].

        Raises:
            RequestError: the network fails, or its features are not [N, F] or not finite.
        """
        name = self._session.get_inputs()[0].name
        parts = [samples[first : first + BATCH].astype(np.float32) for first in range(0, len(samples), BATCH)]
        try:
            made = [self._session.run(None, {name: part})[0] for part in parts]
        except Exception as error:  # ONNX Runtime's errors share no narrower class
            reason = str(error).strip().splitlines()[0]
            raise RequestError(f"--features {self.path} fails on samples {list(samples.shape)}: {reason}") from error
        for part, features in zip(parts, made, strict=True):
            if features.ndim != 2 or len(features) != len(part) or not np.isfinite(features).all():
                found = f"{list(features.shape)} of {len(part)} samples"
                raise RequestError(f"--features {self.path} makes {found}; finite features [B, F] are needed")
        return np.concatenate(made)

    def _check_interface(self, shape: tuple[int, int, int]) -> None:
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        takes = ", ".join(f"{value.type} {value.shape}" for value in inputs)
        gives = ", ".join(f"{value.type} {value.shape}" for value in outputs)
        fits = len(inputs) == len(outputs) == 1 and inputs[0].type == outputs[0].type == FLOAT
        if fits:
            batch, *rest = inputs[0].shape
            fits = not isinstance(batch, int) and len(rest) == 3 and len(outputs[0].shape) == 2
            fits = fits and all(not isinstance(dim, int) or dim == own for dim, own in zip(rest, shape, strict=True))
        if not fits:
            raise RequestError(
                f"--features {self.path} takes {takes} and gives {gives}; needed is one input {FLOAT} "
                f"[B, {', '.join(map(str, shape))}] of any batch B, and one output {FLOAT} [B, F]"
            )
