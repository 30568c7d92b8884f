"""What a Linux guest is given: archives, a shared folder, the first process's orders."""

import lzma
import shutil
import stat
import subprocess

import pytest

from turducken.machine.boot import ImageError
from turducken.system.linux import (
    KernelModule,
    Userland,
    find_kernel,
    find_module,
    leave_out_calls,
    read_initrd,
    read_kernel_module,
    shipped_program,
)


def entries(data):
    """Read archives as the kernel does: {path: (mode, content, device)}; later ones win."""
    at, found = 0, {}
    while at < len(data):
        if data[at] == 0:
            at += 1
            continue
        assert data[at : at + 6] == b"070701"
        assert at % 4 == 0
        fields = [int(data[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        mode, size, name_size = fields[1], fields[6], fields[11]
        name = data[at + 110 : at + 110 + name_size - 1].decode()
        start = at + 110 + name_size + 3 & ~3
        at = start + size + 3 & ~3
        if name != "TRAILER!!!":
            assert not fields[5], "no dates"
            found[name] = (mode, data[start : start + size], (fields[9], fields[10]))
    return found


def test_nothing_asked_for_is_no_initrd():
    assert Userland().build() is None


def test_archives_follow_each_other_and_ours_comes_last():
    built = Userland([b"A" * 5, b"B"], command="true").build()
    assert built.startswith(b"AAAAA\0\0\0B\0\0\0")
    found = entries(built[12:])
    assert found["init"] == (stat.S_IFREG | 0o555, shipped_program("init"), (0, 0))
    assert found["dev"][0] == stat.S_IFDIR | 0o755
    assert found["dev/console"] == (stat.S_IFCHR | 0o600, b"", (5, 1))
    assert found["turducken/run"][1] == b"true"


def test_modules_are_loaded_in_their_order():
    modules = [KernelModule("b.ko", b"BB"), KernelModule("a.ko", b"AA", "x=1 y=2")]
    found = entries(Userland(modules=modules, command="c").build())
    assert found["turducken/insmod"][1] == b"/turducken/00-b.ko \n/turducken/01-a.ko x=1 y=2\n"
    assert found["turducken/00-b.ko"][1] == b"BB"


def test_modules_need_a_command():
    with pytest.raises(ImageError, match="give --run, too"):
        Userland(modules=[KernelModule("a.ko", b"")]).build()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "data").write_bytes(b"x" * 5)
    (tmp_path / "program").write_bytes(b"run me")
    (tmp_path / "program").chmod(0o700)
    (tmp_path / "zlink").symlink_to("sub/data")
    return tmp_path


def test_a_shared_folder_is_the_same_bytes_whatever_its_dates(folder):
    first = Userland(share=folder).build()
    found = entries(first)
    assert list(found) == ["share", "share/program", "share/sub", "share/sub/data", "share/zlink"]
    assert found["share/program"] == (stat.S_IFREG | 0o555, b"run me", (0, 0))
    assert found["share/sub/data"] == (stat.S_IFREG | 0o444, b"xxxxx", (0, 0))
    assert found["share/zlink"] == (stat.S_IFLNK | 0o777, b"sub/data", (0, 0))
    (folder / "program").touch()
    assert Userland(share=folder).build() == first


def test_the_archive_is_what_cpio_reads(folder):
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("Debian's package busybox-static is not installed")
    archive = Userland(share=folder).build()
    told = subprocess.run([busybox, "cpio", "-t"], input=archive, capture_output=True, check=True)
    assert told.stdout.decode().split() == [
        "share", "share/program", "share/sub", "share/sub/data", "share/zlink",
    ]  # fmt: skip


def test_a_folder_that_is_none_is_told(tmp_path):
    with pytest.raises(ImageError, match=r"--share .*nowhere: no such folder"):
        Userland(share=tmp_path / "nowhere").build()


def test_a_static_program_makes_an_initrd_with_a_shell(tmp_path):
    program = tmp_path / "busybox"
    program.write_bytes(shipped_program("init"))
    found = entries(read_initrd(str(program)))
    assert found["bin/busybox"][1] == shipped_program("init")
    assert found["bin/sh"] == (stat.S_IFLNK | 0o777, b"busybox", (0, 0))
    assert found["init"][1].startswith(b"#!/bin/sh\n")


def test_a_program_that_needs_a_library_is_refused(tmp_path):
    with pytest.raises(ImageError, match=r"a program, but no static one; .*busybox-static"):
        read_initrd("/bin/true")


def test_a_file_is_taken_as_it_is(tmp_path):
    (tmp_path / "initrd").write_bytes(b"\x1f\x8bzipped")
    assert read_initrd(str(tmp_path / "initrd")) == b"\x1f\x8bzipped"


def test_a_kernel_module_and_its_parameters(tmp_path):
    module = tmp_path / "m.ko"
    module.write_bytes(b"\x7fELF...")
    assert read_kernel_module(f"{module} a=1 b=2") == KernelModule("m.ko", b"\x7fELF...", "a=1 b=2")
    module.write_bytes(b"\xfd7zXZ")
    with pytest.raises(ImageError, match="no kernel module"):
        read_kernel_module(str(module))


# -- kernels and modules ---------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path):
    for version in ("6.1.0-9-amd64", "6.1.0-10-cloud-amd64", "6.1.0-9-cloud-amd64", "7.0-none"):
        (tmp_path / "boot").mkdir(exist_ok=True)
        (tmp_path / "boot" / f"vmlinuz-{version}").write_bytes(b"")
        if "none" not in version:
            (tmp_path / "lib" / "modules" / version).mkdir(parents=True)
    return tmp_path


def test_the_newest_cloud_kernel_with_modules_is_found(root):
    assert find_kernel(root).version == "6.1.0-10-cloud-amd64"


def test_where_no_kernel_is_the_user_is_told_how_to_get_one(tmp_path):
    with pytest.raises(ImageError, match=r"apt install linux-image-cloud-amd64; without") as caught:
        find_kernel(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_packed_module_is_unpacked(tmp_path):
    (tmp_path / "a.ko.xz").write_bytes(lzma.compress(b"\x7fELF"))
    assert find_module(tmp_path, "a.ko") == KernelModule("a.ko", b"\x7fELF")
    (tmp_path / "b.ko.xz").write_bytes(b"\xfd7zXZ")
    with pytest.raises(ImageError, match="not a sound xz file"):
        find_module(tmp_path, "b.ko")
    with pytest.raises(ImageError, match=r"c.ko: no such kernel module"):
        find_module(tmp_path, "c.ko")


SOURCE = """
void flush(void); void other(void);
void shrink(void) { other(); flush(); other(); }
void grow(void) { other(); flush(); }
"""


@pytest.fixture
def module(tmp_path):
    if shutil.which("gcc") is None:
        pytest.skip("Debian's package gcc is not installed")
    (tmp_path / "m.c").write_text(SOURCE)
    command = ["gcc", "-m64", "-O1", "-fno-pic", "-fcf-protection=none", "-c", "m.c", "-o", "m.ko"]
    subprocess.run(command, cwd=tmp_path, check=True)
    content = (tmp_path / "m.ko").read_bytes()
    signature = b"s" * 100 + bytes(8) + (100).to_bytes(4, "big") + b"~Module signature appended~\n"
    return KernelModule("m.ko", content + signature, "x=1"), content


@pytest.mark.toolchain
def test_a_call_is_left_out_of_one_function(module):
    signed, plain = module
    changed = leave_out_calls(signed, "shrink", "flush")
    assert (changed.name, changed.parameters, len(changed.content)) == ("m.ko", "x=1", len(plain))
    assert changed.content.count(bytes.fromhex("0f1f440000")) == 1 + plain.count(
        bytes.fromhex("0f1f440000")
    )
    again = leave_out_calls(KernelModule("m.ko", changed.content), "grow", "flush")
    assert again.content != changed.content


@pytest.mark.toolchain
@pytest.mark.parametrize(("function", "callee"), [("shrink", "none"), ("none", "flush")])
def test_where_there_is_no_such_call_the_user_is_told(module, function, callee):
    with pytest.raises(ImageError, match=f"no function {function} that calls {callee}"):
        leave_out_calls(module[0], function, callee)


def test_what_is_no_sound_module_is_told():
    with pytest.raises(ImageError, match=r"not a sound kernel module|no function"):
        leave_out_calls(KernelModule("m.ko", b"\x7fELF" + bytes(100)), "a", "b")
