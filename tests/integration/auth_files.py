# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files that may be an auth.conf, for hypothesis, and what is looked up in them."""

from __future__ import annotations

from hypothesis import strategies as st

QUESTIONS = [
    ("libvirt", "h", "password"),
    ("libvirt", None, "password"),
    ("libvirt", "other", "authname"),
    ("ssh", "h", "password"),
    ("ssh", "default", "realm"),
]

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
