# SPDX-License-Identifier: LGPL-2.1-or-later
"""One example of every rule of the grammar; tests/integration/test_auth_oracle.py has the rest."""

from __future__ import annotations

import time

import pytest

from libvirt_auth import AuthConfig, AuthSyntaxError

pytestmark = pytest.mark.pure

# Every line of this file is taken by libvirt. The password is what follows "= " on its line.
EXAMPLE = b"""\
# A comment is a line of its own,
   # indented or not. The next line is blank.
 \t
[auth-libvirt-default]
credentials=prod

[credentials-prod]\t \t
username=admin
  authname \t=\t login
password = open sesame # ; = [x] %(y)s ' " %%\x20
realm=
"""


def password(text: bytes) -> str | None:
    """Return the password when its group holds the lines text, as Debian 12's GLib has it."""
    head = b"[auth-libvirt-default]\ncredentials=a\n[credentials-a]\n"
    return AuthConfig.from_bytes(head + text, glib=(2, 74, 6)).lookup("libvirt", "h", "password")


def test_example() -> None:
    config = AuthConfig.from_bytes(EXAMPLE)
    found = {
        name: config.lookup("libvirt", "h", name) for name in ("username", "authname", "password", "realm")
    }
    assert found == {
        "username": "admin",
        "authname": "login",  # blanks around "=" and before the name are dropped
        "password": "open sesame # ; = [x] %(y)s ' \" %% ",  # to the end of the line, blanks too
        "realm": "",  # empty is a value
    }


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b"password=a\r\n", "a"),  # a line ends with \n or \r\n
        (b"password=a", "a"),  # the last one may end without
        (b"password=a\r", "a\r"),  # \r without \n belongs to the value
        (b"password=a\r\r\n", "a\r"),  # only one is taken off
        (b"password=a\0b\n", "a"),  # nothing after a NUL counts
        (b"\0password=a\n", None),  # a line that starts with one is blank
        (b"password=a  \n", "a  "),  # blanks at the end belong to the value
        (b"password=\t \f\ra\n", "a"),  # blanks before it do not
        (b"password=\va\n", "\va"),  # a vertical tab is no blank
        ("password=\xa0a\x85\n".encode(), "\xa0a\x85"),  # nor is one of Unicode
        ("password=ä€😀\n".encode(), "ä€😀"),  # UTF-8
        (b"password=\xff\n", None),  # a value that is not UTF-8 cannot be had
        (b"realm=\xff\npassword=a\n", "a"),  # and does no harm to others
        (rb"password=\s\t\r\n\\" + b"\n", " \t\r\n\\"),  # escapes
        (rb"password=\x\;\"" + b"\n", r"\x\;\""),  # others stay as they are
        (b"password=a\\\n", "a"),  # a lone backslash is dropped; it continues no line
        (rb"password=a\\" + b"\n", "a\\"),
        (b"password=a\npassword=b\n", "b"),  # the last one wins
        (b"password=a\n[g]\npassword=c\n[credentials-a]\npassword=b\n", "b"),  # groups are merged
        (b"password=a\n password=b\n", "b"),  # an indented line is a line like any other
        (b"Password=a\n", None),  # names are case-sensitive
        (b"password[de]=a\n", None),  # a locale makes it another name
        (b"password[de_DE.UTF-8@x]=a\npassword=b\n", "b"),
        (b"password[]=a\npassword=b\n", "b"),
        (b"password\xc2\xa0=a\n", None),  # a no-break space belongs to the name
        (b"; password=a\n", None),  # a name "; password": ";" starts no comment
        (b"pass word=a\n", None),  # blanks inside a name belong to it
        (b"password==a\n", "=a"),  # the first "=" counts
        (b"password=a:b\n", "a:b"),  # ":" is no delimiter
        (b"Encoding=latin1\npassword=a\n", "a"),  # counts in the first group only
        (b"[DEFAULT]\npassword=a\n", None),  # no group is special
        (b"[g]\x80\npassword=a\n", None),  # GLib steps over stray continuation bytes here,
        (b"k[a\x80]=b\npassword=a\n", "a"),  # and here
    ],
)
def test_value(text: bytes, value: str | None) -> None:
    assert password(text) == value


@pytest.mark.parametrize(
    "text",
    [
        b"password\n",  # neither a group nor NAME=VALUE
        b"password: a\n",
        b"=a\n",  # no name
        b"; a comment, elsewhere\n",
        b"[g] # comment\n",
        b"[g\n",
        b"[]\n",
        b"[a]b]\n",
        b"[a[b]\n",
        b"[a\tb]\n",  # a control character in a group's name
        b"[a]\0]\n",  # the name ends at the last "]", even behind a NUL
        b"pass[word=a\n",
        b"password[d e]=a\n",
        b"password [de]=a\n",
        b"password[de]x=a\n",
        b"password[\xff]=a\n",
        b"pass\0word=a\n",
        b"password=a\n  continued\n",
        b"\xef\xbb\xbf[g]\n",  # a byte order mark
        b"\v\n",
    ],
)
def test_syntax_error(text: bytes) -> None:
    with pytest.raises(AuthSyntaxError) as caught:
        AuthConfig.from_bytes(b"[g]\n# comment\r\n\n" + text, path="/x/auth.conf")
    assert caught.value.line == 4 + text.startswith(b"password=a\n")
    assert str(caught.value).startswith(f"/x/auth.conf:{caught.value.line}: ")
    assert caught.value.hint


@pytest.mark.parametrize("text", [b"password=a\n", b"password\n", b"\xef\xbb\xbf[g]\n"])
def test_before_the_first_group(text: bytes) -> None:
    with pytest.raises(AuthSyntaxError) as caught:
        AuthConfig.from_bytes(b"\n" + text + b"[g]\n")
    assert caught.value.line == 2


@pytest.mark.parametrize("value", [b"UTF-8", b"utf-8", b"\t Utf-8"])
def test_encoding(value: bytes) -> None:
    AuthConfig.from_bytes(b"[g]\nEncoding = " + value + b"\n")


@pytest.mark.parametrize("value", [b"latin1", b"", b"UTF-8 ", b"UTF-8\0", b"UTF8"])
def test_other_encoding(value: bytes) -> None:
    """Refused in the first group, wherever its lines stand, and even if another one follows."""
    text = b"[g]\n[h]\nEncoding=any\n[g]\nEncoding=" + value + b"\nEncoding=UTF-8\n"
    with pytest.raises(AuthSyntaxError) as caught:
        AuthConfig.from_bytes(text)
    assert (caught.value.line, caught.value.group) == (5, "g")


@pytest.mark.parametrize(
    "line", [b"k" + b" " * 900_000, b"[" + b"a" * 900_000, b"k[" + b"a" * 900_000, b" " * 900_000 + b"x"]
)
def test_long_line(line: bytes) -> None:
    """A long line takes no more than its share of time."""
    began = time.process_time()
    with pytest.raises(AuthSyntaxError):
        AuthConfig.from_bytes(b"[g]\n" + line)
    assert time.process_time() - began < 2


def test_secrets_stay_out_of_errors() -> None:
    with pytest.raises(AuthSyntaxError) as caught:
        AuthConfig.from_bytes(b"[g]\nhunter2\n[h\npassword hunter3\n")
    error = caught.value
    assert "hunter" not in f"{error} {error!r} {error.hint}"
    assert error.__cause__ is None
    assert error.__context__ is None  # configparser's own error would quote the line
