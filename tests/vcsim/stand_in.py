"""In place of nbdkit with VDDK: serves the content that the simulator kept with a snapshot. It is as strict
about what it is told as VDDK is.

usage: stand_in.py DIRECTORY PASSWORD SOCKET PASSWORD_FILE VM SNAPSHOT DISK
"""

import json
import os
import stat
import sys
from pathlib import Path


def main() -> None:
    directory, password, socket, password_file, vm, snapshot, disk = sys.argv[1:]
    file = Path(password_file)
    with (Path(directory) / "readers.log").open("a") as log:
        log.write(json.dumps({"vm": vm, "snapshot": snapshot, "disk": disk, "argv": sys.argv[3:]}) + "\n")
    if stat.S_IMODE(file.stat().st_mode) != 0o600:
        sys.exit("the password file is open to others")
    if file.read_text() != password:
        sys.exit("VixDiskLib_ConnectEx: Cannot complete login due to an incorrect user name or password")
    flat = "".join("_" if one in "[]/ " else one for one in disk)
    content = Path(directory) / snapshot / flat
    if not content.exists():
        sys.exit(f"VixDiskLib_Open: {disk}: The file does not exist in snapshot {snapshot}")
    os.execvp("nbdkit", ["nbdkit", "--foreground", "--readonly", "--unix", socket, "file", str(content)])


main()
