"""Random operations, restarts and lost files against a model of a TSE that is a few lines of Python."""

from __future__ import annotations

import logging
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from fiskal.scu.contract import TseStates
from fiskal.scu.driver import Call
from fiskal.scu.errors import TseRejected
from fiskal.scu.software import SoftwareTse
from fiskal.tse.logmessage import parse

CLIENTS = ("A", "B", "C")
DEFAULTS = ("", "", 0)
OPERATIONS = st.one_of(
    st.tuples(st.just("start"), st.sampled_from(CLIENTS)),
    st.tuples(st.sampled_from(["update", "finish"]), st.sampled_from(CLIENTS), st.integers(1, 12)),
    st.tuples(st.sampled_from(["register", "unregister"]), st.sampled_from(CLIENTS)),
    st.tuples(st.sampled_from(["set_time", "reopen", "die", "tear", "lose checkpoint"])),
)


class Model:
    """What a TSE with at most 4 open transactions and 2 clients should know."""

    def __init__(self) -> None:
        self.log: list[str] = ["startAudit", "updateTime", "initialize"]
        self.clients: list[str] = []
        self.open: dict[int, str] = {}
        self.number = 0

    def refuses(self, op: str, client: str, number: int) -> str | None:
        if op in ("start", "update", "finish"):
            if client not in self.clients:
                return "CLIENT_NOT_REGISTERED"
            if op == "start":
                return "TRANSACTION_LIMIT" if len(self.open) >= 4 else None
            return None if number in self.open else "TRANSACTION_NOT_OPEN"
        if op == "register" and client not in self.clients and len(self.clients) >= 2:
            return "CLIENT_LIMIT"
        if op == "unregister" and client in self.clients and client in self.open.values():
            return "CLIENT_HAS_OPEN_TRANSACTIONS"
        return None

    def apply(self, op: str, client: str, number: int) -> None:
        if op == "start":
            self.number += 1
            self.open[self.number] = client
            self.log.append("StartTransaction")
        elif op == "update":
            self.log.append("UpdateTransaction")
        elif op == "finish":
            del self.open[number]
            self.log.append("FinishTransaction")
        elif op == "register" and client not in self.clients:
            self.clients.append(client)
            self.log.append("registerClient")
        elif op == "unregister" and client in self.clients:
            self.clients.remove(client)
            self.log.append("deregisterClient")
        elif op == "set_time":
            self.log.append("updateTime")


def open_driver(folder: Path) -> SoftwareTse:
    return SoftwareTse(folder, max_clients=2, max_open_transactions=4, checkpoint_every=5)


def disturb(driver: SoftwareTse, how: str) -> SoftwareTse:
    """End the process in some way and begin a new one."""
    folder = driver.directory
    if how == "reopen":
        driver.close()
    else:
        driver._resources.close()  # what the system does when a process dies
    if how == "tear":
        with (folder / "messages.log").open("ab") as log:
            log.write(b"FTL1\x50\x01\x00\x00torn")
    elif how == "lose checkpoint":
        (folder / "checkpoint").unlink(missing_ok=True)
    return open_driver(folder)


def execute(driver: SoftwareTse, op: str, client: str, number: int) -> None:
    if op == "start":
        driver.start(Call("start", client, 0, "", b"", "q"), None)
    elif op == "update":
        driver.update(Call("update", client, number, "", b"", "q"), None)
    elif op == "finish":
        driver.finish(Call("finish", client, number, "", b"", "q"), None)
    elif op == "register":
        driver.register(client, None)
    elif op == "unregister":
        driver.unregister(client, None)
    else:
        driver.set_time(None)


@settings(max_examples=60, deadline=None)
@given(st.lists(OPERATIONS, max_size=60))
def test_against_the_model(operations: list[tuple[Any, ...]]) -> None:
    logging.getLogger("fiskal.scu.software").setLevel(logging.CRITICAL)
    folder = Path(tempfile.mkdtemp(prefix="fiskal-model-"))
    model = Model()
    driver = open_driver(folder)
    try:
        driver.set_state(TseStates.INITIALIZED, None)
        for client in ("A", "B"):
            driver.register(client, None)
            model.apply("register", client, 0)
        for operation in operations:
            op, client, number = operation + DEFAULTS[len(operation) :]
            if op in ("reopen", "die", "tear", "lose checkpoint"):
                driver = disturb(driver, op)
            else:
                expected = model.refuses(op, client, number)
                refusal = None
                try:
                    execute(driver, op, client, number)
                except TseRejected as error:
                    refusal = error.code
                else:
                    model.apply(op, client, number)
                assert refusal == expected
            info = driver.info(None)
            assert sorted(info.current_client_ids) == sorted(model.clients)
            assert info.current_started_transaction_numbers == list(model.open)
            assert info.current_number_of_signatures == len(model.log)
        messages = [parse(raw) for _, raw in driver.messages()]
        assert [message.operation for message in messages] == model.log
        assert [message.signature_counter for message in messages] == list(range(1, len(model.log) + 1))
        assert all(message.verify(driver.chain.public_key) for message in messages)
    finally:
        driver.close()
        logging.getLogger("fiskal.scu.software").setLevel(logging.NOTSET)
        shutil.rmtree(folder)
