"""A parser of PromQL, as far as dashboards and rules use it: what an expression asks for.

https://prometheus.io/docs/prometheus/latest/querying/basics/
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

_TOKEN = re.compile(
    r"""\s*(?:
    (?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    |(?P<range>\[[^\]]*\])
    |(?P<number>\d+(?:\.\d+)?(?:e[+-]?\d+)?(?![\w.]))
    |(?P<duration>\d+(?:ms|[smhdwy])(?!\w))
    |(?P<name>[a-zA-Z_:][\w:]*)
    |(?P<operator>=~|!~|!=|==|<=|>=|[-+*/%^<>=(){},])
    )""",
    re.VERBOSE,
)
_AGGREGATIONS = {"sum", "min", "max", "avg", "count", "topk", "bottomk", "group", "stddev"}
_FUNCTIONS = {"rate", "increase", "irate", "delta", "histogram_quantile", "absent", "max_over_time"}
_RANGED = {"rate", "increase", "irate", "delta", "max_over_time"}
_BINARY = {"+", "-", "*", "/", "%", "^", "==", "!=", "<", ">", "<=", ">=", "and", "or", "unless"}


@dataclass(frozen=True)
class Selector:
    """A metric, and the labels by which its series are chosen."""

    metric: str
    labels: frozenset[str]
    ranged: bool


@dataclass
class Expression:
    """What is selected, and by which labels what is aggregated; `labels` are those of the result.

    None stands for those of the series themselves.
    """

    selectors: list[Selector] = field(default_factory=list)
    groups: list[tuple[frozenset[str], list[Selector]]] = field(default_factory=list)
    labels: frozenset[str] | None = None

    def add(self, other: "Expression") -> None:
        self.selectors += other.selectors
        self.groups += other.groups


def parse(text: str) -> Expression:
    """Raises ValueError where it is no such expression."""
    parser = _Parser(list(_tokens(text)))
    found = parser.expression()
    if parser.kind:
        raise ValueError(f"{parser.text!r} is one too many in {text!r}")
    return found


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    at, text = 0, text.rstrip()
    while at < len(text):
        found = _TOKEN.match(text, at)
        if not found or found.lastgroup is None:
            raise ValueError(f"{text[at:]!r} is not PromQL")
        yield found.lastgroup, found[found.lastgroup]
        at = found.end()


class _Parser:
    def __init__(self, tokens: list[tuple[str, str]]) -> None:
        self._tokens = [*tokens, ("", "")]

    @property
    def kind(self) -> str:
        return self._tokens[0][0]

    @property
    def text(self) -> str:
        return self._tokens[0][1]

    def take(self, *allowed: str) -> str:
        if allowed and self.text not in allowed:
            raise ValueError(f"{self.text!r} is not one of {allowed}")
        return self._tokens.pop(0)[1]

    def expression(self) -> Expression:
        found = self.operand()
        while self.text in _BINARY:
            self.take()
            if self.text in ("on", "ignoring"):
                self.take()
                self.names()
            other = self.operand()
            found.add(other)
            found.labels = other.labels if found.labels == frozenset() else found.labels
        return found

    def operand(self) -> Expression:
        if self.text == "(":
            self.take()
            found = self.expression()
            self.take(")")
            return found
        if self.kind == "number":
            self.take()
            return Expression(labels=frozenset())
        if self.kind != "name":
            raise ValueError(f"{self.text!r} begins no operand")
        name = self.take()
        if name in _AGGREGATIONS:
            return self.aggregation()
        if name in _FUNCTIONS and self.text == "(":
            return self.call(name)
        return self.selector(name)

    def aggregation(self) -> Expression:
        labels = self.grouping()
        found = self.arguments()
        labels = labels if labels is not None else self.grouping()
        found.labels = labels or frozenset()
        found.groups.append((found.labels, list(found.selectors)))
        return found

    def grouping(self) -> frozenset[str] | None:
        if self.text != "by":
            return None
        self.take()
        return self.names()

    def names(self) -> frozenset[str]:
        found = set()
        self.take("(")
        while self.text != ")":
            if self.kind != "name":
                raise ValueError(f"{self.text!r} is no label")
            found.add(self.take())
            if self.text == ",":
                self.take()
        self.take(")")
        return frozenset(found)

    def arguments(self) -> Expression:
        self.take("(")
        found = self.expression()
        while self.text == ",":
            self.take()
            other = self.expression()
            found.add(other)
            found.labels = other.labels
        self.take(")")
        return found

    def call(self, name: str) -> Expression:
        found = self.arguments()
        if any(s.ranged != (name in _RANGED) for s in found.selectors) and name in _RANGED:
            raise ValueError(f"{name} takes a range")
        if name == "histogram_quantile" and found.labels is not None:
            if "le" not in found.labels:
                raise ValueError("histogram_quantile needs the label le")
            found.labels -= {"le"}
        return found

    def selector(self, metric: str) -> Expression:
        labels = set()
        if self.text == "{":
            self.take()
            while self.text != "}":
                labels.add(self.take())
                self.take("=", "!=", "=~", "!~")
                if self.kind != "string":
                    raise ValueError(f"{self.text!r} is no string")
                self.take()
                if self.text == ",":
                    self.take()
            self.take("}")
        ranged = self.kind == "range"
        if ranged and not re.fullmatch(r"\[(\d+(ms|[smhdwy])|\$__rate_interval)\]", self.take()):
            raise ValueError("that is no range")
        return Expression([Selector(metric, frozenset(labels), ranged)])
