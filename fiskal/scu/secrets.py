"""Secrets of a configuration: where they are read from, and how they are kept out of everything that is written.

An option that holds a secret may be the secret itself, or say where it is:

====================  =================================================================
``${ENV:NAME}``       the environment variable ``NAME``
``file:PATH``         the content of a file, without the end of its last line
``keyring:SVC/USER``  the operating system's keyring (needs ``pip install 'fiskal[keyring]'``)
====================  =================================================================

A secret that begins with one of these words itself is written as ``plain:...``.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from fiskal.errors import ConfigurationError

MAX_SECRET_BYTES: Final = 64 << 10
_ENV: Final = re.compile(r"\$\{ENV:([A-Za-z_][A-Za-z0-9_]*)\}")


class Secret:
    """A text that shows itself to nobody but who asks: :meth:`reveal`."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("a secret is not written anywhere")


def is_reference(value: str) -> bool:
    """Whether an option says where its secret is instead of being it."""
    return bool(_ENV.fullmatch(value)) or value.startswith(("file:", "keyring:"))


def resolve(
    value: str, option: str, *, folder: Path | None = None, environ: Mapping[str, str] = os.environ
) -> Secret:
    """The secret that the value of ``option`` is or points to; a relative ``file:`` is looked for in ``folder``.

    Raises ConfigurationError, which names the option and the place but never what was found there.
    """
    found = _ENV.fullmatch(value)
    if found:
        if found[1] not in environ:
            raise ConfigurationError(
                f"{option}: the environment variable {found[1]} is not set; set it where fiskal is started."
            )
        text = environ[found[1]]
    elif value.startswith("file:"):
        text = _from_file(Path(value.removeprefix("file:")), option, folder)
    elif value.startswith("keyring:"):
        text = _from_keyring(value.removeprefix("keyring:"), option)
    elif value.startswith("${"):
        raise ConfigurationError(f"{option}: what begins with ${{ must be ${{ENV:NAME}}.")
    else:
        text = value.removeprefix("plain:")
    if not text:
        raise ConfigurationError(f"{option} is empty where it was looked for.")
    return Secret(text)


def _from_file(path: Path, option: str, folder: Path | None) -> str:
    path = path.expanduser()
    if not path.is_absolute() and folder is not None:
        path = folder / path
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SECRET_BYTES + 1)
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise ConfigurationError(f"{option}: {path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError:
        raise ConfigurationError(f"{option}: {path} is no UTF-8 text.") from None
    if len(data) > MAX_SECRET_BYTES:
        raise ConfigurationError(f"{option}: {path} has more than {MAX_SECRET_BYTES} bytes and is no secret.")
    return text.removesuffix("\n").removesuffix("\r")


def _from_keyring(place: str, option: str) -> str:
    service, slash, user = place.rpartition("/")
    if not slash or not service or not user:
        raise ConfigurationError(f"{option} must be keyring:SERVICE/USER.")
    try:
        keyring = importlib.import_module("keyring")
    except ImportError as error:
        raise ConfigurationError(f"{option} is in a keyring: pip install 'fiskal[keyring]'.") from error
    try:
        text = keyring.get_password(service, user)
    except Exception as error:  # every backend has errors of its own, and their texts may say too much
        raise ConfigurationError(
            f"{option}: the keyring cannot be read ({type(error).__name__}); unlock it for the user of fiskal."
        ) from None
    if text is None:
        raise ConfigurationError(
            f"{option}: the keyring has no password of {user!r} for {service!r}: keyring set {service} {user}."
        )
    return str(text)
