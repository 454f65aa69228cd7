"""The TCP transport against peers that do what peers do: answer late, in pieces, twice, half, or not at all."""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fiskal.scu.contract import Deadline
from fiskal.scu.transports import Garbled, NoAnswer, NotSent, Silence
from fiskal.scu.transports.tcp import TcpTransport, client_context

Script = Callable[[socket.socket, int], None]
"""What the peer does with a connection, and which one it is from 0."""


def complete(received: bytes | bytearray | memoryview) -> int:
    """Frames end with a NUL; one that begins with "?" can never become an answer."""
    if bytes(received[:1]) == b"?":
        raise Garbled("noise")
    return bytes(received).find(b"\0") + 1


def answer(connection: socket.socket) -> bytes:
    """Receive one frame."""
    received = b""
    while not received.endswith(b"\0"):
        some = connection.recv(4096)
        if not some:
            return b""
        received += some
    return received


def echo(connection: socket.socket, _: int) -> None:
    while frame := answer(connection):
        connection.sendall(frame)


class Peer:
    """A server with a script for every connection, one after another."""

    def __init__(self, script: Script, context: ssl.SSLContext | None = None) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.script = script
        self.context = context
        self.accepted = 0
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            number, self.accepted = self.accepted, self.accepted + 1
            try:
                connection.settimeout(5)
                if self.context is not None:
                    connection = self.context.wrap_socket(connection, server_side=True)
                self.script(connection, number)
            except OSError:
                pass
            finally:
                connection.close()

    def close(self) -> None:
        socket.socket.shutdown(self.listener, socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join()


class Identity:
    """A key with a certificate for 127.0.0.1, signed by itself as those of devices are."""

    def __init__(self, folder: Path) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
        moment = datetime.datetime.now(datetime.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(1)
            .not_valid_before(moment - datetime.timedelta(days=1))
            .not_valid_after(moment + datetime.timedelta(days=1))
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
                critical=False,
            )
            .sign(key, hashes.SHA256())
        )
        self.file = folder / "device.pem"
        pem = certificate.public_bytes(serialization.Encoding.PEM)
        self.file.write_bytes(
            pem
            + key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        self.fingerprint = hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).digest()
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(self.file)


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    return Identity(tmp_path_factory.mktemp("identity"))


Connect = Callable[..., tuple[Peer, TcpTransport]]


@pytest.fixture(params=["plain", "tls"])
def connect(request: pytest.FixtureRequest, identity: Identity) -> Iterator[Connect]:
    """Starts a peer with a script and makes a transport to it."""
    made: list[tuple[Peer, TcpTransport]] = []

    def make(script: Script, **options: object) -> tuple[Peer, TcpTransport]:
        peer = Peer(script, identity.context if request.param == "tls" else None)
        if request.param == "tls":
            options.setdefault("tls", client_context(identity.file))
        made.append((peer, TcpTransport("127.0.0.1", peer.port, complete, **options)))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for peer, transport in made:
        transport.close()
        peer.close()


def test_one_connection_serves_many_calls(connect: Connect) -> None:
    peer, transport = connect(echo)
    for index in range(20):
        frame = b"%d" % index * 1000 + b"\0"
        assert transport.call(frame, Deadline(5)) == frame
    assert (peer.accepted, transport.connections) == (1, 1)


def test_an_answer_may_come_in_single_bytes(connect: Connect) -> None:
    def dribble(connection: socket.socket, _: int) -> None:
        for byte in answer(connection):
            connection.sendall(bytes([byte]))

    _, transport = connect(dribble)
    assert transport.call("Grüße\0".encode(), Deadline(5)) == "Grüße\0".encode()


def test_every_byte_counts_against_the_deadline(connect: Connect) -> None:
    def trickle(connection: socket.socket, _: int) -> None:
        answer(connection)
        for _ in range(40):
            connection.sendall(b"x")
            time.sleep(0.05)

    _, transport = connect(trickle)
    with pytest.raises(NoAnswer, match="in time"):
        transport.call(b"a\0", Deadline(0.3))
    assert not transport.connected


def test_silence_ends_with_the_deadline_and_a_late_answer_is_never_taken(connect: Connect) -> None:
    def late(connection: socket.socket, number: int) -> None:
        while frame := answer(connection):
            if number == 0:
                time.sleep(0.2)
            connection.sendall(frame)

    peer, transport = connect(late)
    with pytest.raises(NoAnswer):
        transport.call(b"first\0", Deadline(0.1))
    time.sleep(0.2)
    assert transport.call(b"second\0", Deadline(5)) == b"second\0"
    assert (peer.accepted, transport.connections) == (2, 2)


def test_a_call_without_a_deadline_has_one_all_the_same(connect: Connect) -> None:
    _, transport = connect(lambda connection, _: time.sleep(0.3), answer_timeout_s=0.05)
    with pytest.raises(NoAnswer):
        transport.call(b"a\0", None)


def test_a_passed_deadline_sends_nothing(connect: Connect) -> None:
    peer, transport = connect(echo)
    with pytest.raises(NotSent):
        transport.call(b"a\0", Deadline(0))
    assert peer.accepted == 0


def test_what_was_said_unasked_is_thrown_away(connect: Connect) -> None:
    def chatty(connection: socket.socket, _: int) -> None:
        while frame := answer(connection):
            connection.sendall(frame + b"and\0another")

    _, transport = connect(chatty)
    for text in (b"one\0", b"two\0", b"three\0"):
        assert transport.call(text, Deadline(5)) == text
        time.sleep(0.02)


def test_a_connection_that_was_closed_meanwhile_is_made_again_before_sending(connect: Connect) -> None:
    def once(connection: socket.socket, _: int) -> None:
        connection.sendall(answer(connection))

    peer, transport = connect(once)
    for text in (b"one\0", b"two\0", b"three\0"):
        assert transport.call(text, Deadline(5)) == text
        time.sleep(0.05)
    assert (peer.accepted, transport.connections) == (3, 3)


@pytest.mark.parametrize("said", [b"", b"half an ans"])
def test_a_connection_that_breaks_after_the_frame_leaves_the_outcome_open(
    connect: Connect, said: bytes
) -> None:
    def breaks(connection: socket.socket, number: int) -> None:
        if number:
            echo(connection, number)
            return
        answer(connection)
        connection.sendall(said)

    _, transport = connect(breaks)
    with pytest.raises(NoAnswer, match=f"{len(said)} bytes came"):
        transport.call(b"a\0", Deadline(5))
    assert transport.call(b"b\0", Deadline(5)) == b"b\0"


def test_a_reset_leaves_the_outcome_open(connect: Connect) -> None:
    def resets(connection: socket.socket, _: int) -> None:
        answer(connection)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    _, transport = connect(resets)
    with pytest.raises(NoAnswer):
        transport.call(b"a\0", Deadline(5))


def test_an_answer_is_bounded(connect: Connect) -> None:
    def endless(connection: socket.socket, _: int) -> None:
        answer(connection)
        while True:
            connection.sendall(b"x" * 4096)

    _, transport = connect(endless, max_answer_bytes=10_000)
    with pytest.raises(Garbled, match="at most 10000"):
        transport.call(b"a\0", Deadline(5))
    assert not transport.connected


def test_a_flood_between_two_calls_is_not_read_to_its_end(connect: Connect) -> None:
    flooding = threading.Event()

    def flood(connection: socket.socket, number: int) -> None:
        connection.sendall(answer(connection))
        if number:
            return
        connection.sendall(b"x" * 200_000)
        flooding.set()
        answer(connection)

    _, transport = connect(flood, max_answer_bytes=1000)
    assert transport.call(b"a\0", Deadline(5)) == b"a\0"
    flooding.wait(5)
    assert transport.call(b"b\0", Deadline(5)) == b"b\0"
    assert transport.connections == 2


def test_what_can_never_become_an_answer_ends_the_connection(connect: Connect) -> None:
    def noise(connection: socket.socket, _: int) -> None:
        answer(connection)
        connection.sendall(b"?")
        answer(connection)

    _, transport = connect(noise)
    with pytest.raises(Garbled, match="noise"):
        transport.call(b"a\0", Deadline(5))
    assert not transport.connected


def greet(connection: socket.socket, number: int) -> None:
    connection.sendall(b"hello %d\0unasked\0" % number)
    echo(connection, number)


def test_a_greeting_is_kept_and_what_follows_it_is_not_the_answer(connect: Connect) -> None:
    _, transport = connect(greet, greeting=complete)
    transport.connect(Deadline(5))
    assert (transport.greeted, transport.connections) == (b"hello 0\0", 1)
    assert transport.call(b"a\0", Deadline(5)) == b"a\0"
    transport.disconnect()
    assert transport.call(b"b\0", Deadline(5)) == b"b\0"
    assert (transport.greeted, transport.connections) == (b"hello 1\0", 2)


@pytest.mark.parametrize("said", [b"", b"hel", b"?"])
def test_without_a_greeting_nothing_is_sent(connect: Connect, said: bytes) -> None:
    def mute(connection: socket.socket, _: int) -> None:
        connection.sendall(said)
        answer(connection)

    _, transport = connect(mute, greeting=complete, connect_timeout_s=0.3)
    with pytest.raises(NotSent, match="did not greet"):
        transport.call(b"a\0", Deadline(5))
    assert (transport.connected, transport.connections) == (False, 0)


def test_a_peer_that_is_not_there_is_not_sent_to() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    transport = TcpTransport("127.0.0.1", port, complete)
    with pytest.raises(NotSent, match=r"cannot be reached.*Check host"):
        transport.call(b"a\0", Deadline(5))
    with pytest.raises(NotSent, match="cannot be looked up"):
        TcpTransport("no such name.invalid", 1, complete).call(b"a\0", Deadline(5))


def test_a_peer_that_takes_no_bytes_leaves_the_outcome_open(connect: Connect) -> None:
    _, transport = connect(lambda connection, _: time.sleep(0.6))
    with pytest.raises(NoAnswer, match="Only a part"):
        transport.call(b"x" * (64 << 20), Deadline(0.4))


def test_closing_ends_a_call_of_another_thread(connect: Connect) -> None:
    asked = threading.Event()

    def mute(connection: socket.socket, _: int) -> None:
        answer(connection)
        asked.set()
        answer(connection)

    _, transport = connect(mute)
    errors: list[Exception] = []

    def run() -> None:
        try:
            transport.call(b"a\0", Deadline(30))
        except NoAnswer as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    assert asked.wait(5)
    transport.close()
    thread.join(5)
    assert errors
    assert not transport.connected
    with pytest.raises(NotSent, match="has been closed"):
        transport.call(b"b\0", Deadline(5))


# ---- whom one talks to ----------------------------------------------------------------------------


@pytest.fixture
def tls_peer(identity: Identity) -> Iterator[Peer]:
    peer = Peer(echo, identity.context)
    yield peer
    peer.close()


def test_a_certificate_nobody_vouches_for_is_refused(tls_peer: Peer) -> None:
    transport = TcpTransport("127.0.0.1", tls_peer.port, complete, tls=client_context())
    with pytest.raises(NotSent, match=r"do not agree on TLS.*fingerprint"):
        transport.call(b"a\0", Deadline(5))


def test_a_certificate_may_be_known_by_its_fingerprint(tls_peer: Peer, identity: Identity) -> None:
    options = {"tls": client_context(verify=False), "fingerprint": identity.fingerprint}
    transport = TcpTransport("127.0.0.1", tls_peer.port, complete, **options)  # type: ignore[arg-type]
    assert transport.call(b"a\0", Deadline(5)) == b"a\0"
    transport.close()
    options["fingerprint"] = bytes(32)
    other = TcpTransport("127.0.0.1", tls_peer.port, complete, **options)  # type: ignore[arg-type]
    with pytest.raises(NotSent, match=identity.fingerprint.hex()):
        other.call(b"a\0", Deadline(5))


def test_a_plain_peer_is_no_tls_peer() -> None:
    peer = Peer(lambda connection, _: connection.sendall(b"hello\0"))
    transport = TcpTransport("127.0.0.1", peer.port, complete, tls=client_context(verify=False))
    with pytest.raises(NotSent, match="TLS"):
        transport.call(b"a\0", Deadline(5))
    transport.close()
    peer.close()


def test_a_silence_may_keep_the_connection() -> None:
    """For protocols that tell answers apart by their ids, and ask on the same connection what happened."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        for keep in (True, False):
            transport = TcpTransport(
                "127.0.0.1", server.getsockname()[1], lambda received: 0, keep_when_silent=keep
            )
            with pytest.raises(Silence):
                transport.call(b"ask", Deadline(0.05))
            assert transport.connected is keep
            transport.close()
