"""Networks of ``.tflite`` files on the CPU, through LiteRT; an interpreter for every thread."""

from __future__ import annotations

import threading
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import numpy as np

from manifests.compute.external_weights import optional_module
from manifests.runtime.console import UserError
from manifests.runtime.files import check_file

EXTRA: Final = 'pip install "reid-augment[litert]"'

_PACKAGE: Final = "ai-edge-litert"


class LiteRtNetwork:
    """A network with one input. One thread computes an image: its bytes do not depend on others."""

    def __init__(self, path: Path) -> None:
        """Open the file.

        Raises:
            UserError: If ``ai-edge-litert`` is not installed, or the file is missing or no network.
        """
        check_file(path, "a .tflite network", "--estimator")
        self._path = path
        self._litert = optional_module("ai_edge_litert.interpreter", _PACKAGE, EXTRA)
        self._of_thread = threading.local()
        interpreter = self._interpreter()
        self.inputs: list[dict[str, Any]] = interpreter.get_input_details()
        """As the interpreter describes them: ``shape``, ``dtype``."""
        self.outputs: list[dict[str, Any]] = interpreter.get_output_details()

    @property
    def runtime(self) -> str:
        """The package that computes, and its version."""
        return f"{_PACKAGE} {metadata.version(_PACKAGE)}"

    def run(self, values: np.ndarray) -> list[np.ndarray]:
        """Return the outputs for an input, in the order of ``outputs``."""
        interpreter = self._interpreter()
        interpreter.set_tensor(self.inputs[0]["index"], values)
        interpreter.invoke()
        return [interpreter.get_tensor(output["index"]) for output in self.outputs]

    def _interpreter(self) -> Any:
        known = getattr(self._of_thread, "interpreter", None)
        if known is not None:
            return known
        try:
            interpreter = self._litert.Interpreter(str(self._path), num_threads=1)
            interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise UserError(f"--estimator: {self._path} is no .tflite network ({error})") from error
        self._of_thread.interpreter = interpreter
        return interpreter
