"""Where code uses what a class is called, other than to say it."""

from __future__ import annotations

import ast

NAMES = ("__name__", "__qualname__")
#: Functions whose result is a text; of a class, one with its name.
TEXTS = ("str", "repr", "format", "ascii")
#: Methods that decide by a text.
LOOK_UPS = (
    "get", "pop", "setdefault", "startswith", "endswith", "count", "find", "index",
    "match", "search", "fullmatch", "findall",
)  # fmt: skip
#: Functions that give a class's name: PyTorch's, and this package's for messages.
NAMERS = ("_get_name", "name_of")


def class_name_uses(tree: ast.AST) -> list[int]:
    """The lines that use the name of a class, or of a function, and say it in no message.

    A message is an f-string with words, that is with a space outside of its braces, which nothing
    compares, looks up or matches where it stands. Of a message that is put into a variable first
    nobody knows what becomes of it.
    """
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    classes = _names_of_classes(tree)

    def is_class(node: ast.AST) -> bool:
        if isinstance(node, ast.Call):
            return isinstance(node.func, ast.Name) and node.func.id == "type"
        if isinstance(node, ast.Attribute):
            return node.attr == "__class__"
        return isinstance(node, ast.Name) and node.id in classes

    def is_use(node: ast.AST) -> bool:
        if isinstance(node, ast.Attribute):
            return node.attr in NAMES
        if isinstance(node, ast.Constant):  # getattr, attrgetter, vars
            return str(node.value).rpartition(".")[2] in NAMES
        if isinstance(node, ast.FormattedValue):
            return is_class(node.value)
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            return name in NAMERS or (name in TEXTS and any(map(is_class, node.args)))
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod):
            values = node.right.elts if isinstance(node.right, ast.Tuple) else [node.right]
            return any(map(is_class, values))
        return False

    def is_said(node: ast.AST) -> bool:
        """Whether a message says it, and nothing decides by that message."""
        message = False
        while node in parents and not isinstance(node, ast.stmt):
            above = parents[node]
            if _decides(above, node):
                return False
            if isinstance(above, ast.JoinedStr):
                texts = [v.value for v in above.values if isinstance(v, ast.Constant)]
                message = message or any(" " in str(text) for text in texts)
            node = above
        return message

    return sorted(node.lineno for node in ast.walk(tree) if is_use(node) and not is_said(node))


def _names_of_classes(tree: ast.AST) -> set[str]:
    """Variables that hold the class of something."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            value, targets = node.value, node.targets
        elif isinstance(node, ast.NamedExpr | ast.AnnAssign) and node.value is not None:
            value, targets = node.value, [node.target]
        elif isinstance(node, ast.For | ast.comprehension):
            value, targets = node.iter, [node.target]
        else:
            continue
        text = ast.unparse(value)
        if text.startswith("type(") or any(
            part in text for part in (".__class__", ".__mro__", ".mro()", "getmro(")
        ):
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def _decides(above: ast.AST, node: ast.AST) -> bool:
    """Whether something is decided by the value of ``node``, a part of ``above``."""
    if isinstance(above, ast.Compare):
        return True
    if isinstance(above, ast.Match):
        return node is above.subject
    if isinstance(above, ast.Subscript):
        return node is above.slice
    if isinstance(above, ast.Dict):
        return node in above.keys
    if isinstance(above, ast.Call) and isinstance(above.func, ast.Attribute):
        return node is not above.func and above.func.attr in LOOK_UPS
    if isinstance(above, ast.Attribute):
        return above.attr in LOOK_UPS
    return False
