"""The physical limits the middleware is compared with: one durable commit, one signature, one
verification, nothing around.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils


def committer(folder: Path) -> Callable[[], None]:
    """One durable commit of one small row: SQLite in WAL mode with synchronous=FULL."""
    connection = sqlite3.connect(folder / "bare.sqlite", isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE IF NOT EXISTS bare (id INTEGER PRIMARY KEY, text TEXT)")
    text = "x" * 100

    def commit() -> None:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO bare (text) VALUES (?)", (text,))
        connection.execute("COMMIT")

    return commit


def signer() -> Callable[[], bytes]:
    """One P-256 signature over a digest, by the library the software TSE signs with."""
    key = ec.generate_private_key(ec.SECP256R1())
    algorithm = ec.ECDSA(utils.Prehashed(hashes.SHA256()))
    digest = bytes(range(32))
    return lambda: key.sign(digest, algorithm)


def verifier() -> Callable[[], None]:
    """One P-256 verification over a digest, by the same library."""
    key = ec.generate_private_key(ec.SECP256R1())
    algorithm = ec.ECDSA(utils.Prehashed(hashes.SHA256()))
    digest = bytes(range(32))
    signature, public = key.sign(digest, algorithm), key.public_key()
    return lambda: public.verify(signature, digest, algorithm)


def mean(call: Callable[[], object], seconds: float) -> float:
    """Mean seconds per call, calling for about ``seconds``."""
    call()
    count, start = 0, time.perf_counter()
    while True:
        for _ in range(10):
            call()
        count += 10
        elapsed = time.perf_counter() - start
        if elapsed >= seconds:
            return elapsed / count
