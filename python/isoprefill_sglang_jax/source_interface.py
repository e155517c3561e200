"""Compares the interface of a Python package with an expected one, by reading its source: nothing is imported.

The expected interface is JSON:

    {"package.module": {
        "functions": {"name": ["argument", "*", "argument", "**kwargs"]},
        "classes": {"Name": {"methods": {"name": ["self", "argument"]}, "attributes": ["name"]}},
        "names": ["imported_or_assigned_name"]}}

Arguments are compared in order; `attributes` are fields of the class or names that its methods assign to `self`;
`names` are bound at the top of the module.

    python source_interface.py INTERFACE.json ROOT

prints the differences, one a line. It is a program that needs nothing but Python, because the source may be for a newer
Python than the one that isoprefill runs in.
"""

import ast
import json
import pathlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any

Function = ast.FunctionDef | ast.AsyncFunctionDef


def differences(root: pathlib.Path, interface: Mapping[str, Any]) -> list[str]:
    """Lists how the package under `root` differs from `interface`, in its order: "NAME: expected …, found …".

    Args:
        root: the directory that holds the package, as it would stand in sys.path.
    """
    return [
        difference
        for module, expected in interface.items()
        for difference in _module(root, module, expected)
    ]


def _module(root: pathlib.Path, module: str, expected: Mapping[str, Any]) -> Iterator[str]:
    path = root / (module.replace(".", "/") + ".py")
    if not path.exists():
        path = path.with_suffix("") / "__init__.py"
    if not path.exists():
        yield f"{module}: expected a module, found none"
        return
    try:
        tree = ast.parse(path.read_text(), str(path))
    except SyntaxError as error:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        found = f"{error.msg} in line {error.lineno}"
        yield f"{module}: expected source for Python {version}, found {found}"
        return
    functions = {node.name: node for node in tree.body if isinstance(node, Function)}
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    for name, arguments in expected.get("functions", {}).items():
        yield from _function(f"{module}.{name}", functions.get(name), arguments)
    for name, parts in expected.get("classes", {}).items():
        where = f"{module}.{name}"
        if name not in classes:
            yield f"{where}: expected a class, found none"
            continue
        yield from _class(where, classes[name], parts)
    bound = set(_bound_names(tree))
    for name in expected.get("names", []):
        if name not in bound:
            yield f"{module}.{name}: expected a name of the module, found none"


def _class(where: str, node: ast.ClassDef, expected: Mapping[str, Any]) -> Iterator[str]:
    methods = {part.name: part for part in node.body if isinstance(part, Function)}
    for name, arguments in expected.get("methods", {}).items():
        yield from _function(f"{where}.{name}", methods.get(name), arguments)
    attributes = set(_attributes(node)) | set(methods)
    for name in expected.get("attributes", []):
        if name not in attributes:
            yield f"{where}.{name}: expected an attribute, found none"


def _function(where: str, node: Function | None, expected: list[str]) -> Iterator[str]:
    found = None if node is None else _argument_names(node.args)
    if found != expected:
        told = "none" if found is None else f"({', '.join(found)})"
        yield f"{where}: expected ({', '.join(expected)}), found {told}"


def _argument_names(arguments: ast.arguments) -> list[str]:
    """Returns the names of a function's arguments, in order, with `/`, `*`, `*args` and `**kwargs` as in the source."""
    names = [argument.arg for argument in arguments.posonlyargs]
    if names:
        names.append("/")
    names += [argument.arg for argument in arguments.args]
    if arguments.vararg:
        names.append(f"*{arguments.vararg.arg}")
    elif arguments.kwonlyargs:
        names.append("*")
    names += [argument.arg for argument in arguments.kwonlyargs]
    return [*names, f"**{arguments.kwarg.arg}"] if arguments.kwarg else names


def _attributes(node: ast.ClassDef) -> Iterator[str]:
    for part in node.body:
        yield from _assigned_names(part)
    for inner in ast.walk(node):
        match inner:
            case ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store()):
                yield name


def _bound_names(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        yield from _assigned_names(node)
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from ((alias.asname or alias.name).split(".")[0] for alias in node.names)
        elif isinstance(node, Function | ast.ClassDef):
            yield node.name


def _assigned_names(node: ast.stmt) -> Iterator[str]:
    targets: list[ast.expr] = []
    if isinstance(node, ast.Assign):
        targets = node.targets
    elif isinstance(node, ast.AnnAssign):
        targets = [node.target]
    yield from (target.id for target in targets if isinstance(target, ast.Name))


def main(arguments: list[str]) -> None:
    """Prints the differences of the package under a directory from the interface in a file."""
    interface, root = map(pathlib.Path, arguments)
    for difference in differences(root, json.loads(interface.read_text())["interface"]):
        print(difference)


if __name__ == "__main__":
    main(sys.argv[1:])
