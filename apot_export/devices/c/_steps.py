"""The steps of a C program: integer operations with all that follows them fused into one pass."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from apot_export.errors import IntegerError
from apot_export.integer import network as integer_op
from apot_export.integer.network import IntegerNetwork, IntegerNode, Interval
from apot_export.network import operations as op

_INT32 = 32


@dataclass(frozen=True, kw_only=True)
class Post:
    """What is done to every number: an operation, then a sum with another value, then limits."""

    to: str
    """The value that is stored."""
    operation: integer_op.Requantize | integer_op.Quantize | None
    other: str | None = None
    low: int | None = None
    high: int | None = None
    wide: bool = False
    """Whether a number on the way has more than 32 bits."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One call of a kernel."""

    name: str
    """Of the integer node that it begins with."""
    operation: op.Convolution | op.Linear | op.MaxPool | integer_op.WindowSum | op.Upsample | None
    """None: the posts alone, on a value."""
    source: str
    posts: tuple[Post, ...] = ()
    to: str = ""
    """The result of a step without posts."""
    before: int = 0
    """Numbers of the result that precede those of this step."""

    @property
    def reads(self) -> tuple[str, ...]:
        """Return the values that it needs."""
        return (self.source, *(post.other for post in self.posts if post.other is not None))

    @property
    def writes(self) -> tuple[str, ...]:
        """Return the values that it stores."""
        return tuple(post.to for post in self.posts) or (self.to,)


@dataclass(kw_only=True)
class Steps:
    """Derives the steps of a network; `found` has them in order."""

    network: IntegerNetwork
    nodes: dict[str, IntegerNode] = field(default_factory=dict)
    readers: dict[str, list[IntegerNode]] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    """Value with the same numbers in the same order, by the name of a flattened one."""
    found: list[Step] = field(default_factory=list)
    stored: set[str] = field(default_factory=set)
    fused: set[str] = field(default_factory=set)

    def run(self) -> list[Step]:
        """Return the steps."""
        nodes = list(_limited(_through_clamps(self.network.nodes), self.network.output))
        self.nodes = {node.name: node for node in nodes}
        for node in nodes:
            for name in node.inputs:
                self.readers.setdefault(name, []).append(node)
        self.stored.add(self.network.input)
        for node in nodes:
            if node.name not in self.fused:
                self._add(node)
        return self.found

    def root(self, name: str) -> str:
        """Return the value that holds the numbers of a value."""
        while name in self.aliases:
            name = self.aliases[name]
        return name

    def _add(self, node: IntegerNode) -> None:
        operation, source = node.operation, self.root(node.inputs[0])
        match operation:
            case op.Flatten():
                self.aliases[node.name] = node.inputs[0]
            case op.Convolution() | op.Linear():
                posts = tuple(self._posts_of_sums(node))
                self._put(Step(name=node.name, operation=operation, source=source, posts=posts))
            case op.MaxPool() | integer_op.WindowSum() | op.Upsample():
                self._put(Step(name=node.name, operation=operation, source=source, to=node.name))
            case op.Concat():
                before = 0
                for name in map(self.root, node.inputs):
                    kept = Post(to=node.name, operation=None, wide=self._is_wide(name))
                    step = Step(name=node.name, operation=None, source=name, posts=(kept,))
                    self._put(dataclasses.replace(step, before=before))
                    before += _size(self.network, self.nodes, name)
            case _:
                post = self._chain(node, self._is_wide(source))
                self._put(Step(name=node.name, operation=None, source=source, posts=(post,)))

    def _put(self, step: Step) -> None:
        self.found.append(step)
        self.stored.update(step.writes)

    def _posts_of_sums(self, sums: IntegerNode) -> Iterator[Post]:
        readers = self.readers.get(sums.name, [])
        rest = [sums.name == self.network.output]
        for reader in readers:
            if isinstance(reader.operation, (integer_op.Requantize, integer_op.Quantize)):
                self.fused.add(reader.name)
                yield self._chain(reader, self._is_wide(sums.name))
            else:
                rest.append(True)
        if any(rest):
            yield self._follow(Post(to=sums.name, operation=None, wide=self._is_wide(sums.name)))

    def _chain(self, node: IntegerNode, wide: bool) -> Post:
        """Return the post that begins with a node, and takes in the nodes that alone read it."""
        operation, name = node.operation, node.name
        wide = wide or self._is_wide(name)
        match operation:
            case integer_op.Requantize() | integer_op.Quantize():
                return self._follow(Post(to=name, operation=operation, wide=wide))
            case integer_op.Clamp() | integer_op.ToFixed():
                low, high = operation.low, operation.high
                return Post(to=name, operation=None, low=low, high=high, wide=wide)
            case op.Add():
                other = self.root(node.inputs[1])
                return self._follow(Post(to=name, operation=None, other=other, wide=wide))
            case _:
                raise IntegerError(
                    "An operation has no kernel in C.", where=name, got=type(operation).__name__
                )

    def _follow(self, post: Post) -> Post:
        """Let a post take in a sum, and then limits, if nothing else reads its result."""
        readers = self.readers.get(post.to, [])
        if len(readers) != 1 or post.to == self.network.output:
            return post
        (reader,) = readers
        operation, wide = reader.operation, post.wide or self._is_wide(reader.name)
        if isinstance(operation, op.Add) and post.other is None:
            others = [self.root(name) for name in reader.inputs if name != post.to]
            if len(others) == 1 and others[0] in self.stored:
                self.fused.add(reader.name)
                post = dataclasses.replace(post, to=reader.name, other=others[0], wide=wide)
                return self._follow(post)
        if isinstance(operation, integer_op.Clamp) and not (
            operation.low is None and operation.high is None
        ):
            self.fused.add(reader.name)
            low, high = operation.low, operation.high
            return dataclasses.replace(post, to=reader.name, wide=wide, low=low, high=high)
        return post

    def _is_wide(self, name: str) -> bool:
        return name in self.nodes and self.nodes[name].interval.bits > _INT32


def _size(network: IntegerNetwork, nodes: Mapping[str, IntegerNode], name: str) -> int:
    shape = nodes[name].shape if name in nodes else network.input_shape
    size = 1
    for extent in shape:
        size *= extent
    return size


def _through_clamps(nodes: Iterable[IntegerNode]) -> Iterator[IntegerNode]:
    """Let quantizers of a value read its ReLU, where there is one: it is often the only reader.

    Thresholds above 0 are reached by a number and by the larger of it and 0 alike.
    """
    relu: dict[str, str] = {}
    for node in nodes:
        operation = node.operation
        if isinstance(operation, integer_op.Clamp) and (operation.low, operation.high) == (0, None):
            relu[node.inputs[0]] = node.name
        elif (
            isinstance(operation, integer_op.Quantize)
            and node.inputs[0] in relu
            and (operation.direction > 0).all()
            and (operation.thresholds > 0).all()
        ):
            node = dataclasses.replace(node, inputs=(relu[node.inputs[0]],))  # noqa: PLW2901
        yield node


def _limited(nodes: Iterable[IntegerNode], output: str) -> Iterator[IntegerNode]:
    """Clamp values that quantizers alone read to what these tell apart, where they get smaller.

    Numbers below all thresholds have one level, and so have those that all thresholds are below.
    """
    read = list(nodes)
    readers: dict[str, list[IntegerNode]] = {}
    for node in read:
        for name in node.inputs:
            readers.setdefault(name, []).append(node)
    limited: dict[str, str] = {}
    for node in read:
        inputs = tuple(limited.get(name, name) for name in node.inputs)
        yield dataclasses.replace(node, inputs=inputs)
        interval = None if node.name == output else _told_apart(readers.get(node.name, []))
        stored = isinstance(node.operation, (op.Add, integer_op.Requantize))
        if interval is not None and stored and interval.bits < node.interval.bits:
            low = max(interval.low, node.interval.low)
            high = max(min(interval.high, node.interval.high), low)
            limited[node.name] = f"{node.name} (limited)"
            yield dataclasses.replace(
                node,
                name=limited[node.name],
                inputs=(node.name,),
                operation=integer_op.Clamp(low=low, high=high),
                interval=Interval(low=low, high=high),
            )


def _told_apart(readers: list[IntegerNode]) -> Interval | None:
    """Return the numbers that quantizers tell apart; None where others read them, or of signs."""
    low: list[int] = []
    high: list[int] = []
    for reader in readers:
        operation = reader.operation
        if not isinstance(operation, integer_op.Quantize) or (operation.direction < 0).any():
            return None
        low.append(int(operation.thresholds.min(initial=0)) - 1)
        high.append(int(operation.thresholds.max(initial=0)))
    return Interval(low=min(low), high=max(high)) if low else None
