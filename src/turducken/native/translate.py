"""From a function in typed Python to LLVM assembly.

What is understood is small, and means the same in Python: assignments to names, fields of records
and elements; if, while, for over range, return; integer and boolean expressions; calls of other
functions of the unit, of functions whose addresses are in fields, and of `records.word_at` and its
kind. Names that are not local are constants of the function's module.

Integers have 64 bits; one that leaves them must be cut (``& MASK``) before it is looked at, or
Python would see another number. A value is signed if it comes from a signed field.
"""

import ast
import ctypes
import inspect
import textwrap
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from turducken.native import records
from turducken.native.records import Member, Record, signature_of

_SIGNED = frozenset({ctypes.c_int8, ctypes.c_int16, ctypes.c_int32, ctypes.c_int64})


@dataclass(frozen=True, slots=True)
class Value:
    """An operand of LLVM assembly and what it is.

    ``kind``: ``u`` and ``s`` are integers without and with sign, ``c`` a constant of either kind,
    ``b`` a truth value, ``r`` the address of ``record``, ``a`` the address of the array ``member``,
    ``f`` that of a function of type ``function``, ``n`` nothing.
    """

    text: str
    kind: str
    record: type[Record] | None = None
    member: Member | None = None
    function: Any = None


NOTHING = Value("", "n")


class NotTranslatableError(Exception):
    """A function uses what is not understood; the message says where."""


def translate(functions: Sequence[Callable[..., Any]], exported: Collection[str]) -> str:
    """Return the assembly of functions that may call each other; those ``exported`` are seen."""
    return "\n".join(
        _Function(one, functions).assembly(is_exported=one.__name__ in exported)
        for one in functions
    )


def _type(scalar: Any) -> str:
    return f"i{8 * ctypes.sizeof(scalar)}"


def _foreign(kind: Any) -> str:
    """Return the type of a parameter or result as C passes it."""
    if kind is None:
        return "void"
    if kind is bool or kind is ctypes.c_bool:
        return "i1"
    if isinstance(kind, type) and issubclass(kind, Record):
        return "i64"
    return _type(kind)


_ARITHMETIC = {ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.LShift: "shl"}
_BITS = {ast.BitAnd: "and", ast.BitOr: "or", ast.BitXor: "xor"}
_COMPARE = {ast.Lt: "lt", ast.LtE: "le", ast.Gt: "gt", ast.GtE: "ge"}
_BUILTINS = {"int": int, "bool": bool}
_MEMORY = {records.word_at: 64, records.dword_at: 32, records.byte_at: 8}


class _Function:
    """One function on its way."""

    def __init__(self, function: Callable[..., Any], unit: Sequence[Callable[..., Any]]) -> None:
        self._function, self._unit = function, unit
        self._signature = signature_of(function)
        (self._tree,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
        self._globals: dict[str, Any] = function.__globals__
        self._lines: list[str] = []
        self._locals: dict[str, Value] = {}
        self._slots: list[str] = []
        self._number = 0
        self._is_closed = False
        self._loops: list[tuple[str, str]] = []

    def assembly(self, *, is_exported: bool) -> str:
        """Return the whole function."""
        assert isinstance(self._tree, ast.FunctionDef)
        parameters = []
        for name, kind in self._signature.parameters.items():
            parameters.append(f"{_foreign(kind)} %p.{name}")
            self._bind(name, self._received(f"%p.{name}", kind))
        self._block(self._tree.body)
        if not self._is_closed:
            if self._signature.result is not None:
                self._fail(self._tree, "it does not return on every path")
            self._put("ret void")
        result = _foreign(self._signature.result)
        extension = "zeroext " if result == "i1" else ""
        linkage = "" if is_exported else "internal "
        name = f"@{self._function.__name__}({', '.join(parameters)})"
        head = f"define {linkage}{extension}{result} {name} {{"
        return "\n".join([head, "entry:", *self._slots, *self._lines, "}"])

    def _received(self, text: str, kind: Any) -> Value:
        if isinstance(kind, type) and issubclass(kind, Record):
            return Value(text, "r", kind)
        if _foreign(kind) == "i1":
            return Value(text, "b")
        return self._widen(text, kind)

    def _widen(self, text: str, scalar: Any) -> Value:
        is_signed = scalar in _SIGNED
        if ctypes.sizeof(scalar) < 8:
            text = self._new(f"{'sext' if is_signed else 'zext'} {_type(scalar)} {text} to i64")
        return Value(text, "s" if is_signed else "u")

    # Bookkeeping

    def _error(self, node: ast.AST, why: str) -> NotTranslatableError:
        line = getattr(node, "lineno", 0)
        return NotTranslatableError(f"{self._function.__qualname__}, line {line}: {why}")

    def _fail(self, node: ast.AST, why: str) -> NoReturn:
        raise self._error(node, why)

    def _put(self, line: str) -> None:
        if not self._is_closed:
            self._lines.append(f"  {line}")
        self._is_closed = self._is_closed or line.startswith(("ret", "br"))

    def _new(self, operation: str) -> str:
        self._number += 1
        name = f"%v{self._number}"
        self._put(f"{name} = {operation}")
        return name

    def _label(self) -> str:
        self._number += 1
        return f"l{self._number}"

    def _begin(self, label: str) -> None:
        self._put(f"br label %{label}")
        self._lines.append(f"{label}:")
        self._is_closed = False

    def _branch(self, condition: Value, yes: str, no: str) -> None:
        self._put(f"br i1 {condition.text}, label %{yes}, label %{no}")

    def _bind(self, name: str, value: Value) -> None:
        """Give a local variable a value; its kind is that of its first one."""
        known = self._locals.get(name)
        is_truth = value.kind == "b"
        if known is None:
            slot = f"%s.{name}"
            self._slots.append(f"  {slot} = alloca {'i1' if is_truth else 'i64'}")
            kind = "u" if value.kind == "c" else value.kind
            known = Value(slot, kind, value.record, value.member, value.function)
            self._locals[name] = known
        elif (known.kind == "b") != is_truth:
            self._fail(self._tree, f"{name} is a number here and a truth value there")
        kind = "i1" if is_truth else "i64"
        self._put(f"store {kind} {value.text}, {kind}* {known.text}")

    # Statements

    def _block(self, statements: Sequence[ast.stmt]) -> None:
        for one in statements:
            if self._is_closed:
                return
            self._statement(one)

    def _statement(self, node: ast.stmt) -> None:
        match node:
            case ast.Assign(targets=[ast.Tuple(elts=targets)], value=ast.Tuple(elts=values)):
                pairs = zip(targets, [self._expression(one) for one in values], strict=True)
                for place, result in pairs:
                    self._assign(place, result)
            case ast.Assign(targets=[target], value=value):
                self._assign(target, self._expression(value))
            case ast.AnnAssign(target=target, value=ast.expr() as value):
                self._assign(target, self._expression(value))
            case ast.AugAssign(target=target, op=operator, value=value):
                both = ast.BinOp(left=_as_load(target), op=operator, right=value)
                self._assign(target, self._expression(ast.copy_location(both, node)))
            case ast.If(test=test, body=body, orelse=other):
                self._if(test, body, other)
            case ast.While(test=test, body=body, orelse=[]):
                self._while(test, body)
            case ast.For(target=ast.Name(id=name), iter=ast.Call(args=[end]), body=body, orelse=[]):
                self._for(name, end, body)
            case ast.Return(value=None):
                self._put("ret void")
            case ast.Return(value=ast.expr() as value):
                self._return(node, self._expression(value))
            case ast.Expr(value=ast.Constant()) | ast.Pass() | ast.Assert():
                pass
            case ast.Expr(value=value):
                self._expression(value)
            case ast.Break():
                self._put(f"br label %{self._loops[-1][1]}")
            case ast.Continue():
                self._put(f"br label %{self._loops[-1][0]}")
            case _:
                self._fail(node, f"no statement for native code: {ast.unparse(node)}")

    def _assign(self, target: ast.expr, value: Value) -> None:
        if isinstance(target, ast.Name):
            self._bind(target.id, value)
            return
        address, member = self._place(target)
        if member.is_reference:
            self._put(f"store i64 {value.text}, i64* {self._pointer(address, 64)}")
            return
        if member.scalar is None:
            self._fail(target, "only numbers and references are stored")
        self._store(address, 8 * ctypes.sizeof(member.scalar), self._integer(target, value))

    def _store(self, address: str, bits: int, value: Value) -> None:
        text = value.text if bits == 64 else self._new(f"trunc i64 {value.text} to i{bits}")
        self._put(f"store i{bits} {text}, i{bits}* {self._pointer(address, bits)}")

    def _if(self, test: ast.expr, body: Sequence[ast.stmt], other: Sequence[ast.stmt]) -> None:
        yes, no, end = self._label(), self._label(), self._label()
        self._condition(test, yes, no if other else end)
        self._lines.append(f"{yes}:")
        self._is_closed = False
        self._block(body)
        self._put(f"br label %{end}")
        if other:
            self._lines.append(f"{no}:")
            self._is_closed = False
            self._block(other)
            self._put(f"br label %{end}")
        self._lines.append(f"{end}:")
        self._is_closed = False
        if other and _ends(body) and _ends(other):
            self._put("br label %" + end)  # nothing comes here

    def _while(self, test: ast.expr, body: Sequence[ast.stmt]) -> None:
        again, inside, end = self._label(), self._label(), self._label()
        self._begin(again)
        self._condition(test, inside, end)
        self._inside(body, inside, again, end)

    def _inside(self, body: Sequence[ast.stmt], inside: str, again: str, end: str) -> None:
        self._lines.append(f"{inside}:")
        self._is_closed = False
        self._loops.append((again, end))
        self._block(body)
        self._loops.pop()
        self._put(f"br label %{again}")
        self._lines.append(f"{end}:")
        self._is_closed = False

    def _for(self, name: str, end: ast.expr, body: Sequence[ast.stmt]) -> None:
        limit = self._integer(end, self._expression(end))
        counter = f"{name}.next"
        self._bind(counter, Value("0", "u"))
        again, inside, out = self._label(), self._label(), self._label()
        self._begin(again)
        now = self._read(self._locals[counter])
        self._branch(Value(self._new(f"icmp ult i64 {now.text}, {limit.text}"), "b"), inside, out)
        self._lines.append(f"{inside}:")
        self._is_closed = False
        self._bind(name, now)
        self._bind(counter, Value(self._new(f"add i64 {now.text}, 1"), "u"))
        self._loops.append((again, out))
        self._block(body)
        self._loops.pop()
        self._put(f"br label %{again}")
        self._lines.append(f"{out}:")
        self._is_closed = False

    def _return(self, node: ast.stmt, value: Value) -> None:
        wanted = self._signature.result
        if _foreign(wanted) == "i1":
            self._put(f"ret i1 {self._truth(node, value).text}")
        elif _foreign(wanted) == "void":
            self._fail(node, "it returns a value against its annotation")
        else:
            self._put(f"ret {_foreign(wanted)} {self._passed(node, value, wanted)}")

    # Expressions

    def _expression(self, node: ast.expr) -> Value:
        match node:
            case ast.Constant(value=bool() as truth):
                return Value("1" if truth else "0", "b")
            case ast.Constant(value=int() as number):
                return _constant(number)
            case ast.Name(id=name):
                if name in self._locals:
                    return self._read(self._locals[name])
                return self._known(node)
            case ast.Attribute() | ast.Subscript():
                return self._load(node)
            case ast.BinOp(left=left, op=operator, right=right):
                return self._binary(node, operator, left, right)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                negated = self._truth(operand, self._expression(operand))
                return Value(self._new(f"xor i1 {negated.text}, 1"), "b")
            case ast.UnaryOp(op=ast.Invert(), operand=operand):
                value = self._integer(operand, self._expression(operand))
                if value.kind == "c":
                    return _constant(~int(value.text))
                return Value(self._new(f"xor i64 {value.text}, -1"), value.kind)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                value = self._integer(operand, self._expression(operand))
                return Value(self._new(f"sub i64 0, {value.text}"), value.kind)
            case ast.Compare(left=left, ops=operators, comparators=others):
                return self._compare(node, [left, *others], operators)
            case ast.BoolOp() | ast.IfExp():
                return self._choice(node)
            case ast.Call(func=called, args=arguments, keywords=[]):
                return self._call(node, called, arguments)
            case _:
                raise self._error(node, f"no expression for native code: {ast.unparse(node)}")

    def _read(self, local: Value) -> Value:
        kind = "i1" if local.kind == "b" else "i64"
        text = self._new(f"load {kind}, {kind}* {local.text}")
        return Value(text, local.kind, local.record, local.member, local.function)

    def _known(self, node: ast.expr) -> Value:
        """Return a constant of the module."""
        found = self._global(node)
        if isinstance(found, bool):
            return Value(str(int(found)), "b")
        if isinstance(found, int):
            return _constant(int(found))
        raise self._error(node, f"not known here: {ast.unparse(node)}")

    def _global(self, node: ast.expr) -> Any:
        """Return what an expression of module-level names is, or None."""
        if isinstance(node, ast.Name):
            return self._globals.get(node.id, _BUILTINS.get(node.id))
        if isinstance(node, ast.Attribute):
            owner = self._global(node.value)
            return None if owner is None else getattr(owner, node.attr, None)
        return None

    def _load(self, node: ast.Attribute | ast.Subscript) -> Value:
        if isinstance(node, ast.Attribute):
            root: ast.expr = node
            while isinstance(root, ast.Attribute | ast.Subscript):
                root = root.value
            if isinstance(root, ast.Name) and root.id not in self._locals:
                return self._known(node)
            if node.attr == "address":
                return Value(self._expression(node.value).text, "u")
        address, member = self._place(node)
        if member.is_reference:
            text = self._new(f"load i64, i64* {self._pointer(address, 64)}")
            return Value(text, "r", member.record)
        if member.count is not None:
            return Value(address, "a", member=member)
        if member.record is not None:
            return Value(address, "r", member.record)
        if member.function is not None:
            text = self._new(f"load i64, i64* {self._pointer(address, 64)}")
            return Value(text, "f", function=member.function)
        bits = 8 * ctypes.sizeof(member.scalar)  # type: ignore[arg-type]
        loaded = self._new(f"load i{bits}, i{bits}* {self._pointer(address, bits)}")
        return self._widen(loaded, member.scalar)

    def _pointer(self, address: str, bits: int) -> str:
        return self._new(f"inttoptr i64 {address} to i{bits}*")

    def _place(self, node: ast.expr) -> tuple[str, Member]:
        """Return the address of a field or element, and what is there."""
        if isinstance(node, ast.Attribute):
            owner = self._expression(node.value)
            if owner.kind != "r" or owner.record is None:
                self._fail(node, f"not a record: {ast.unparse(node.value)}")
            member = owner.record.members.get(node.attr)
            if member is None:
                self._fail(node, f"{owner.record.__name__} has no field {node.attr}")
            return self._sum(owner.text, str(member.offset)), member
        if isinstance(node, ast.Subscript):
            array = self._expression(node.value)
            if array.kind != "a" or array.member is None:
                self._fail(node, f"not an array: {ast.unparse(node.value)}")
            index = self._integer(node.slice, self._expression(node.slice))
            element = Member(0, array.member.scalar, array.member.record)
            size = ctypes.sizeof(element.record or element.scalar)  # type: ignore[arg-type]
            scaled = self._new(f"mul i64 {index.text}, {size}")
            return self._sum(array.text, scaled), element
        raise self._error(node, f"no place in memory: {ast.unparse(node)}")

    def _sum(self, left: str, right: str) -> str:
        return left if right == "0" else self._new(f"add i64 {left}, {right}")

    def _binary(
        self, node: ast.expr, operator: ast.operator, left: ast.expr, right: ast.expr
    ) -> Value:
        a = self._integer(left, self._expression(left))
        b = self._integer(right, self._expression(right))
        kind = _joined(a, b)
        if kind == "c":
            code = compile(ast.Expression(node), "", "eval")
            return _constant(eval(code, self._globals))  # a constant of the module
        name = _ARITHMETIC.get(type(operator)) or _BITS.get(type(operator))
        if isinstance(operator, ast.RShift):
            name, kind = ("ashr", "s") if a.kind == "s" else ("lshr", "u")
        elif isinstance(operator, ast.FloorDiv | ast.Mod) and kind == "u":
            name = "udiv" if isinstance(operator, ast.FloorDiv) else "urem"
        if name is None:
            self._fail(node, f"no operator for native code: {ast.unparse(node)}")
        return Value(self._new(f"{name} i64 {a.text}, {b.text}"), kind)

    def _compare(
        self, node: ast.expr, operands: list[ast.expr], operators: list[ast.cmpop]
    ) -> Value:
        if isinstance(operators[0], ast.In | ast.NotIn) and isinstance(operands[1], ast.Tuple):
            is_in = isinstance(operators[0], ast.In)
            each = ast.Eq() if is_in else ast.NotEq()
            tests: list[ast.expr] = [
                ast.Compare(operands[0], [each], [one]) for one in operands[1].elts
            ]
            return self._choice(ast.BoolOp(ast.Or() if is_in else ast.And(), tests))
        values = [self._expression(one) for one in operands]
        result: Value | None = None
        for a, b, operator in zip(values, values[1:], operators, strict=False):
            one = self._compare_two(node, a, b, operator)
            if result is not None:
                one = Value(self._new(f"and i1 {result.text}, {one.text}"), "b")
            result = one
        assert result is not None
        return result

    def _compare_two(self, node: ast.expr, a: Value, b: Value, operator: ast.cmpop) -> Value:
        if a.kind == "b" and b.kind == "b" and isinstance(operator, ast.Eq | ast.NotEq):
            name = "eq" if isinstance(operator, ast.Eq) else "ne"
            return Value(self._new(f"icmp {name} i1 {a.text}, {b.text}"), "b")
        a, b = self._integer(node, a), self._integer(node, b)
        if isinstance(operator, ast.Eq | ast.NotEq):
            name = "eq" if isinstance(operator, ast.Eq) else "ne"
        else:
            sign = "s" if _joined(a, b) == "s" else "u"
            name = sign + _COMPARE[type(operator)]
        return Value(self._new(f"icmp {name} i64 {a.text}, {b.text}"), "b")

    def _condition(self, node: ast.expr, yes: str, no: str) -> None:
        """Branch on an expression, looking at no more of it than Python does."""
        if isinstance(node, ast.BoolOp):
            is_and = isinstance(node.op, ast.And)
            for one in node.values[:-1]:
                following = self._label()
                self._condition(one, following if is_and else yes, no if is_and else following)
                self._lines.append(f"{following}:")
                self._is_closed = False
            self._condition(node.values[-1], yes, no)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            self._condition(node.operand, no, yes)
        else:
            self._branch(self._truth(node, self._expression(node)), yes, no)

    def _choice(self, node: ast.BoolOp | ast.IfExp) -> Value:
        """Compute ``a and b``, ``a or b`` (truth values) and ``a if c else b``."""
        test, yes_value, no_value = (
            (node.test, node.body, node.orelse)
            if isinstance(node, ast.IfExp)
            else (node, ast.Constant(value=True), ast.Constant(value=False))
        )
        yes, no, end = self._label(), self._label(), self._label()
        name = f"choice.{end}"
        self._condition(test, yes, no)
        for label, value in ((yes, yes_value), (no, no_value)):
            self._lines.append(f"{label}:")
            self._is_closed = False
            self._bind(name, self._expression(value))
            self._put(f"br label %{end}")
        self._lines.append(f"{end}:")
        self._is_closed = False
        return self._read(self._locals[name])

    def _call(self, node: ast.expr, called: ast.expr, arguments: list[ast.expr]) -> Value:
        target = None if self._is_local(called) else self._global(called)
        values = [self._expression(one) for one in arguments]
        if target in _MEMORY:
            bits = _MEMORY[target]
            address = self._integer(node, values[0])
            loaded = self._new(f"load i{bits}, i{bits}* {self._pointer(address.text, bits)}")
            return Value(loaded if bits == 64 else self._new(f"zext i{bits} {loaded} to i64"), "u")
        if target is records.set_word_at:
            self._store(values[0].text, 64, self._integer(node, values[1]))
            return NOTHING
        if target is int:
            return self._integer(node, values[0])
        if target is bool:
            return self._truth(node, values[0])
        if isinstance(called, ast.Attribute) and called.attr == "at":
            kind = self._global(called.value)
            if isinstance(kind, type) and issubclass(kind, Record):
                return Value(self._integer(node, values[0]).text, "r", kind)
        if target is not None and target in self._unit:
            return self._call_of_unit(node, target, values)
        pointer = self._expression(called)
        if pointer.kind != "f":
            self._fail(node, f"no function for native code: {ast.unparse(called)}")
        return self._call_pointer(node, pointer, values)

    def _is_local(self, node: ast.expr) -> bool:
        while isinstance(node, ast.Attribute | ast.Subscript):
            node = node.value
        return isinstance(node, ast.Name) and node.id in self._locals

    def _call_of_unit(
        self, node: ast.expr, target: Callable[..., Any], values: list[Value]
    ) -> Value:
        signature = signature_of(target)
        kinds = list(signature.parameters.values())
        return self._emit_call(node, f"@{target.__name__}", kinds, signature.result, values)

    def _call_pointer(self, node: ast.expr, pointer: Value, values: list[Value]) -> Value:
        kinds, result = list(pointer.function._argtypes_), pointer.function._restype_
        types = ", ".join(_foreign(_unpointed(one)) for one in kinds)
        kind = f"{_foreign(result)} ({types})*"
        callee = self._new(f"inttoptr i64 {pointer.text} to {kind}")
        return self._emit_call(node, callee, kinds, result, values)

    def _emit_call(
        self, node: ast.expr, callee: str, kinds: list[Any], result: Any, values: list[Value]
    ) -> Value:
        if len(kinds) != len(values):
            self._fail(node, f"{len(kinds)} arguments are wanted: {ast.unparse(node)}")
        passed = ", ".join(
            f"{_foreign(_unpointed(kind))} {self._passed(node, value, _unpointed(kind))}"
            for kind, value in zip(kinds, values, strict=True)
        )
        foreign = _foreign(result)
        if foreign == "void":
            self._put(f"call void {callee}({passed})")
            return NOTHING
        extension = "zeroext " if foreign == "i1" else ""
        return self._received(self._new(f"call {extension}{foreign} {callee}({passed})"), result)

    def _passed(self, node: ast.AST, value: Value, kind: Any) -> str:
        foreign = _foreign(kind)
        if foreign == "i1":
            return self._truth(node, value).text
        text = value.text if value.kind in "ra" else self._integer(node, value).text
        return text if foreign == "i64" else self._new(f"trunc i64 {text} to {foreign}")

    # Kinds

    def _integer(self, node: ast.AST, value: Value) -> Value:
        if value.kind == "b":
            return Value(self._new(f"zext i1 {value.text} to i64"), "u")
        if value.kind not in "usc":
            self._fail(node, "a number is wanted")
        return value

    def _truth(self, node: ast.AST, value: Value) -> Value:
        if value.kind == "b":
            return value
        return Value(self._new(f"icmp ne i64 {self._integer(node, value).text}, 0"), "b")


def _constant(value: int) -> Value:
    return Value(str(value if value < 1 << 63 else value - (1 << 64)), "c")


def _joined(a: Value, b: Value) -> str:
    if a.kind == "c" and b.kind == "c":
        return "c"
    return "s" if "s" in (a.kind, b.kind) else "u"


def _unpointed(kind: Any) -> Any:
    """Return what a ctypes parameter is passed as: an address is a word."""
    is_pointer = kind is ctypes.c_void_p or issubclass(kind, ctypes._Pointer)
    return ctypes.c_uint64 if is_pointer else kind


def _as_load(target: ast.expr) -> ast.expr:
    return ast.parse(ast.unparse(target), mode="eval").body


def _ends(statements: Sequence[ast.stmt]) -> bool:
    """Tell whether control leaves a block for good."""
    last = statements[-1]
    if isinstance(last, ast.If):
        return bool(last.orelse) and _ends(last.body) and _ends(last.orelse)
    return isinstance(last, ast.Return | ast.Break | ast.Continue)
