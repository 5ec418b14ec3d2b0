"""Which file system a folder lies on."""

from __future__ import annotations

from pathlib import Path

import pytest

from image_sync.watcher.folders import remote_filesystem


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        (b"/home/x", ""),
        (b"/mnt/share", "nfs4"),
        (b"/mnt/share/deep", "nfs4"),
        (b"/mnt/shared", ""),
        (b"/mnt", "nfs4"),
        (b"/a b/c", "cifs"),
        (b"/fuse", "fuse.sshfs"),
        (b"/twice", ""),
    ],
)
def test_network_file_systems_are_known_from_the_mount_table(tmp_path, folder, kind):
    """The innermost, latest mount decides; a network mount below a folder counts too."""
    table = tmp_path / "mountinfo"
    table.write_bytes(
        b"1 0 8:1 / / rw - ext4 /dev/sda rw\n"
        b"2 1 0:40 / /mnt/share rw,relatime shared:1 - nfs4 server:/x rw\n"
        b"3 1 0:41 / /a\\040b rw - cifs //s/x rw\n"
        b"4 1 0:42 / /fuse rw - fuse.sshfs x rw\n"
        b"5 1 0:43 / /twice rw - nfs x rw\n"
        b"6 1 0:44 / /twice rw - xfs x rw\n"
        b"broken line\n"
    )
    assert remote_filesystem(folder, table) == kind


def test_without_a_mount_table_every_file_system_is_local(tmp_path):
    """Systems other than Linux have none."""
    assert remote_filesystem(b"/", Path(tmp_path / "none")) == ""
