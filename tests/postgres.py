"""A PostgreSQL of the tests' own, in a folder that goes with them."""

import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from urllib.parse import quote

import psycopg

from tests.e2e.live import wait_until

_USER = "darkroom"


def programs() -> Path | None:
    """The folder of `initdb` and `postgres`: Debian keeps them out of the path."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    initdb = shutil.which("initdb") or (found[-1] if found else None)
    return Path(initdb).parent if initdb else None


class Postgres:
    """A server on a socket in its folder. It refuses to run as root, so it runs as nobody then."""

    def __init__(self, binaries: Path) -> None:
        self._binaries, self._numbers = binaries, itertools.count()
        self.folder = Path(tempfile.mkdtemp(prefix="darkroom-pg-"))
        self._data = self.folder / "data"
        self._as: list[str] = []
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            os.chown(self.folder, nobody.pw_uid, nobody.pw_gid)
            ids = f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}"
            self._as = ["setpriv", *ids, "--clear-groups", "--pdeathsig=KILL"]
        made = ("--auth=trust", "--no-sync", "--no-instructions", "--encoding=UTF8", "--locale=C")
        self._run("initdb", "-D", str(self._data), "-U", _USER, *made)
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start it, and return when it answers."""
        options = ("-h", "", "-k", str(self.folder), "-c", "fsync=off", "-c", "max_connections=60")
        command = [*self._as, str(self._binaries / "postgres"), "-D", str(self._data), *options]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, cwd="/", stdout=log, stderr=log)
        wait_until(self._answers)

    def stop(self) -> None:
        """End it and every connection."""
        if self.process is not None:
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait(30)
            self.process = None

    def close(self) -> None:
        """End it for good."""
        self.stop()
        shutil.rmtree(self.folder)

    def url(self, name: str) -> str:
        """The address of one of its databases."""
        return f"postgresql+psycopg://{_USER}@/{name}?host={quote(str(self.folder), safe='')}"

    def create(self) -> str:
        """The address of a new database."""
        name = f"test_{next(self._numbers)}"
        with self.connect("postgres") as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE template0")  # type: ignore[arg-type]
        return self.url(name)

    def connect(self, name: str) -> "psycopg.Connection[tuple[object, ...]]":
        """A connection of the test's own."""
        return psycopg.connect(
            host=str(self.folder), user=_USER, dbname=name, autocommit=True, connect_timeout=5
        )

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "log").read_text()
        try:
            self.connect("postgres").close()
        except psycopg.OperationalError:
            return False
        return True

    def _run(self, program: str, *arguments: str) -> None:
        command = [*self._as, str(self._binaries / program), *arguments]
        done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
