"""A directory like that of an FCC that was unpacked: scripts and a stub instead of Java that records how it is called.

Called to initialise, the stub leaves what an initialisation leaves; called to start, it becomes the simulator.
"""

from __future__ import annotations

import shlex
import sys
import zipfile
from pathlib import Path

_STUB = """#!/bin/sh
# Records its arguments, then does what the connector would do.
printf '%s\\n' "$*" >> {record}
case "$*" in
*InitializationCLIApplication*|*UpdateCLIApplication*)
  if [ -e {folder}/hang ]; then sleep 600; fi
  if [ -e {folder}/fail ]; then exit 1; fi
  mkdir -p {folder}/.fccdata/db
  printf '%s' {version} > {folder}/.fccdata/fcc-version.dat
  ;;
*)
  if [ -e {folder}/exit ]; then exit 3; fi
  exec {python} -m fiskal.simulators.fcc 127.0.0.1:{port} {code} {folder}/.fccdata
  ;;
esac
"""


def make_fcc_folder(folder: Path, *, port: int, ers_code: str = "4711", version: str = "4.4.0") -> Path:
    """Make it in ``folder``, not initialised; returns the file that the calls of Java are recorded in."""
    record = folder / "java-calls.txt"
    java = folder / "bin" / "jre" / "bin" / "java"
    java.parent.mkdir(parents=True)
    (folder / "lib").mkdir()
    java.write_text(
        _STUB.format(
            record=shlex.quote(str(record)),
            folder=shlex.quote(str(folder)),
            python=shlex.quote(sys.executable),
            version=version,
            port=port,
            code=shlex.quote(ers_code),
        )
    )
    java.chmod(0o755)
    for name in ("fiskal-cloud-connector-service.jar", "fcc-deploy-archive.jar"):
        with zipfile.ZipFile(folder / "lib" / name, "w") as jar:
            jar.writestr(
                "META-INF/MANIFEST.MF", f"Manifest-Version: 1.0\r\nImplementation-Version: {version}\r\n"
            )
    script = folder / "run_fcc.sh"
    script.write_text(
        f'exec "./bin/jre/bin/java" "-DFCC_ROOT_DIR={folder}" -Dfiskal.configuration.service.host=fiskal.cloud '
        "-cp lib/fiskal-cloud-connector-service.jar de.fiskal.connector.client.Bootstrap start\n"
    )
    script.chmod(0o755)
    return record
