"""Every key of params.yaml is read: a key that nothing reads is a knob that does nothing.

The sources' attribute accesses are followed by type: from what is annotated with a class of `tsdsr.config`, through
assignments, loops and attributes, to the fields that are read of it. Hashing and copying a whole section is no reading.
"""

from __future__ import annotations

import ast
import sys
import typing
from collections import defaultdict
from pathlib import Path

from tsdsr.config import DistillConfig, Params, PhaseConfig
from tsdsr.config.section import Section

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "tsdsr" / "config"
PASSED_ON_WHOLE = {"AugmentConfig"}  # as keyword arguments

Kinds = frozenset[type[Section]]
NOTHING: Kinds = frozenset()


def sections(annotation: object) -> Kinds:
    """The sections in a type: `dict[str, PhaseConfig]`, `VaeConfig | None` ..."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return frozenset({annotation})
    return frozenset().union(*(sections(part) for part in typing.get_args(annotation)))


def all_sections(root: type[Section] = Params) -> dict[str, type[Section]]:
    inner = (kind for field in root.model_fields.values() for kind in sections(field.annotation))
    return {root.__name__: root} | {name: kind for found in inner for name, kind in all_sections(found).items()}


def owner(kind: type[Section], field: str) -> str:
    """The base that has the field first: code that reads it may know the section as any of its kind."""
    return next(base.__name__ for base in reversed(kind.__mro__) if field in getattr(base, "model_fields", ()))


CLASSES = all_sections()
NAMED = {
    name: found
    for module in [sys.modules[name] for name in sorted(sys.modules) if name.startswith("tsdsr.config")]
    for name, value in vars(module).items()
    if (found := sections(value))
}


class Reader:
    """The fields that a set of sources reads."""

    def __init__(self, sources: typing.Iterable[str]) -> None:
        self.trees = [ast.parse(source) for source in sources]
        self.read: set[tuple[str, str]] = set()
        # Of objects that are no sections. `tsdsr.methods.base` has these two as `Any`: they are of whichever method.
        self.attributes: dict[str, Kinds] = defaultdict(lambda: NOTHING)
        self.attributes |= {"config": frozenset({DistillConfig}), "phase": frozenset({PhaseConfig})}
        self.by_name: set[str] = set()  # sections of which a field is read by a name in a variable
        self.strings: set[str] = set()
        for _ in range(3):  # what is found of attributes in one file helps in another
            for tree in self.trees:
                self.follow(tree, {})
        named = [(CLASSES[name], text) for name in self.by_name for text in self.strings]
        self.read |= {(owner(kind, text), text) for kind, text in named if text in kind.model_fields}

    def follow(self, scope: ast.AST, names: dict[str, Kinds]) -> None:
        """Bind the scope's names, in order, and note what its expressions read."""
        for node in ast.iter_child_nodes(scope):
            inner = names
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                inner = dict(names)
                for argument in (*node.args.args, *node.args.kwonlyargs, *node.args.posonlyargs):
                    inner[argument.arg] = self.annotated(argument.annotation)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                kinds = self.annotated(node.annotation)
                names[node.target.id] = kinds
                self.attributes[node.target.id] |= kinds  # a field, where this is the body of a class
            elif isinstance(node, ast.Assign):
                for target in node.targets:
                    self.bind(target, node.value, names)
            elif isinstance(node, ast.NamedExpr):
                self.bind(node.target, node.value, names)
            elif isinstance(node, ast.For | ast.comprehension):
                self.bind(node.target, node.iter, names)
            elif isinstance(node, ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
                for generator in node.generators:
                    self.bind(generator.target, generator.iter, names)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                self.strings.add(node.value)
            if isinstance(node, ast.Attribute | ast.Call):
                self.kinds(node, names)
            self.follow(node, inner)

    def annotated(self, annotation: ast.AST | None) -> Kinds:
        words = {node.id for node in ast.walk(annotation) if isinstance(node, ast.Name)} if annotation else set()
        return frozenset().union(*(NAMED.get(word, NOTHING) for word in words))

    def bind(self, target: ast.AST, value: ast.AST, names: dict[str, Kinds]) -> None:
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
            for one, other in zip(target.elts, value.elts):
                self.bind(one, other, names)
            return
        kinds = self.kinds(value, names)
        for node in ast.walk(target):
            if isinstance(node, ast.Name):
                names[node.id] = kinds
            elif isinstance(node, ast.Attribute):
                self.attributes[node.attr] |= kinds

    def kinds(self, node: ast.AST, names: dict[str, Kinds]) -> Kinds:
        """The sections that an expression may be, or holds; notes the fields that it reads."""
        if isinstance(node, ast.Name):
            return names.get(node.id, NOTHING)
        if isinstance(node, ast.Attribute):
            return self.attribute(self.kinds(node.value, names), node.attr)
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name) and node.func.id == "getattr":
                of, name = self.kinds(node.args[0], names), node.args[1]
                if isinstance(name, ast.Constant):
                    return self.attribute(of, str(name.value))
                self.by_name |= {kind.__name__ for kind in of}
                return NOTHING
            if isinstance(node.func, ast.Attribute):
                return self.kinds(node.func, names)
            if isinstance(node.func, ast.Name) and node.func.id in NAMED:
                return NAMED[node.func.id]
            return frozenset().union(*(self.kinds(argument, names) for argument in node.args))
        if isinstance(node, ast.Subscript | ast.Starred):
            return self.kinds(node.value, names)
        if isinstance(node, ast.BoolOp | ast.IfExp):
            parts = node.values if isinstance(node, ast.BoolOp) else [node.body, node.orelse]
            return frozenset().union(*(self.kinds(part, names) for part in parts))
        return NOTHING

    def attribute(self, of: Kinds, name: str) -> Kinds:
        derived = [kind for kind in CLASSES.values() if issubclass(kind, tuple(of))]
        having = [kind for kind in derived if name in kind.model_fields]
        self.read |= {(owner(kind, name), name) for kind in having}
        if having:
            return self.named_section(name)
        # A section is known by its name; a method of one, or of what holds some, gives one again.
        return self.named_section(name) or of or self.attributes[name]

    def named_section(self, name: str) -> Kinds:
        of = {kind: kind.model_fields[name].annotation for kind in CLASSES.values() if name in kind.model_fields}
        found = {kind: sections(annotation) for kind, annotation in of.items() if sections(annotation)}
        self.read |= {(owner(kind, name), name) for kind in found}
        return NOTHING.union(*found.values())


def unread(read: set[tuple[str, str]]) -> list[str]:
    fields = {(owner(kind, field), field) for kind in CLASSES.values() for field in kind.model_fields}
    return sorted(f"{kind}.{field}" for kind, field in fields - read if kind not in PASSED_ON_WHOLE)


def test_every_key_of_params_is_read() -> None:
    paths = [
        path for room in ("tsdsr", "pipeline") for path in (ROOT / room).rglob("*.py") if CONFIG not in path.parents
    ]
    assert unread(Reader(path.read_text(encoding="utf-8") for path in paths).read) == []


def test_a_field_is_not_read_by_what_has_its_name_elsewhere() -> None:
    source = """
def train(params: Params, other) -> None:
    config, steps = params.distill, params.teacher.flow.steps
    for phase in config.phases.values():
        print(phase.share, other.log_every, config.to_dict())
"""
    read = Reader([source]).read
    assert read == {
        ("Params", "distill"),
        ("Params", "teacher"),
        ("TeacherConfig", "flow"),
        ("TeacherFlowConfig", "steps"),
        ("DistillConfig", "phases"),
        ("PhaseConfig", "share"),
    }
