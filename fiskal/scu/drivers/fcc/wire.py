"""The answers of the connector and of servers that speak like it. Numbers may be strings, members may be null."""

from __future__ import annotations

import msgspec


class Fault(msgspec.Struct):
    errorType: str | None = None
    code: str | None = None
    message: str | None = None
    error_description: str | None = None
    error: str | None = None


class Token(msgspec.Struct):
    access_token: str
    expires_in: float = 300.0


class Started(msgspec.Struct):
    transactionNumber: int
    signatureCounter: int
    signatureValue: str
    logTime: str
    serialNumber: str = ""


class Continued(msgspec.Struct):
    signatureCounter: int | None = None
    signatureValue: str | None = None
    logTime: str | None = None


class OpenOne(msgspec.Struct):
    transactionNumber: int


class OpenList(msgspec.Struct):
    openTransactions: list[OpenOne]


class Client(msgspec.Struct):
    clientId: str


class Info(msgspec.Struct):
    maxNumberClients: int | None = None
    maxNumberTransactions: int | None = None


class KeyInfo(msgspec.Struct):
    state: str = ""
    lastSignatureCounter: int | None = None


class SelfCheck(msgspec.Struct):
    fccVersion: str | None = None
    localClientVersion: str | None = None
    remoteCspVersion: str | None = None
    keyInfos: list[KeyInfo] = []


class Details(msgspec.Struct):
    algorithm: str | None = None
    timeFormat: str | None = None
    signingTimeFormat: str | None = None
    leafCertificate: str = ""
    publicKey: str | None = None
    serialNumberHex: str | None = None
    serial: str | None = None
    serialNumber: str | None = None


class Transaction(msgspec.Struct):
    """The body of a transaction call."""

    clientId: str
    processType: str
    processData: str
