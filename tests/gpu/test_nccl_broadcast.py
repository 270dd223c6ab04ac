"""The publish's broadcast over NCCL between two processes on one GPU.

The number it protects: 0 differing bytes between what rank 0 sent and what rank 1 holds, by digest. Needs NCCL >= 2.30.
"""

import os
from pathlib import Path

import pytest
import torch
from torch.multiprocessing.spawn import spawn

from transfer.communicator import join, serve_store
from transfer.transport import Rendezvous
from transfer.wire import digest

NUM_BYTES = 64 * 2**20


def member(rank: int, port: int, folder: str) -> None:
    os.environ["NCCL_MULTI_RANK_GPU_ENABLE"] = "1"
    device = torch.device("cuda", 0)
    torch.cuda.set_device(device)
    meeting = Rendezvous(backend="nccl", host="127.0.0.1", port=port, world_size=2, timeout_s=60.0)
    transport = join(meeting, rank=rank, device=device)
    generator = torch.Generator(device=device).manual_seed(rank)
    buffer = torch.randint(0, 256, (NUM_BYTES,), dtype=torch.uint8, device=device, generator=generator)
    transport.start(buffer).wait()
    (Path(folder) / str(rank)).write_text(digest(buffer))


@pytest.mark.timeout(180)
def test_rank_1_holds_the_bytes_of_rank_0(tmp_path: Path) -> None:
    store = serve_store("127.0.0.1")
    spawn(member, args=(store.port, str(tmp_path)), nprocs=2)
    assert (tmp_path / "0").read_text() == (tmp_path / "1").read_text()
