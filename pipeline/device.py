"""The device and the precision that models run in."""

from __future__ import annotations

import torch

from pipeline.errors import UserError


def choose_device(wanted: str) -> str:
    """Returns the device's name for torch; "auto" takes a GPU where there is one.

    Raises:
        UserError: a device that is not there.
    """
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(wanted)
    except RuntimeError as error:
        raise UserError(f"runtime.device={wanted} is no device: give cpu, cuda or auto") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"runtime.device={wanted}, but torch finds no GPU: give cpu or auto")
    return wanted


def check_precision(precision: str, device: str) -> None:
    """Refuses a precision that does not exist or does not work.

    Raises:
        UserError: says what does.
    """
    if precision != "fp32":
        raise UserError(f"runtime.precision={precision} is not supported yet: give fp32")
