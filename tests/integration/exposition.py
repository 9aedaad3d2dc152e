# SPDX-License-Identifier: PostgreSQL
"""A strict reader of Prometheus' text format 0.0.4 and of OpenMetrics 1.0: whatever is not exactly
right is an error, also where Prometheus itself would let it pass."""
import math
import re

NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\[\\"n])*)"')
NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d+)?(?:e[+-]?\d+)?|Inf|NaN)")
UNITS = ("seconds", "bytes", "ratio")
NOT_UNITS = re.compile(r"_(ms|milliseconds|usec|microseconds|minutes|kb|mb|percent|count|info_total)$")


class Family:
    def __init__(self, name, kind, text):
        self.name, self.kind, self.text = name, kind, text
        self.samples = {}  # (name, labels as sorted tuple) -> value

    def values(self, **labels):
        """Samples that carry these labels: label set -> value."""
        wanted = set(labels.items())
        return {key[1]: value for key, value in self.samples.items() if wanted <= set(key[1])}

    def value(self, **labels):
        found = self.values(**labels)
        assert len(found) == 1, "%s%r: %r" % (self.name, labels, found)
        return next(iter(found.values()))


def unescape(text, quotes=True):
    assert not re.search(r"(?<!\\)(?:\\\\)*\\[^\\n%s]" % ('"' if quotes else ""), text), text
    return re.sub(r"\\(.)", lambda m: "\n" if m[1] == "n" else m[1], text)


def parse_labels(text):
    labels, at = [], 0
    while at < len(text):
        match = LABEL.match(text, at)
        assert match, "labels: " + text
        labels.append((match[1], unescape(match[2])))
        at = match.end()
        if at < len(text):
            assert text[at] == "," and at + 1 < len(text), "labels: " + text
            at += 1
    names = [name for name, _ in labels]
    assert len(set(names)) == len(names), "a label twice: " + text
    assert not any(name.startswith("__") for name in names), text
    return tuple(sorted(labels))


def parse_sample(line):
    name = NAME.match(line)
    assert name, line
    rest = line[name.end():]
    labels = ()
    if rest.startswith("{"):
        body = re.match(r'\{((?:[^"{}]|"(?:[^"\\]|\\.)*")*)\}', rest)
        assert body and body[1], line
        labels = parse_labels(body[1])
        rest = rest[body.end():]
    assert rest.startswith(" ") and NUMBER.fullmatch(rest[1:]), line
    return name[0], labels, float(rest[1:])


def base_names(family, openmetrics):
    if family.kind == "histogram":
        return {family.name + suffix for suffix in ("_bucket", "_sum", "_count")}
    if family.kind == "counter" and openmetrics:
        return {family.name + "_total"}
    return {family.name}


def check_histogram(family):
    series = {}
    for (name, labels), value in family.samples.items():
        rest = tuple(pair for pair in labels if pair[0] != "le")
        entry = series.setdefault(rest, {"buckets": []})
        if name.endswith("_bucket"):
            bound = dict(labels)["le"]
            assert bound == "+Inf" or "." in bound or "e" in bound, bound
            entry["buckets"].append((float(bound), value))
        else:
            entry[name[len(family.name):]] = value
    for rest, entry in series.items():
        bounds = [bound for bound, _ in entry["buckets"]]
        counts = [count for _, count in entry["buckets"]]
        assert bounds == sorted(set(bounds)) and bounds[-1] == math.inf, (family.name, rest)
        assert counts == sorted(counts), (family.name, rest, "does not grow")
        assert counts[-1] == entry["_count"] and entry["_sum"] >= 0, (family.name, rest)


def check_family(family):
    name = family.name
    assert not NOT_UNITS.search(name), name
    if family.kind == "counter":
        assert all(value >= 0 for value in family.samples.values()), name
    if family.kind == "histogram":
        check_histogram(family)
        assert name.endswith(UNITS), name
    assert family.text and family.text == family.text.strip(), name


def parse(text, openmetrics=False):
    """name -> Family.  Counters are under the name that ends with _total in both formats."""
    assert text.endswith("\n") and "\r" not in text and "\n\n" not in text
    lines = text[:-1].split("\n")
    if openmetrics:
        assert lines.pop() == "# EOF"
    families, current, texts = {}, None, {}
    for line in lines:
        if line.startswith("# HELP "):
            name, text = line[7:].split(" ", 1)
            assert NAME.fullmatch(name) and name not in texts, line
            texts[name] = unescape(text, openmetrics)
        elif line.startswith("# TYPE "):
            name, kind = line[7:].split(" ")
            assert kind in ("gauge", "counter", "histogram") and name in texts, line
            assert kind != "counter" or name.endswith("_total") != openmetrics, line
            current = Family(name, kind, texts[name])
            full = name + ("_total" if kind == "counter" and openmetrics else "")
            assert full not in families, "twice: " + name
            families[full] = current
        else:
            assert not line.startswith("#"), line
            name, labels, value = parse_sample(line)
            assert current and name in base_names(current, openmetrics), "out of place: " + line
            assert (name, labels) not in current.samples, "twice: " + line
            assert ("le" in dict(labels)) == name.endswith("_bucket"), line
            current.samples[name, labels] = value
    assert set(texts) == {family.name for family in families.values()}
    for family in families.values():
        check_family(family)
    return families
