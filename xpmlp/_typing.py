"""Names for what has no common base class: an array, its namespace, its device."""

from typing import Any, TypeAlias

Array: TypeAlias = Any
"""An array of any namespace of the Array API standard, 2024.12."""

Namespace: TypeAlias = Any
"""The namespace of an array: `numpy`, `array_api_compat.cupy`, `jax.numpy`, ..."""

Device: TypeAlias = Any
"""What the namespace calls a device: "cpu", `cupy.cuda.Device(0)`, `torch.device("cuda")`, ..."""
