"""The student's code for `mlflow.pyfunc.load_model`: this file and safetensors. Nothing is pickled.

    model = mlflow.pyfunc.load_model("models:/<model id>", model_config={"teacher": "data/teacher"})
    model.predict(images)        # uint8 (B, h, w, 3), RGB -> uint8 (B, h * scale, w * scale, 3)

MLflow stores a copy of this file with the student's weights and runs it when the model is loaded; that needs the
package `tsdsr` and the student's teacher.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel


class StudentModel(PythonModel):  # type: ignore[misc]
    """One-step upscaling of a batch of images of one size."""

    def load_context(self, context: Any) -> None:
        from tsdsr.inference import TSDSRPipeline

        teacher, student = context.model_config["teacher"], context.artifacts["student"]
        self._color = context.model_config["color"]
        self._pipe: Any = TSDSRPipeline.from_pretrained(teacher, student=student)
        self._pipe.set_progress_bar_config(disable=True)

    def predict(self, context: Any, model_input: np.ndarray, params: dict[str, Any] | None = None) -> np.ndarray:
        """uint8 (B, h, w, 3), RGB -> uint8 (B, h * scale, w * scale, 3), at the scale of the student's training."""
        return np.stack([np.asarray(image) for image in self._pipe(model_input, color=self._color).images])


set_model(StudentModel())
