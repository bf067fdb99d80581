"""The innermost operations of all models: attention over a short history, residuals with normalisation, dropout.

Each is a function of tensors with one meaning and two ways to it. On a processor, where `g++` was at hand when seerec was
installed, a kernel in C++ does in one pass over memory what torch does in ten; over short histories those passes are what a
step costs (docs/performance.md). Everywhere else (a GPU, other types, no compiler) torch's operations do, with torch's own
gradients, and they are what the kernels are tested against. Dropout draws the same either way on a processor.
"""

from seerec.kernels.attention import attend
from seerec.kernels.candidates import Network, States, score_candidates, scores, whole
from seerec.kernels.draws import Draws, draw, dropout, relu_dropout
from seerec.kernels.encode import averages, encode, encodes, mean_of_rows
from seerec.kernels.latent import SITES, Matrix, Norm, Recursion, recur, recurs
from seerec.kernels.norm import join_norm
from seerec.kernels.precision import Precision, choose, has_halves, in_halves, products_in

__all__ = [
    "SITES",
    "Draws",
    "Matrix",
    "Network",
    "Norm",
    "Precision",
    "Recursion",
    "States",
    "attend",
    "averages",
    "choose",
    "draw",
    "dropout",
    "encode",
    "encodes",
    "has_halves",
    "in_halves",
    "join_norm",
    "mean_of_rows",
    "products_in",
    "recur",
    "recurs",
    "relu_dropout",
    "score_candidates",
    "scores",
    "whole",
]
