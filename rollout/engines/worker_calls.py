"""The calls of a publish to vLLM's workers, and the dictionaries they carry.

vLLM's weight-transfer interface takes JSON, so a Rendezvous and ParameterGroups become dictionaries here, in the
engine, and objects again here, in the workers (receiver.py). Imports nothing of vLLM.
"""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from rollout.engines.backend import EngineBackend
from transfer.transport import Rendezvous
from transfer.wire import ParameterGroup, ParameterMeta


async def connect_workers(backend: EngineBackend, rendezvous: Rendezvous, *, rank_offset: int) -> None:
    """Lets every worker join the transport; waits until all members are there."""
    init_info = {"rendezvous": asdict(rendezvous), "rank_offset": rank_offset}
    await backend.collective_rpc("init_weight_transfer_engine", init_info=init_info)


async def update_workers(
    backend: EngineBackend, groups: Iterable[ParameterGroup], *, verify: bool
) -> tuple[dict[str, str], ...]:
    """Lets every worker receive and load the groups; for each worker the digests by label, empty if not verified."""
    described = [
        {"label": group.label, "parameters": [(m.name, m.dtype_name, list(m.shape)) for m in group.parameters]}
        for group in groups
    ]
    await backend.collective_rpc("start_weight_update")
    update_info = {"groups": described, "verify": verify}
    await backend.collective_rpc("update_weights", update_info=update_info)
    await backend.collective_rpc("finish_weight_update")
    return tuple(await backend.collective_rpc("publish_digests"))


def group_from(described: dict[str, Any]) -> ParameterGroup:
    """The ParameterGroup of one of update_workers' dictionaries."""
    metas = (ParameterMeta(name=n, dtype_name=d, shape=tuple(s)) for n, d, s in described["parameters"])
    return ParameterGroup(label=described["label"], parameters=tuple(metas))
