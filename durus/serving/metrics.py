"""The numbers of a server for Prometheus, over HTTP, from threads of their own. Statement CMD-27.

This module needs prometheus-client, which is in the extra durus[metrics].
"""

import logging
import socket
import socketserver
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from durus import __version__
from durus.serving.counts import BOUNDS, Histogram, Measures
from durus.sharing.address import HostPortAddress

_logger = logging.getLogger("durus")

_MAX_REQUESTS = 8
"""How many requests are answered at the same time; further ones are closed."""
_SECONDS_FOR_A_REQUEST = 5.0
"""How long a request may pause."""


Measure = Callable[[], Measures | None]
"""Returns the numbers, or None if the server does not answer."""


class ServerCollector(Collector):
    """Makes metrics of what a server counts, each time when it is asked."""

    def __init__(self, measure: Measure) -> None:
        self._measure = measure

    def describe(self) -> Iterable[Metric]:
        return ()  # so that nothing is measured when this is registered

    def collect(self) -> Iterator[Metric]:
        measures = self._measure()
        yield GaugeMetricFamily("durus_up", "1 if the server's event loop answers", measures is not None)
        if measures is not None:
            yield from _counters(measures)
            yield from _gauges(measures)
            counts = measures.counts
            yield _histogram("commit", "From the last byte of a commit until it was durable", counts.commit_seconds)
            yield _histogram("write", "Writes to the disk with their sync", counts.write_seconds)


def _counters(measures: Measures) -> Iterator[Metric]:
    counts, traffic = measures.counts, measures.traffic
    for name, value, text in (
        ("commits", counts.commits, "Durable commits"),
        ("committed_objects", counts.committed_objects, "Objects in these commits"),
        ("committed_bytes", counts.committed_bytes, "Bytes of their records"),
        ("conflicts", counts.conflicts, "Commits that were refused because of a conflict"),
        ("commits_given_up", counts.given_up, "Commits that clients have given up in their turn"),
        ("write_failures", counts.failed_writes, "Writes to the disk that failed"),
        ("file_copies", counts.copies, "How often a client was sent the file up to its end"),
        ("refused", counts.refused, "Connections and requests that were refused because of a limit"),
        ("connections", counts.connections, "Connections, with those that have ended"),
        ("loads", traffic.loads, "Records that clients asked for"),
        ("received_bytes", traffic.received, "Bytes from clients"),
        ("sent_bytes", traffic.sent, "Bytes to clients"),
    ):
        yield CounterMetricFamily(f"durus_{name}", text, value)


def _gauges(measures: Measures) -> Iterator[Metric]:
    yield GaugeMetricFamily("durus_uptime_seconds", "Time since the server started", measures.uptime)
    yield GaugeMetricFamily("durus_clients", "Open connections", measures.clients)
    yield GaugeMetricFamily("durus_snapshots", "Clients that hold a snapshot", measures.snapshots)
    yield GaugeMetricFamily("durus_pack_running", "1 during a pack", measures.is_packing)
    yield GaugeMetricFamily("durus_bytes_since_pack", "Committed since the last pack", measures.bytes_since_pack)
    if measures.size is not None:
        yield GaugeMetricFamily("durus_file_bytes", "Size of the file", measures.size)
    if measures.garbage is not None:
        yield GaugeMetricFamily("durus_garbage_bytes", "About how much a pack would remove", measures.garbage)
    pack = measures.counts.last_pack
    if pack is not None and measures.seconds_since_pack is not None:
        yield GaugeMetricFamily("durus_last_pack_age_seconds", "Since its end", measures.seconds_since_pack)
        yield GaugeMetricFamily("durus_last_pack_duration_seconds", "How long it took", pack.seconds)
        yield GaugeMetricFamily("durus_last_pack_failed", "1 if it failed", pack.error is not None)
        if pack.freed is not None:
            yield GaugeMetricFamily("durus_last_pack_freed_bytes", "By how much the file is shorter", pack.freed)
    info = GaugeMetricFamily("durus_info", "The version of the server", labels=["version"])
    info.add_metric([__version__], 1)
    yield info


def _histogram(name: str, text: str, histogram: Histogram) -> Metric:
    total = 0
    buckets: list[tuple[str, float]] = []
    for bound, number in zip([*map(str, BOUNDS), "+Inf"], histogram.buckets, strict=True):
        total += number
        buckets.append((bound, total))
    return HistogramMetricFamily(f"durus_{name}_seconds", text, buckets=buckets, sum_value=histogram.total)


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def __init__(self, listening: socket.socket) -> None:
        host, port = listening.getsockname()[:2]
        super().__init__((host, port), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listening
        self.server_name, self.server_port = host, port  # server_bind() would ask the name service for the host
        self.setup_environ()
        self._places = threading.BoundedSemaphore(_MAX_REQUESTS)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client has gone, or is too slow


class _Handler(WSGIRequestHandler):
    timeout = _SECONDS_FOR_A_REQUEST

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving_metrics(
    address: HostPortAddress, measure: Measure, listening: socket.socket | None = None
) -> Iterator[int]:
    """Answer each request of HTTP with the numbers, in threads; yield the port.

    Args:
        address: where to listen; port 0 is any free one.
        measure: returns the numbers; it is called in other threads.
        listening: the socket of the address, if it listens already; it is closed at the end.

    Raises:
        AddressError: it is not possible to listen there.
    """
    registry = CollectorRegistry()
    registry.register(ServerCollector(measure))
    if listening is None:
        listening = address.get_listening_socket()
    listening.setblocking(False)  # a client may have gone before it is accepted
    server = _Server(listening)
    server.set_app(make_wsgi_app(registry))
    if not address.is_local:
        _logger.warning("the metrics on %s can be read from other machines", address)
    _logger.info("metrics on http://%s/metrics", address)
    thread = threading.Thread(target=server.serve_forever, name="durus-metrics", daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
