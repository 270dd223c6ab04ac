"""Probes: whether gRPC servers, as Ray's processes are, answer.

In: addresses. Out: for each whether something answered, after PROBE_TIMEOUT_S at the latest. A connection alone proves
nothing: the kernel accepts it for a process that is stopped. Calls nothing of Ray, which waits for itself.
"""

import asyncio
from collections.abc import Collection

PROBE_TIMEOUT_S = 1.5
# An HTTP/2 client's first bytes, with an empty SETTINGS frame; a gRPC server sends its own SETTINGS at once.
GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))


async def probe(addresses: Collection[str]) -> dict[str, bool]:
    """Whether each address (host:port) answers; all are asked at the same time."""
    answers = await asyncio.gather(*(_answers(address) for address in addresses))
    return dict(zip(addresses, answers, strict=True))


def host_of(address: str) -> str:
    """The host of host:port, without the brackets of IPv6."""
    return address.rpartition(":")[0].strip("[]")


async def _answers(address: str) -> bool:
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(host_of(address), int(address.rpartition(":")[2]))
            try:
                writer.write(GREETING)
                await reader.read(1)  # a server that speaks TLS closes the connection instead, which is an answer too
            finally:
                writer.close()
    except ConnectionResetError:
        return True
    except OSError:
        return False
    return True
