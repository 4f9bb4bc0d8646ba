"""Filled stores on both databases, the dashboard in a thread, and one Chromium for all tests of pages."""

from __future__ import annotations

import http.client
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import pages_samples
import pytest
from browser import Browser, NoBrowserError

from swarm.memory.store import Store
from swarm.orchestrator.dashboard import server
from swarm.orchestrator.dashboard.guard import Guard
from swarm.orchestrator.dashboard.site import guarded

REVIEWER = "root <b>"


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A filled store; not to be changed."""
    path = tmp_path_factory.mktemp("pages") / "swarm.db"
    with Store.open(path, create=True) as store:
        pages_samples.fill(store)
    return path


@pytest.fixture
def path(template: Path, tmp_path: Path) -> Path:
    """A filled store of one's own."""
    return Path(shutil.copy(template, tmp_path / "swarm.db"))


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest) -> Iterator[str]:
    """Path or URL of a filled store; not to be changed."""
    if request.param == "sqlite":
        yield str(request.getfixturevalue("template"))
        return
    postgres = request.getfixturevalue("postgres_server")
    url = postgres.create_database()
    with Store.open(url, create=True) as store:
        pages_samples.fill(store)
    yield url
    postgres.drop_database(url)


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    text: str


@dataclass(frozen=True)
class Served:
    """A dashboard that runs."""

    guard: Guard
    port: int

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """The address that enters."""
        return f"{self.origin}/?token={self.guard.token}"

    def ask(
        self, path: str, *, cookie: str | None = None, form: dict[str, str] | None = None, **headers: str
    ) -> Answer:
        """One request with exactly these headers; underscores stand for hyphens."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if cookie is not None:
            sent["Cookie"] = cookie
        body = None
        if form is not None:
            body, sent["Content-Type"] = urlencode(form), "application/x-www-form-urlencoded"
        try:
            connection.request("GET" if form is None else "POST", path, body, sent)
            answer = connection.getresponse()
            return Answer(answer.status, dict(answer.getheaders()), answer.read().decode())
        finally:
            connection.close()

    def enter(self) -> str:
        """The cookie that a browser has after it opened the address."""
        return self.ask(f"/?token={self.guard.token}").headers["set-cookie"].partition(";")[0]

    def get(self, path: str) -> Answer:
        """A page as our own browser gets it."""
        return self.ask(path, cookie=self.enter())


@pytest.fixture(scope="module")
def serve() -> Iterator[Callable[[str], Served]]:
    """Serves stores until the module's tests are over."""
    ends: list[Callable[[], None]] = []

    def start(place: str) -> Served:
        store = Store.open(place, readonly=True)
        listening = server.listen("127.0.0.1", 0)
        port = listening.getsockname()[1]
        guard = guarded(store, lambda: Store.open(place), REVIEWER, "127.0.0.1", port)
        made = server.make(guard)
        thread = threading.Thread(target=made.run, kwargs={"sockets": [listening]})
        thread.start()

        def end() -> None:
            made.should_exit = True
            thread.join(60)
            listening.close()
            store.close()

        ends.append(end)
        return Served(guard, port)

    yield start
    for end in ends:
        end()


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """One browser for all tests; on a machine without one its tests are skipped."""
    try:
        started = Browser()
    except NoBrowserError as error:
        if os.environ.get("SWARM_TEST_BROWSER"):
            raise
        pytest.skip(str(error))
    yield started
    started.close()


@pytest.fixture
def browser(chromium: Browser) -> Browser:
    """The browser as new: a desktop screen in the light, nothing remembered."""
    chromium.driver.get("about:blank")
    chromium.driver.delete_all_cookies()
    chromium.view(1280, dark=False)
    chromium.console()
    return chromium
