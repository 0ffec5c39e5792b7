# SPDX-License-Identifier: LGPL-2.1-or-later
"""libvirt_auth against libvirt's own C code, on files and environments nobody would write.

At least 20,000 files in each run of the suite: half of them the same every time, half of them
new. SANLOCK_HELPER_REQUIRE=1 turns a missing library into a failure.
"""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from libvirt_auth import AuthConfig, AuthFileError, AuthReferenceError, AuthSyntaxError, find_auth_file
from libvirt_auth.uri import URI
from tests.integration import auth_oracle

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).resolve().parent
AUTH = HERE.parents[1] / "auth"

FILES_PER_RUN = 10_100

QUESTIONS = [
    ("libvirt", "h", "password"),
    ("libvirt", None, "password"),
    ("libvirt", "other", "authname"),
    ("ssh", "h", "password"),
    ("ssh", "default", "realm"),
]


@pytest.fixture(autouse=True, scope="module")
def oracle() -> None:
    try:
        auth_oracle.library()
    except OSError as err:
        if os.environ.get("SANLOCK_HELPER_REQUIRE") == "1":
            pytest.fail(f"libvirt.so.0 is required: {err}")
        pytest.skip(f"no libvirt.so.0: {err}")


def ours(data: bytes) -> str | list[object]:
    """Return what auth_oracle.lookups() does, from libvirt_auth."""
    try:
        config = AuthConfig.from_bytes(data)
    except AuthSyntaxError:
        return auth_oracle.SYNTAX_ERROR
    answers: list[object] = []
    for question in QUESTIONS:
        try:
            value = config.lookup(*question)
        except AuthReferenceError:
            answers.append(auth_oracle.REFERENCE_ERROR)
        else:
            answers.append(None if value is None else value.encode())
    return answers


# Pieces that mean something in some grammar, this one's or another's. Few draws for each file,
# for drawing is what takes the time.
ODD = st.sampled_from(
    [
        *[b"\0", b"\r", b"\v", b"\f", b"\x1c", b"\x7f", b"\x01"],
        *[b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"\xc2\xa0"],
        *[b"\xff", b"\x80", b"\xc3", b"\xc3\xa9", b"\xc3\xa9\x80"],
        *[b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\xbd"],
        *[b"\\", b"\\s", b"\\n", b"\\t", b"\\r", b"\\\\", b"\\x", b"\\;", b"\\\0", b"\\\xc3\xa9", b"\\\\\\"],
        *[b"[", b"]", b"[]", b"[de]", b"[de_DE.UTF-8@x]"],
        *[b"[\xc3\xa9]", b"[a\x80]", b"[ a]", b" ", b"\t", b"  "],
        *[b"=", b"==", b":", b"#", b";", b"%", b"%(x)s", b",", b"'", b'"', b"\n", b"\r\n", b" \n", b"\n "],
        *[b"\n#", b"\\\xff", b"\xc2\x85"],
    ]
)  # fmt: skip
WORD = st.sampled_from([b"a", b"secret", b"x y", b"\xc3\xa4\xe2\x82\xac", b"", b" a", b"a ", b"a;b", b"#a"])
VALUE = st.one_of(WORD, WORD, WORD, st.lists(st.one_of(WORD, ODD, ODD), max_size=4).map(b"".join))
END = st.sampled_from([b"\n"] * 40 + [b"\r\n", b"\r\r\n", b" \n", b"\t\r\n", b"", b"\0\n", b"\0]\n", b"\f\n"])


def joined(*parts: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return st.tuples(*parts).map(b"".join)


def lines(text: bytes) -> list[bytes]:
    return [line.replace(b"~", b" ") for line in text.split()]


# "~" is a space here, so that blanks can be seen.
SOUND_ITEMS = lines(
    b"password= password= password~=~ ~~password= authname= username= realm= k= password[de]="
)
ODD_ITEMS = [
    *lines(b"Password= pass~word= credentials= Encoding= encoding="),
    *lines(b"password[de]~= password~[de]= password[]= [de]="),
    *lines(b"password[a.b-c_d@e]= password[d~e]= password[de]x="),
    *lines(b"= =password= password password:~ ==password="),
    *lines(b"#password= ;password= \xc2\xa0password= password\xc2\xa0= password\0= \xef\xbb\xbfpassword="),
    *lines(b"passw\xc3\xb6rd= passw\xffrd= password[\xc3\xa9]="),
    *lines(b"password[\xc3\xa9\x80]= password[\xc3]= password[d\xff]="),
    *[b"\vpassword=", b"password\v=", b"password\f=", b"\tpassword\t=\t"],
    *[b"\rpassword\r=\r", b"password\t[de]="],
]  # fmt: skip
FIELD = joined(st.sampled_from(SOUND_ITEMS * 12 + ODD_ITEMS), VALUE, END)

GROUPS = lines(
    b"[auth-libvirt-h] [auth-libvirt-localhost] [auth-libvirt-default] [auth-ssh-h] [auth-ssh-default] [g]"
    b" [credentials-a] [credentials-a] [credentials-] [credentials-x~y] [credentials-\xc3\xa4\xe2\x82\xac]"
)
ODD_GROUPS = [
    *lines(b"[DEFAULT] [] [~] [~credentials-a~] [credentials-a][b] [credentials-a]] [[credentials-a]"),
    *lines(
        b"[credentials-a~ [credentials-a]\x80 [credentials-a]~\x80~ [credentials-a]\xc3 [credentials-\xff]"
    ),
    *lines(b"[credentials-a=] [a\0b] [credentials-a\x7f] [credentials-a]# [credentials-a]~#~c"),
    *lines(b"~~[credentials-a] \xef\xbb\xbf[credentials-a]"),
    *[b"\t[credentials-a]\t", b"[credentials-a\t]", b"[credentials-a]\v"],
]
GROUP = joined(st.sampled_from(GROUPS * 16 + ODD_GROUPS), END)

OTHER = st.sampled_from(
    [
        *lines(b"# #password k=v Encoding=UTF-8 ~ # k=v") * 8,
        *lines(b";comment ~~#~c //comment x \xff ~~~ [ ] = Encoding=utf-8 Encoding=~utf-8~"),
        *lines(b"Encoding=UTF8 Encoding=utf-8\0 Encoding=utf-8\0x Encoding~=utf-8 Encoding="),
        *[b"", b"\t", b"\0", b"\0password", b"Encoding=\t utf-8"],
        *[b"k=" + b"x" * 9000, b"#" * 5000, b"k" + b" " * 5000 + b"="],
    ]
).map(lambda line: line + b"\n")

# What libvirt takes, so that most files get as far as a value.
SOUND = joined(
    st.sampled_from([b"", b"", b"", b"# c\n\n", b"Encoding=UTF-8\n", b"\xef\xbb\xbf"]),
    st.sampled_from(GROUPS[:5]),
    st.sampled_from([b"\ncredentials=a\n"] * 6 + [b"\n", b"\n credentials = a\r\n", b"\ncredentials=a \n"]),
    st.just(b"[credentials-a]\nauthname=login\npassword="),
    VALUE,
    END,
)

LINE = st.one_of(
    GROUP,
    FIELD,
    FIELD,
    FIELD,
    OTHER,
    joined(st.just(b"credentials="), VALUE, END),
    joined(st.just(b"[credentials-"), VALUE, st.just(b"]\n")),
)


@st.composite
def auth_files(draw: st.DrawFn) -> bytes:
    """A file of likely and unlikely lines; one in six with a few bytes changed."""
    data = draw(st.one_of(SOUND, SOUND, SOUND, st.just(b""))) + b"".join(draw(st.lists(LINE, max_size=2)))
    if draw(st.integers(0, 5)) == 5:
        at, drop = draw(st.integers(0, len(data))), draw(st.integers(0, 3))
        data = data[:at] + draw(st.one_of(ODD, st.binary(max_size=3))) + data[at + drop :]
    return data


def compare(counts: dict[str, int], data: bytes) -> None:
    expected = auth_oracle.lookups(data, QUESTIONS)
    counts["files"] += 1
    for answer in [expected] if isinstance(expected, str) else expected:
        counts["value" if isinstance(answer, bytes) else str(answer)] += 1
    assert ours(data) == expected, data


@pytest.mark.parametrize("derandomize", [True, False], ids=["same", "random"])
def test_files(derandomize: bool) -> None:
    counts = dict.fromkeys(
        ["files", "value", "None", auth_oracle.SYNTAX_ERROR, auth_oracle.REFERENCE_ERROR], 0
    )

    @settings(
        max_examples=FILES_PER_RUN,
        derandomize=derandomize,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(auth_files())
    def run(data: bytes) -> None:
        compare(counts, data)

    began = time.monotonic()
    run()
    print(counts, f"{time.monotonic() - began:.1f} s")
    assert counts["files"] >= 10_000
    # A strategy that only makes broken files would prove nothing.
    for outcome in ("value", "None", auth_oracle.SYNTAX_ERROR, auth_oracle.REFERENCE_ERROR):
        assert counts[outcome] >= 500, counts


def test_letters() -> None:
    """A locale may hold letters and digits: both know the same ones, but for recent additions."""

    def differ(text: str) -> bool:
        data = b"[g]\n" + "".join(f"k[{letter}]=v\n" for letter in text).encode()
        return ours(data) != auth_oracle.lookups(data, QUESTIONS)

    differing: list[str] = []
    for start in range(0x80, 0x110000, 0x80):
        block = [chr(code) for code in range(start, start + 0x80) if not 0xD800 <= code < 0xE000]
        letters = "".join(filter(str.isalnum, block))
        # A file with a single other character is refused, so each needs a file of its own: samples.
        others = [letter for letter in block[:: 1 if start < 0x800 else 64] if not letter.isalnum()]
        differing += letters if letters and differ(letters) else ""
        differing += filter(differ, others)
    assert len(differing) < 10_000
    assert all(ord(letter) > 0x7FF for letter in differing)


def test_not_regular(tmp_path: Path) -> None:
    """What is not a regular file is refused by both (libvirt would wait on a FIFO)."""
    assert not auth_oracle.can_load(str(tmp_path))
    assert not auth_oracle.can_load(str(tmp_path / "missing"))
    assert not auth_oracle.can_load("/dev/null")
    for path in (str(tmp_path), str(tmp_path / "missing"), "/dev/null"):
        with pytest.raises(AuthFileError):
            AuthConfig.from_file(path)


# GLib reads the environment once, so each environment needs a process of its own.
PROBE = """
import json, sys
sys.path[:0] = sys.argv[1:3]
import auth_oracle
from libvirt_auth import find_auth_file
from libvirt_auth.uri import URI
rows = []
for uri in json.loads(sys.argv[3]):
    theirs = auth_oracle.find_auth_file(uri)
    parts = URI(uri)
    scheme = parts.scheme + ("+" + parts.transport if parts.transport else "")
    rows.append([uri, theirs, [scheme, parts.server, find_auth_file(uri)]])
print(json.dumps(rows))
"""


def probe(environ: dict[str, str], uris: list[str], cwd: Path) -> Iterator[tuple[str, object, object]]:
    command = [sys.executable, "-c", PROBE, str(HERE), str(AUTH), json.dumps(uris)]
    done = subprocess.run(
        command, env=environ, cwd=cwd, check=True, capture_output=True, text=True, timeout=60
    )
    for uri, theirs, mine in json.loads(done.stdout):
        if theirs is not None:
            yield uri, theirs, mine


URIS = [
    "test:///default", "test+unix:///default", "qemu:///system", "qemu+ssh://root@h.example:22/system",
    "qemu+libssh2://[fe80::1]:22/system", "qemu+tls://u:p@h/system?no_verify=1", "esx://h%41x/?authfile=",
    "test:///d?authfile=/a%20b", "test:///d?authfile=/1&authfile=/2", "test:///d?authfile", "test:///d?=v&authfile=/x",
    "test:///d?x;authfile=/a", "test:///d?x;authfile=/a;y", "test:///d?a=1;authfile=/q&b", "test:///d?a&b;authfile=/q",
    "test:///d?&&;;authfile=/x", "test:///d?auth%66ile=/e+f#fragment?authfile=/no", "test:///d?authfile=/a?b/c",
    "test:///d?authfile=/%41%00b", "test:///d?authfile=/%ff%C3%A9", "test:///d?Authfile=/1", "test:///d?authfile=a=b=c",
    "test:///d#?authfile=/no", "test:opaque?authfile=/x", "test://?authfile=/x", "test://:22/x", "test://h?authfile=rel",
    "test://user%40x@h/", "test:///d?authfile=%2e%2E/x", "test:///d?authfile=/%zz", "test:///d?name=authfile=/x",
]  # fmt: skip


def test_uris(tmp_path: Path) -> None:
    compared = list(probe({"HOME": str(tmp_path)}, URIS, tmp_path))
    assert len(compared) >= len(URIS) - 1  # %zz is invalid
    for uri, theirs, mine in compared:
        assert mine == theirs, uri


@pytest.mark.parametrize("xdg", [None, "", "xdg", "xdg///", "relative", "/", "//", "unreadable"])
@pytest.mark.parametrize("home", [None, "", "home", "home//", "empty", "relative"])
def test_environments(tmp_path: Path, home: str | None, xdg: str | None) -> None:
    for directory in ("xdg", "home/.config", ".config", "relative", "relative/.config"):
        (tmp_path / directory / "libvirt").mkdir(parents=True)
        (tmp_path / directory / "libvirt/auth.conf").touch()
    environ = {"LOGNAME": "nobody"}
    for variable, value in (("HOME", home), ("XDG_CONFIG_HOME", xdg)):
        if value is not None:
            plain = value in ("", "relative") or value.startswith("/")
            environ[variable] = value if plain else f"{tmp_path}/{value}"
    for uri, theirs, mine in probe(environ, ["test:///default"], tmp_path):
        assert mine == theirs, uri


@pytest.mark.parametrize("logname", [None, "nobody", "no-such-user", pwd.getpwuid(os.getuid())[0]])
@pytest.mark.parametrize("file", [None, "", "/no/such/file", "rel"])
def test_auth_file_variable(tmp_path: Path, file: str | None, logname: str | None) -> None:
    environ = {} if file is None else {"LIBVIRT_AUTH_FILE": file}
    if logname is not None:
        environ["LOGNAME"] = logname
    for uri, theirs, mine in probe(environ, ["test:///d", "test:///d?authfile=/x"], tmp_path):
        assert mine == theirs, uri


def test_uri_of_nothing() -> None:
    """Strings without a scheme reach this code only if libvirt knows them, as "xen"."""
    assert (URI("xen").scheme, URI("xen").server, URI("").parameters) == ("xen", None, [])
    assert find_auth_file("", {"LIBVIRT_AUTH_FILE": "x"}) == "x"
