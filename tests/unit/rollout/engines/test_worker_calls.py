"""What a publish says to vLLM's workers survives JSON, which vLLM demands."""

import asyncio
import json
from typing import Any

from rollout.engines.worker_calls import connect_workers, group_from, update_workers
from transfer.transport import Rendezvous
from transfer.wire import ParameterGroup, ParameterMeta

GROUPS = [
    ParameterGroup(
        label="model.layers.0",
        parameters=(
            ParameterMeta(name="model.layers.0.up.weight", dtype_name="float32", shape=(8, 4)),
            ParameterMeta(name="model.layers.0.norm.weight", dtype_name="bfloat16", shape=(4,)),
        ),
    ),
    ParameterGroup(label="lm_head", parameters=(ParameterMeta(name="lm_head", dtype_name="float32", shape=(2, 4)),)),
]


class Workers:
    """Two workers that note what they are asked, as JSON."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []

    async def collective_rpc(self, method: str, **arguments: Any) -> list[Any]:
        self.calls.append((method, json.loads(json.dumps(arguments))))
        return [{"lm_head": "aa"}, {"lm_head": "bb"}] if method == "publish_digests" else [None, None]


def test_workers_hear_where_to_meet() -> None:
    workers: Any = Workers()
    meeting = Rendezvous(backend="gloo", host="10.0.0.1", port=4000, world_size=3, timeout_s=60.0)
    asyncio.run(connect_workers(workers, meeting, rank_offset=1))
    ((method, arguments),) = workers.calls
    assert (method, arguments["init_info"]["rank_offset"]) == ("init_weight_transfer_engine", 1)
    assert Rendezvous(**arguments["init_info"]["rendezvous"]) == meeting


def test_workers_hear_what_comes_and_answer_with_digests() -> None:
    workers: Any = Workers()
    digests = asyncio.run(update_workers(workers, GROUPS, verify=True))
    assert digests == ({"lm_head": "aa"}, {"lm_head": "bb"})
    steps = ["start_weight_update", "update_weights", "finish_weight_update", "publish_digests"]
    assert [method for method, _ in workers.calls] == steps
    update_info = workers.calls[1][1]["update_info"]
    assert [group_from(described) for described in update_info["groups"]] == GROUPS
    assert update_info["verify"] is True
