"""JPEG compression and decompression through libjpeg."""

from __future__ import annotations

import cv2
import numpy as np


def jpeg(image: np.ndarray, quality: float) -> np.ndarray:
    """Encode at the nearest whole quality with 4:2:0 chroma, and decode.

    Args:
        image: (H, W, 3) uint8, BGR.
        quality: in [1, 100].

    Returns:
        (H, W, 3) uint8, BGR.
    """
    options = [
        cv2.IMWRITE_JPEG_QUALITY,
        round(quality),
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    ]
    done, data = cv2.imencode(".jpg", image, options)
    assert done
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert decoded is not None
    return decoded
