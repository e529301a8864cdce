"""Where a network runs."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from manifests.runtime.console import UserError


def pick_device(name: str) -> torch.device:
    """Return the device of a setting; ``auto`` prefers a GPU.

    Raises:
        UserError: If the device is not there.

    >>> pick_device("cpu")
    device(type='cpu')
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, number = name.partition(":")
    if kind not in {"cpu", "cuda"} or (number and not number.isdecimal()):
        raise UserError(f"--device: found '{name}', expected auto, cpu, cuda or cuda:N")
    if kind == "cuda" and not torch.cuda.is_available():
        raise UserError(
            f"--device {name}: torch finds no CUDA device here, expected one, or --device cpu"
        )
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name}: {str(error).splitlines()[0]}") from error
    return device


def own_gpu(name: str, environ: Mapping[str, str], num_gpus: int) -> str:
    """Return the setting of one of several processes of a machine that shall not share a GPU.

    ``auto`` and ``cuda`` become the GPU of the local rank that torchrun or else srun gives.

    Args:
        name: The setting that all of them have.
        environ: The environment of the process.
        num_gpus: How many GPUs it sees; from a single one there is nothing to choose.

    >>> own_gpu("auto", {"LOCAL_RANK": "5"}, num_gpus=4)
    'cuda:1'
    """
    rank = environ.get("LOCAL_RANK") or environ.get("SLURM_LOCALID") or ""
    if name not in {"auto", "cuda"} or num_gpus < 2 or not rank.isdecimal():
        return name
    return f"cuda:{int(rank) % num_gpus}"


def upload(values: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device, without waiting for the device.

    A copy from ordinary memory would first let a GPU finish all that it has been asked for.
    """
    if device.type != "cuda" or values.is_cuda:
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


@contextmanager
def cpu_threads(count: int) -> Generator[None]:
    """Compute with this many CPU threads while the block runs."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def device_class(device: torch.device) -> str:
    """Return the kind of machine within which equal work gives equal bytes.

    A GPU's name, or the widest instructions that the CPU kernels may use.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    matrix_unit = " AMX" if torch.cpu.get_capabilities().get("amx_bf16") else ""
    return f"cpu {torch.backends.cpu.get_cpu_capability()}{matrix_unit}"


def has_bf16(device: torch.device) -> bool:
    """Return whether the device computes in bf16 rather than pretending to, which is slow."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.cpu.get_capabilities().get("avx512_bf16"))
