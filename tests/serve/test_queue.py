"""The bounded queue, timeouts and clients that leave: nothing grows and nothing is stuck."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fixtures_serve import Site, SiteMaker, wait_for

from fer_edge.serve.bodies import Budget, Upload
from fer_edge.serve.engine import Engine, Outcome
from fer_edge.serve.problems import RequestError


class Gate:
    """Holds every picture until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened = threading.Event()
        self.begun: list[str] = []
        real = Engine._outcome

        def outcome(engine: Engine, work: Any, picture: Upload, finder: Any) -> Outcome:
            self.begun.append(picture.name)
            assert self.opened.wait(60)
            return real(engine, work, picture, finder)

        monkeypatch.setattr(Engine, "_outcome", outcome)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    made = Gate(monkeypatch)
    yield made
    made.opened.set()


async def until(done: Any) -> None:
    while not done():
        await asyncio.sleep(0.005)


def posted(client: httpx.AsyncClient, content: Any) -> asyncio.Task[httpx.Response]:
    headers = {"content-type": "image/png"}
    return asyncio.create_task(client.post("/v1/predict", content=content, headers=headers))


def test_a_full_queue_answers_503(site_of: SiteMaker, gate: Gate, crop: bytes) -> None:
    site = site_of(queue=1)

    async def work(client: httpx.AsyncClient) -> None:
        waiting = [posted(client, crop) for _ in range(3)]
        await until(lambda: site.engine.pending == 3)
        assert len(gate.begun) == 2  # as many as are worked on at a time
        refused = await posted(client, crop)
        assert refused.status_code == 503
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert "the queue is full" in refused.json()["error"]
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.headers["retry-after"]) == (503, "1")
        assert (await client.get("/healthz")).status_code == 200
        assert "fer_edge_queue_length 3.0" in (await client.get("/metrics")).text
        gate.opened.set()
        assert [(await one).status_code for one in waiting] == [200] * 3
        await until(lambda: site.engine.pending == 0)
        assert (await client.get("/readyz")).status_code == 200
        assert (await posted(client, crop)).status_code == 200

    site.run(work)
    assert site.app.state.budget.held == 0


def test_a_queue_that_fills_while_a_body_comes(site_of: SiteMaker, gate: Gate, crop: bytes) -> None:
    site = site_of(queue=0)

    async def work(client: httpx.AsyncClient) -> None:
        rest = asyncio.Event()

        async def slowly() -> Any:
            yield crop[:50]
            await rest.wait()
            yield crop[50:]

        late = posted(client, slowly())
        await until(lambda: site.app.state.budget.held == 50)
        waiting = [posted(client, crop) for _ in range(2)]
        await until(lambda: site.engine.pending == 2)
        rest.set()
        refused = await late
        assert (refused.status_code, "retry-after" in refused.headers) == (503, True)
        gate.opened.set()
        assert [(await one).status_code for one in waiting] == [200, 200]

    site.run(work)
    gc.collect()  # a coroutine that was never awaited would be a warning, hence an error


def test_an_answer_that_takes_too_long(site_of: SiteMaker, gate: Gate, crop: bytes) -> None:
    site = site_of(timeout_s=0.5)

    async def work(client: httpx.AsyncClient) -> None:
        late = [posted(client, crop) for _ in range(3)]
        answers = [await one for one in late]
        assert [answer.status_code for answer in answers] == [504] * 3
        assert "--timeout" in answers[0].json()["fix"]
        # Its threads still work: the places are free when they have ended.
        await until(lambda: site.engine.pending == 2)
        gate.opened.set()
        await until(lambda: site.engine.pending == 0)
        assert len(gate.begun) == 2  # the third one was never begun

    site.run(work)


def test_retry_after_grows_with_the_queue(site_of: SiteMaker) -> None:
    engine = site_of(queue=0).engine
    engine.pending, engine._mean_s = 50, 0.5
    assert engine._retry_after() == 13
    engine._mean_s = 100.0
    assert engine._retry_after() == 60
    engine.pending = 0


class Client:
    """Plays one request on the application itself, and closes the connection when told."""

    def __init__(self, site: Site, parts: list[bytes], *, complete: bool) -> None:
        self.site = site
        self._messages = [
            {"type": "http.request", "body": part, "more_body": not complete or i < len(parts) - 1}
            for i, part in enumerate(parts)
        ]
        self.left = asyncio.Event()
        self.sent: list[Any] = []

    async def receive(self) -> Any:
        if self._messages:
            return self._messages.pop(0)
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    async def run(self) -> None:
        headers = [(b"host", b"localhost"), (b"content-type", b"image/png")]
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "POST",
            "path": "/v1/predict",
            "raw_path": b"/v1/predict",
            "query_string": b"",
            "root_path": "",
            "scheme": "http",
            "headers": [*headers, (b"transfer-encoding", b"chunked")],
        }
        await self.site.app(scope, self.receive, self.send)


def test_a_client_that_leaves_while_it_waits(site_of: SiteMaker, gate: Gate, crop: bytes) -> None:
    site = site_of()

    async def leave() -> None:
        clients = [Client(site, [crop], complete=True) for _ in range(3)]
        tasks = [asyncio.create_task(client.run()) for client in clients]
        await until(lambda: site.engine.pending == 3)
        for client in clients:
            client.left.set()
        await asyncio.gather(*tasks)
        assert [client.sent for client in clients] == [[], [], []]
        await until(lambda: site.engine.pending == 2)
        gate.opened.set()
        await until(lambda: site.engine.pending == 0)

    asyncio.run(leave())
    assert len(gate.begun) == 2
    assert 'status="499"} 3.0' in site.get("/metrics").text


def test_a_connection_that_is_cut_within_the_body(site_of: SiteMaker, crop: bytes) -> None:
    site = site_of()

    async def cut() -> None:
        client = Client(site, [crop[:50]], complete=False)
        client.left.set()
        await client.run()
        assert client.sent == []

    asyncio.run(cut())
    assert site.app.state.budget.held == 0
    assert site.post(crop).status_code == 200


def test_a_body_that_comes_too_slowly(site_of: SiteMaker, crop: bytes) -> None:
    site = site_of(timeout_s=0.1)

    async def wait() -> int:
        client = Client(site, [crop[:50]], complete=False)
        held: list[int] = []
        site.app.state.budget._changed = held.append
        task = asyncio.create_task(client.run())
        await until(lambda: len(held) == 2)
        assert held == [50, 0]
        client.left.set()
        await task
        return int(client.sent[0]["status"])

    assert asyncio.run(wait()) == 408


def test_the_rest_of_a_files_is_left_out_if_nobody_waits(
    site_of: SiteMaker, gate: Gate, crop: bytes
) -> None:
    site = site_of(timeout_s=0.5)
    files = [("file", (f"{i}.png", crop)) for i in range(5)]
    answer = site.run(lambda client: client.post("/v1/predict", files=files))
    assert answer.status_code == 504
    gate.opened.set()
    site.engine.close()
    assert gate.begun == ["0.png"]


def test_bodies_share_one_budget(site_of: SiteMaker, crop: bytes) -> None:
    budget = Budget(100)
    with budget.share() as one, budget.share() as other:
        one.add(60)
        other.add(40)
        with pytest.raises(RequestError, match="too many pictures in memory") as refused:
            other.add(1)
        assert (refused.value.status, refused.value.retry_after) == (503, 1)
    assert budget.held == 0

    site = site_of()
    site.app.state.budget.most = len(crop) - 1
    answer = site.post(crop)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    site.app.state.budget.most = len(crop)
    assert site.post(crop).status_code == 200


def test_each_thread_has_its_own_detector(
    site_of: SiteMaker, photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = site_of()
    finders = [site.engine._free.get() for _ in range(2)]
    assert finders[0] is not finders[1]
    inside, most = 0, {id(finder): 0 for finder in finders}
    for finder in finders:
        real = finder.detect

        def detect(picture: Any, real: Any = real, finder: Any = finder) -> Any:
            nonlocal inside
            inside += 1
            most[id(finder)] += 1
            wait_for(lambda: inside == 2)  # both are called at the same time
            return real(picture)

        monkeypatch.setattr(finder, "detect", detect)
        site.engine._free.put(finder)

    async def work(client: httpx.AsyncClient) -> list[int]:
        return [(await one).status_code for one in [posted(client, photo) for _ in range(2)]]

    assert site.run(work) == [200, 200]
    assert [*most.values()] == [1, 1]
