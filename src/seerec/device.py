"""Where tensors live."""

import torch

from seerec.errors import SeerecError


def place_of(name: str | None) -> torch.device:
    """The device asked for; None: a GPU where there is one.

    Raises
    ------
    SeerecError
        There is no such device here.
    """
    gpu = torch.cuda.is_available()
    try:
        place = torch.device(name or ("cuda" if gpu else "cpu"))
    except RuntimeError as error:
        raise SeerecError(f"There is no device {name!r}.", "Choose cpu or cuda.") from error
    if place.type == "cuda" and not gpu:
        raise SeerecError("PyTorch finds no GPU here.", "Choose cpu, or install a PyTorch built for your GPU.")
    return place
