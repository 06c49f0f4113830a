"""Input for the parsers of CMS and SCEP: any bytes, random ASN.1, and damaged valid messages."""

from __future__ import annotations

from hypothesis import strategies as st

from agent.pki import der

TAGS = (0x02, 0x04, 0x05, 0x06, 0x0C, 0x13, 0x24, 0x30, 0x31, 0x80, 0xA0, 0xA1, 0xA3)


def nested() -> st.SearchStrategy[bytes]:
    """Random well-formed ASN.1, some of it with indefinite lengths."""
    leaf = st.builds(der.encode, st.sampled_from(TAGS), st.binary(max_size=12))
    return st.recursive(leaf, lambda inner: st.builds(_container, st.lists(inner, max_size=4), st.booleans()))


def broken(good: bytes) -> st.SearchStrategy[bytes]:
    """``good`` with a few octets changed, cut out, doubled or put in."""
    position = st.integers(0, len(good))
    change = st.tuples(position, st.integers(0, 3), st.binary(max_size=3))
    return st.lists(change, min_size=1, max_size=4).map(lambda changes: _changed(good, changes))


def reshaped(good: bytes) -> st.SearchStrategy[bytes]:
    """``good`` with one element of its tree replaced and all lengths right, so that only its meaning is wrong."""
    nodes = _nodes(der.read(good))
    replacement = st.one_of(
        st.sampled_from(nodes).map(lambda node: node.encoded),
        st.builds(der.encode, st.sampled_from(TAGS), st.binary(max_size=20)),
        st.just(b""),
    )
    renamed = st.tuples(st.sampled_from(nodes), st.sampled_from(TAGS)).map(
        lambda choice: (choice[0], der.encode(choice[1], choice[0].body))
    )
    changes = st.one_of(renamed, st.tuples(st.sampled_from(nodes), replacement))
    return changes.map(lambda change: _rebuilt(nodes[0], *change))


def hostile(*good: bytes) -> st.SearchStrategy[bytes]:
    """Any of the above."""
    return st.one_of(st.binary(max_size=200), nested(), *map(broken, good), *map(reshaped, good))


def _container(inner: list[bytes], indefinite: bool) -> bytes:
    if indefinite:
        return b"\x30\x80" + b"".join(inner) + b"\x00\x00"
    return der.encode(der.SEQUENCE, b"".join(inner))


def _changed(good: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    for position, cut, put in changes:
        good = good[:position] + put + good[position + cut :]
    return good


def _nodes(element: der.Element) -> list[der.Element]:
    inside = element.children() if element.tag & 0x20 else []
    return [element, *(node for child in inside for node in _nodes(child))]


def _rebuilt(element: der.Element, target: der.Element, replacement: bytes) -> bytes:
    if element == target:
        return replacement
    if not element.tag & 0x20:
        return element.encoded
    return der.encode(element.tag, b"".join(_rebuilt(child, target, replacement) for child in element.children()))
