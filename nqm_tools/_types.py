"""Types that several signatures share.

Shapes are jaxtyping's, and nothing checks them at run time: n examples, k outputs, m hidden units, p parameters.
Modules with annotations begin ``from __future__ import annotations``, so that ``help`` shows these names, not what they
stand for.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Protocol

from jaxtyping import Array, ArrayLike, Float, PyTree, Real

FilePath = str | os.PathLike[str]
# A number, or an array of them that is taken elementwise.
Numbers = Real[ArrayLike, "..."]
# Inputs, whole numbers (tokens) too, and targets.
Inputs = Real[ArrayLike, "n ..."]
Targets = Real[ArrayLike, "n k"] | Real[ArrayLike, "n"]
Outputs = Float[Array, "n k"]
# An average gradient outer product: the matrix (d, d), or its root (r, d) with r < d.
Agop = Real[ArrayLike, "r d"]
ValueAndPullback = tuple[Outputs, Callable[[Outputs], PyTree]]


class Function(Protocol):
    """A model as a function, with outputs (n, k) or (n,).

    A protocol, since to mypy no named tuple, such as a network, is a ``Callable``.
    """

    def __call__(self, params: PyTree, x: Real[Array, "n ..."], /) -> Float[Array, "n ..."]: ...
