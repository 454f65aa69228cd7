"""Where secrets are read from, and that they show themselves to nobody."""

from __future__ import annotations

import copy
import pickle
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from fiskal.errors import ConfigurationError
from fiskal.scu.secrets import MAX_SECRET_BYTES, Secret, is_reference, resolve


def test_texts_and_places(tmp_path: Path) -> None:
    (tmp_path / "pin").write_text("  pin with blanks \n")
    (tmp_path / "windows").write_bytes(b"\xef\xbb\xbfpin\r\n")
    assert resolve("12345", "pin").reveal() == "12345"
    assert resolve("plain:file:x", "pin").reveal() == "file:x"
    assert resolve("${ENV:PIN}", "pin", environ={"PIN": "1"}).reveal() == "1"
    assert resolve("file:pin", "pin", folder=tmp_path).reveal() == "  pin with blanks "
    assert resolve(f"file:{tmp_path / 'windows'}", "pin").reveal() == "pin"
    assert [is_reference(text) for text in ("1", "${ENV:A}", "file:a", "keyring:a/b", "plain:a")] == [
        False,
        True,
        True,
        True,
        False,
    ]


@pytest.mark.parametrize(
    "value",
    [
        "${ENV:MISSING}",
        "${ENV:}",
        "${PIN}",
        "file:missing",
        "file:.",
        "file:empty",
        "file:binary",
        "file:large",
        "",
    ],
)
def test_places_without_a_secret(tmp_path: Path, value: str) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfehush")
    (tmp_path / "large").write_bytes(b"x" * (MAX_SECRET_BYTES + 1))
    with pytest.raises(ConfigurationError, match="admin_pin") as caught:
        resolve(value, "admin_pin", folder=tmp_path, environ={})
    assert "hush" not in str(caught.value)


class Backend(types.ModuleType):
    passwords: dict[tuple[str, str], str] = {("fiskal/tse", "pin"): "4711"}  # noqa: RUF012

    def get_password(self, service: str, user: str) -> str | None:
        if service == "locked":
            raise RuntimeError("the keyring said: hidden-password")
        return self.passwords.get((service, user))


def test_the_keyring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "keyring", Backend("keyring"))
    assert resolve("keyring:fiskal/tse/pin", "pin").reveal() == "4711"
    for place, words in (("fiskal/nobody", "has no password"), ("locked/x", "unlock"), ("x", "SERVICE/USER")):
        with pytest.raises(ConfigurationError, match=words) as caught:
            resolve(f"keyring:{place}", "pin")
        assert "hidden-password" not in str(caught.value)
    monkeypatch.setitem(sys.modules, "keyring", None)
    with pytest.raises(ConfigurationError, match="pip install"):
        resolve("keyring:a/b", "pin")


@pytest.mark.parametrize("show", [str, repr, "{}".format, "{!r:>5}".format, lambda s: f"{[s]}"])
def test_a_secret_does_not_show_itself(show: Any) -> None:
    assert "4711" not in show(Secret("4711"))


def test_a_secret_is_not_written() -> None:
    for write in (pickle.dumps, copy.copy):
        with pytest.raises(TypeError):
            write(Secret("4711"))
    assert Secret("a") == Secret("a") != Secret("b")
    assert len({Secret("a"), Secret("a")}) == 1
    assert not Secret("")
