"""Benchmark of a publish against a bare gloo broadcast of the same bytes, gigabytes/s of each.

There are two figures: one for the whole publish (pausing, packing, digests on both sides, loading into vLLM, resuming),
and one for the transfer in it (gather, pack, digest and broadcast until the last byte has arrived). The peer broadcasts
one buffer.
"""

import time
from itertools import count
from tempfile import TemporaryDirectory

import ray

from benchmarks.pairs import PairedRate, measure_pairs
from benchmarks.parts import peer_process, running_parts, save_model
from rollout.tasks.embedded_model import EmbeddedRecipe
from transfer.communicator import join, serve_store
from transfer.transport import Rendezvous

TARGET = 0.8


class BarePeer:
    """One of two processes that hold a gloo group and a buffer."""

    def connect(self, rendezvous: Rendezvous, rank: int, num_bytes: int) -> None:
        import torch

        self._transport = join(rendezvous, rank=rank, device=torch.device("cpu"))
        self._buffer = torch.ones(num_bytes, dtype=torch.uint8)

    def broadcast(self) -> float:
        """Seconds of one broadcast of the whole buffer."""
        started = time.perf_counter()
        self._transport.start(self._buffer).wait()
        return time.perf_counter() - started


def benchmark_publish(*, repeats: int) -> list[PairedRate]:
    """Measures one learner rank to one engine and one process to another in turn, with a model of 101 MB."""
    with TemporaryDirectory() as folder:
        # 25 million parameters, so that bytes take more time than calls
        model_path = save_model(folder, EmbeddedRecipe(hidden_size=512, num_layers=8, intermediate_size=1536))
        with running_parts(model_path=model_path) as parts:
            num_bytes = parts.channel.publish(1).num_bytes
            store = serve_store(ray.util.get_node_ip_address())
            rendezvous = Rendezvous(backend="gloo", host=store.host, port=store.port, world_size=2, timeout_s=60.0)
            pair = [peer_process(BarePeer).remote() for _ in range(2)]
            ray.get([actor.connect.remote(rendezvous, rank, num_bytes) for rank, actor in enumerate(pair)])
            versions = count(2)
            transfers: list[float] = []

            def ours() -> float:
                report = parts.channel.publish(next(versions))
                transfers.append(num_bytes / report.send_s / 1e9)
                return num_bytes / report.publish_s / 1e9

            def bare() -> float:
                return num_bytes / max(ray.get([actor.broadcast.remote() for actor in pair])) / 1e9

            rates, peers = measure_pairs(ours, bare, repeats=repeats)
            for actor in pair:
                ray.kill(actor)
    return [
        PairedRate(name=name, peer="bare gloo broadcast", unit="GB/s", ours=own, peers=peers, target=TARGET)
        for name, own in (("publish, whole", rates), ("publish, transfer", tuple(transfers[-repeats:])))
    ]
