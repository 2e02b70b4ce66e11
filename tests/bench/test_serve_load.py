"""The load test sees what it looks for: other errors, wrong answers, memory that grows."""

from __future__ import annotations

import asyncio
from typing import Any

import serve_load
from serve_load import Results


def answer(status: int, body: bytes, *lines: str) -> bytes:
    head = "".join(f"{line}\r\n" for line in (f"Content-Length: {len(body)}", *lines))
    return f"HTTP/1.1 {status} X\r\n{head}\r\n".encode() + body


RIGHT = answer(200, b'{"answers": [{"label": "happy"}]}')
WRONG = answer(200, b'{"answers": [{"label": "sad"}]}')
FULL = answer(503, b"{}", "Retry-After: 2")
CARELESS = answer(503, b"{}")
FAULT = answer(500, b"{}")


def asked(answers: list[bytes]) -> Results:
    """Return what one client saw of a server that gives these answers."""
    left = iter(answers)
    results = Results()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for content in left:
            try:
                await reader.readexactly(3)
            except asyncio.IncompleteReadError:
                break
            writer.write(content)
            await writer.drain()
            if not content:
                break
        writer.close()

    async def run() -> None:
        server: Any = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        await serve_load.client(port, b"ask", ["happy"], iter(range(len(answers))), results)
        server.close()
        await asyncio.sleep(0.01)  # the server's side of the connections ends

    asyncio.run(run())
    return results


def test_a_full_queue_is_no_fault() -> None:
    results = asked([RIGHT, FULL, RIGHT])
    assert dict(results.statuses) == {200: 2, 503: 1}
    assert len(results.seconds) == 2
    assert serve_load.faults(results) == []


def test_everything_else_is() -> None:
    for bad, words in {
        WRONG: "the answer is ['sad']",
        CARELESS: "503",
        FAULT: "500",
        b"": "a connection ended",
    }.items():
        (fault,) = serve_load.faults(asked([RIGHT, bad, RIGHT]))
        assert words in fault
    assert serve_load.faults(asked([FULL])) == ["no request was answered"]


def test_memory_that_grows_is_a_fault() -> None:
    results = Results(seconds=[1.0])
    results.statuses[200] = 1000
    results.memory = [(done, 100 + done / 100) for done in range(0, 1001, 10)]
    assert round(results.growth(), 3) == 0.059
    assert serve_load.faults(results) == ["memory grew by 5.9%"]
    results.memory = [(done, 100.0) for done in range(0, 1001, 10)]
    assert serve_load.faults(results) == []
