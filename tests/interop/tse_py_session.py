"""What a shop does with tse.py, in an environment that has tse.py and nothing of fiskal.

Called as ``python tse_py_session.py HOST FOLDER``; prints one JSON object.
"""

import base64
import json
import sys
from datetime import UTC, datetime
from pathlib import Path

from tse import TSERole, TSEState
from tse import exceptions as errors
from tse.epson import TSE


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def refused(error: type[Exception], call, *arguments) -> str:  # type: ignore[no-untyped-def]
    try:
        call(*arguments)
    except error as raised:
        return str(raised)
    raise AssertionError(f"{call} was not refused")


def main(host: str, folder: Path) -> None:
    refused(errors.ConnectionHostnameError, TSE, "local_TSE", "no such name.invalid")
    stranger = TSE("nobody", host)
    refused(errors.TSEOpenError, stranger.open)
    tse = TSE("local_TSE", host)
    refused(errors.TSEError, tse.info)  # it was not opened
    tse.open()
    refused(errors.TSEInUseError, TSE("local_TSE", host).open)
    assert tse.info().state is TSEState.UNINITIALIZED
    assert tse.info().needs_self_test
    refused(errors.TSENeedsSelfTestError, tse.initialize, "123456", "11111", "22222")
    tse.run_self_test()
    tse.initialize("123456", "11111", "22222")
    refused(errors.TSEAlreadyInitializedError, tse.initialize, "123456", "11111", "22222")
    tse.run_self_test()
    refused(errors.TSELoginError, tse.login_user, "Somebody", TSERole.ADMIN, "11111")
    assert "retries: 2" in refused(
        errors.TSELoginError, tse.login_user, "Administrator", TSERole.ADMIN, "99999"
    )
    refused(errors.TSEUnauthenticatedUserError, tse.register_user, "POS001")
    tse.login_user("Administrator", TSERole.ADMIN, "11111")
    tse.register_secret("SECRET78")
    for client in ("POS001", "POS002"):
        tse.register_user(client)
    assert {"POS001", "POS002"} <= set(tse.user_list())
    tse.login_user("POS001", TSERole.TIME_ADMIN, "22222")
    refused(errors.TSETimeNotSetError, tse.start_transaction, "POS001", "", "")
    tse.update_time("POS001", datetime.now(UTC).replace(tzinfo=None))
    numbers = []
    for index in range(5):
        transaction = tse.start_transaction("POS001", "", "")
        numbers.append(transaction.number)
        tse.update_transaction("POS001", transaction, encoded(f"{index}x"), "Bestellung-V1")
        assert tse.started_transaction_list("POS001") == [transaction.number]
        tse.finish_transaction("POS001", transaction, encoded("Beleg^1.00^1.00:Bar"), "Kassenbeleg-V1")
    assert tse.started_transaction_list("") == []
    refused(errors.TSEUnauthenticatedUserError, tse.start_transaction, "POS002", "", "")
    tse.lock(True)
    refused(errors.TSEError, tse.start_transaction, "POS001", "", "")
    tse.lock(False)
    tse.deregister_user("POS002")
    tse.change_pin(TSERole.TIME_ADMIN, "123456", "44444")
    tse.logout_user("POS001", TSERole.TIME_ADMIN)
    tse.login_user("POS001", TSERole.TIME_ADMIN, "44444")
    tse.export(folder / "part.tar", "POS001", transaction=(2, 3))
    tse.export(folder / "whole.tar", "POS001", delete_data=True)
    tse.export(folder / "rest.tar", "POS001")
    tse.disable_secure_element()
    assert tse.info().state is TSEState.DECOMMISSIONED
    tse.close()
    refused(errors.TSEOpenError, tse.close)
    print(json.dumps({"numbers": numbers, "signature": transaction.finish_signature.value}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
