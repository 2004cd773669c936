"""The saliency methods, and the record of an explained image.

- gradient: the plain gradient of the class's logit (Simonyan et al. 2013, arXiv 1312.6034),
  probably the method of the paper's maps;
- SmoothGrad: its mean over noisy copies of the image (Smilkov et al. 2017, arXiv 1706.03825);
- Grad-CAM++: the last feature map, weighted by its gradients (Chattopadhyay et al. 2018,
  arXiv 1710.11063).
"""

from dataclasses import dataclass

import numpy as np

GRADIENT, SMOOTHGRAD, GRAD_CAM = "gradient", "SmoothGrad", "Grad-CAM++"
METHODS = (GRADIENT, SMOOTHGRAD, GRAD_CAM)


@dataclass(frozen=True)
class Explanation:
    """The network's answer for one image, and where it looks.

    Attributes:
      image: uint8 array [height, width, 3].
      code: The explained class: the most probable one, unless another was asked for.
      probability: Of that class.
      maps: Method to float32 array [height, width], 0 to 1.
    """

    image: np.ndarray
    code: str
    probability: float
    maps: dict[str, np.ndarray]
