"""What an Epson simulator can be told to do wrong, and how long its commands take."""

from __future__ import annotations

from typing import Final

from fiskal.scu.service_time import LogNormal, ServiceTime

_SIGNATURE: Final = LogNormal(mean_ms=250, cv=0.15, max_ms=2000)
_LOG_IN: Final = LogNormal(mean_ms=300, cv=0.15, max_ms=2000)
_ADMINISTRATION: Final = 300.0

MESSAGES: Final = ("connect", "open_device", "close_device", "reconnect", "disconnect")
"""What is no function of a TSE: its commands take no time."""

SERVICE_TIMES: Final[dict[str, ServiceTime]] = {
    **dict.fromkeys(MESSAGES, 0),
    "GetStorageInfo": 60,
    "SetUp": 15_000,
    "SetUpForPrinter": 1_000,
    "RunTSESelfTest": 40_000,
    "RegisterSecretKey": _ADMINISTRATION,
    "UpdateTime": _SIGNATURE,
    "UpdateTimeForFirst": _SIGNATURE,
    "RegisterClient": _ADMINISTRATION,
    "DeregisterClient": _ADMINISTRATION,
    "GetRegisteredClientList": 60,
    "LockTSE": _ADMINISTRATION,
    "UnlockTSE": _ADMINISTRATION,
    "EnableExportIfCspTestFails": _ADMINISTRATION,
    "DisableExportIfCspTestFails": _ADMINISTRATION,
    "DisableSecureElement": 1_000,
    "GetChallenge": 30,
    "AuthenticateUserForAdmin": _LOG_IN,
    "AuthenticateUserForTimeAdmin": _LOG_IN,
    "LogOutForAdmin": _LOG_IN,
    "LogOutForTimeAdmin": _LOG_IN,
    "AuthenticateHost": 30,
    "DeauthenticateHost": 30,
    "UnblockUserForAdmin": _ADMINISTRATION,
    "UnblockUserForTimeAdmin": _ADMINISTRATION,
    "GetAuthenticatedUserList": 30,
    "StartTransaction": _SIGNATURE,
    "UpdateTransaction": _SIGNATURE,
    "FinishTransaction": _SIGNATURE,
    "GetStartedTransactionList": 60,
    "GetLastTransactionResponse": 60,
    "ArchiveExport": 200,
    "ExportFilteredByTransactionNumber": 200,
    "ExportFilteredByTransactionNumberInterval": 200,
    "ExportFilteredByPeriodOfTime": 200,
    "GetExportData": 30,
    "FinalizeExport": _ADMINISTRATION,
    "CancelExport": 60,
    "GetLogMessageCertificate": 60,
    "FactoryReset": 30_000,
}
"""Milliseconds by command; what none of these sources of the protocol says is taken from other TSEs of its kind."""

BEFORE: Final = {
    "refuse": "the connection is reset before anything is said",
    "no_greeting": "nothing is said after a connection was made",
    "in_use": "open_device: the device is used by somebody else",
    "busy": "the device is busy with another operation; nothing is executed",
    "drop_before": "the connection is closed; nothing is executed",
    "error": "the device answers the code `value` in place of executing",
    "envelope_error": "the host answers the code `value` with success=false; nothing is executed",
    "message_error": "the host answers an <error> with the code `value`; nothing is executed",
    "silence_before": "nothing is executed or answered, the connection stays",
}
"""Faults in place of the command."""

AFTER: Final = {
    "env_timeout": "the command is executed, the host answers ERROR_TIMEOUT",
    "drop_after": "the command is executed, the connection is closed without an answer",
    "drop_mid": "the command is executed, the connection is closed in the middle of the answer",
    "rst": "the command is executed, the connection is reset",
    "silence": "the command is executed and never answered, the connection stays",
    "delay": "the command is executed, the answer comes `value` milliseconds later",
    "split": "the answer comes in pieces of `value` bytes (1), each in a segment of its own",
    "coalesce": "another message follows the answer in the same segment",
    "quote_noise": "blanks and quotation marks stand around the answer",
    "garbage_xml": "the command is executed, the answer is no XML",
    "bad_json": "the command is executed, the answer holds no JSON",
    "missing_resultdata": "the command is executed, the answer holds nothing",
    "bad_base64": "the command is executed, what should be base64 in the answer is none",
    "wrong_function": "the command is executed, the answer is that of another function",
    "other_device": "the command is executed, the answer is that of another device",
    "old_answer": "the command is executed, the answer is the one before",
    "stale_owner": "the connection is closed after the answer; the device stays its own for `value` seconds (2)",
}
"""Faults of the answer."""

DEVICE: Final = {
    "wrong_pin": "the PIN of this command counts as a wrong one",
    "pin_blocked": "the PIN of this command is blocked",
    "wrong_secret": "the shared secret of this command counts as a wrong one",
    "idle_logout": "everybody is logged out before the command",
    "power_cycle": "the device loses its power before the command",
    "power_cycle_after": "the command is executed, then the device loses its power, and so the answer",
    "self_test_expired": "a self test is due before the command",
    "self_test_fail": "the self test of this command fails in `value`: FW, CSP or RNG",
    "foreign_host": "the device is one that another host has set up; it needs a self test",
    "time_unset": "the device forgets the time before the command",
    "store_full": "the memory is full",
    "sig_exhausted": "the signatures are used up",
    "cert_expired": "the certificate has expired",
    "max_tx": "too many transactions are open",
    "max_clients": "too many clients are registered",
    "export_retry": "GetExportData has no new data yet",
    "export_empty": "GetExportData has no data at all",
    "export_stuck": "somebody else has begun an export before the command",
    "export_shifts": "an export that is begun now differs from the one before in its first bytes",
    "odd_chunks": "pieces of the export are cut within a group of base64, from this command on",
    "unplug": "the device is pulled out, until `plug`",
    "plug": "the device is put in again",
}
"""Faults of the device itself."""

FAULTS: Final = BEFORE | AFTER | DEVICE
