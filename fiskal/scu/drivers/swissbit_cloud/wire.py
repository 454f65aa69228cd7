"""The answers of the service, as far as they are known. Numbers may be strings, members may be missing."""

from __future__ import annotations

import msgspec


class Status(msgspec.Struct):
    serialNumber: str
    initializationState: str
    publicKey: str | None = None
    healthState: str | None = None
    signatureAlgorithm: str | None = None
    logTimeFormat: str | None = None
    softwareVersion: str | None = None
    certificateChain: str | None = None
    createdSignatures: int = 0
    maxRegisteredClients: int | None = None
    maxStartedTransactions: int | None = None
    storageCapacity: int | None = None
    storageUsed: int | None = None
    productType: str | None = None


class Signature(msgspec.Struct):
    transactionNumber: int
    signatureCounter: int
    signatureCreationTime: int
    signatureValue: str


class Export(msgspec.Struct):
    id: str
    status: str = ""
    downloadUrl: str | None = None
    errorCode: str | None = None
    errorMessage: str | None = None
