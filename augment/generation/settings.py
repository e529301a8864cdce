"""Settings of ``augment generate``, with their defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field
from tyro.conf import OmitArgPrefixes

from augment.generation.choices import Choices, NewPeople, Purpose
from augment.generation.run_config import ImageFormat, Subsampling
from manifests.compute.precision import Auto, Precision
from manifests.runtime.settings import Count, Frozen
from manifests.runtime.storage import StoragePathFlag

DEFAULT_WEIGHTS: Final = "posewarp-market1501"
SAMPLE_WEIGHTS: Final = "posewarp-sample"


class GenerateSettings(Frozen):
    """Make images of the same people in other poses."""

    images: Path | None = None
    """Images table whose train rows give the people (made by 'augment index'); default: made-up
    people, drawn beside OUT (in the current folder where OUT is a URL)."""
    out: StoragePathFlag = Path("synthetic")
    """Folder of the run, or a URL like s3://bucket/run; the same command again goes on where it
    stopped."""
    weights: str | None = None
    """Name of shipped weights, or a file; default: posewarp-market1501, for made-up people
    posewarp-sample."""
    purpose: Purpose = "training"
    """training: images of the train people; test-time: every query and gallery image in each of the
    eight canonical poses, for 'reid score --centralise', and refused by 'reid train'."""
    per_id: int = 10
    """Images per person; at test time there are eight of every image."""
    poses: Path | None = None
    """Images table whose train rows give the target poses (default: the same table)."""
    root: Path | None = None
    """Where the images lie, if not where the table says."""
    real_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Take sources and poses from this part of the train rows, as 'reid train' does."""
    data_seed: Count = 0
    """Selects that part; the same seed here and in 'reid train' selects the same part."""
    seed: Count = 0
    """Another seed gives other sources and poses."""
    choices: OmitArgPrefixes[Choices] = Choices()
    people: OmitArgPrefixes[NewPeople] = NewPeople()
    device: str = "auto"
    """Where the network runs: auto, cpu, cuda or cuda:N; auto and cuda: with several GPUs, the one
    of the local rank that torchrun or srun gives."""
    precision: Auto | Precision = "auto"
    """Arithmetic of the network; auto: bf16 where the device has it."""
    batch_size: Auto | int = "auto"
    """Images per forward pass; auto: 16 on a CPU, 256 on a GPU."""
    threads: Auto | int = "auto"
    """CPU threads of the network; auto: torch's own choice."""
    compile: Literal["auto", "yes", "no"] = "auto"
    """torch.compile, on a GPU with CUDA graphs; auto: on a GPU, from 5,000,000 images per worker
    on."""
    image_format: ImageFormat = "jpg"
    """How images are stored; a Market-1501 export needs jpg."""
    quality: int = 95
    """JPEG quality, 1 to 100."""
    subsampling: Subsampling = "4:2:0"
    """JPEG colour resolution."""
    rows_per_shard: Auto | int = "auto"
    """Images per file; auto: about a 64th of the job, 512 to 20,480; of a job below 4,096 images an
    eighth, but a batch at least."""
    on_error: Literal["record", "fail"] = "record"
    """record: store the error of an image in its row and go on; fail: stop at the first."""
    worker: str | None = None
    """i/N: make every Nth shard from shard i on (counted from 0); on Slurm and under torchrun this
    is found out."""
    num_workers: int | None = None
    """How many workers share the job, where the environment does not say (Kubernetes)."""
    dry_run: bool = False
    """Print rows, shards, disk and estimated time, and make nothing."""
    retry_failed: bool = False
    """Make the shards that have failed rows again."""
