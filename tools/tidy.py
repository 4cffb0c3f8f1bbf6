"""House rules that no linter knows, checked on the syntax tree: `python tools/tidy.py [FOLDER]`.

Without a folder: all rules on the package, the length of files and their names on the tests too.
Each rule is a function from one module to the places that break it; `tests/house/test_tidy.py`
plants a breach of each. A line may be excused by a comment that names the rule and says why:

    def data_received(self, a, b, c):  # tidy: keyword-only -- the interface is asyncio's
"""

import ast
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 60
PARAMETERS_MAX = 6
POSITIONAL_MAX = 3
DOCSTRING_FROM_LINES = 20
REASON_CHARS_MIN = 8

BANNED_FILES = {"utils", "util", "helpers", "helper", "misc", "common", "base", "manager"}
BANNED_IMPORTS = {"pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
BANNED_CLASSES = re.compile(r"(Manager|Helper|Util|Utils)$")
# Spelled in halves, so that this file does not break its own rule.
BANNED_WORDS = re.compile(r"\b(" + "|".join(["TO" + "DO", "FIX" + "ME", "X" * 3]) + r")\b")
SILENCED = re.compile(
    r"#\s*(noqa\b(:\s*[A-Z0-9]+(\s*,\s*[A-Z0-9]+)*)?|type:\s*ignore(\[[\w, -]+\])?)"
)
EXCUSE = re.compile(r"#\s*tidy:\s*([a-z-]+)\s+--\s+(\S.*)")

CLOCKS = {
    "time.time",
    "time.time_ns",
    "time.monotonic",
    "time.monotonic_ns",
    "time.perf_counter",
    "time.perf_counter_ns",
    "time.sleep",
    "datetime.datetime.now",
    "datetime.datetime.utcnow",
    "datetime.datetime.today",
    "datetime.date.today",
}
CHANCES = {"os.urandom", "uuid.uuid1", "uuid.uuid4"}
CHANCE_MODULES = {"random", "secrets"}
CHANCE_ARGUMENTS = {"random.Random", "secrets.compare_digest"}
ENVIRONMENTS = {"os.environ", "os.environb", "os.getenv"}


@dataclass(frozen=True, slots=True)
class Module:
    """One source file; `path` is relative to the package (`spec/canon.py`)."""

    path: PurePosixPath
    source: str
    tree: ast.Module
    names: dict[str, str]
    """What an imported name stands for: `sleep` -> `time.sleep`."""
    nodes: tuple[ast.AST, ...]
    """The whole tree, walked once for all rules."""

    @property
    def package(self) -> str:
        return self.path.parts[0] if len(self.path.parts) > 1 else ""


@dataclass(frozen=True, slots=True)
class Breach:
    path: PurePosixPath
    line: int
    rule: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.rule}: {self.reason}"


Found = Iterator[tuple[int, str]]
Rule = Callable[[Module], Found]


def parse(path: PurePosixPath, source: str) -> Module:
    tree = ast.parse(source)
    nodes = tuple(ast.walk(tree))
    return Module(path=path, source=source, tree=tree, names=_imported(nodes), nodes=nodes)


def outline(path: PurePosixPath, source: str) -> Module:
    """A module without its tree: enough for the rules on tests."""
    return Module(path=path, source=source, tree=ast.Module([], []), names={}, nodes=())


def check(module: Module, rules: Mapping[str, "Rule"] | None = None) -> list[Breach]:
    """Every breach in one module that is not excused, of all rules or of these."""
    lines = module.source.splitlines()
    breaches = []
    for rule, find in (RULES if rules is None else rules).items():
        for line, reason in find(module):
            excuse = EXCUSE.search(lines[line - 1]) if line <= len(lines) else None
            if excuse is None or excuse[1] != rule or len(excuse[2]) < REASON_CHARS_MIN:
                breaches.append(Breach(module.path, line, rule, reason))
    return breaches


def check_tree(root: Path) -> list[Breach]:
    """Every breach under a package folder."""
    breaches = []
    for path, source in _modules(root):
        breaches += check(parse(path, source))
    return breaches


def check_tests(root: Path) -> list[Breach]:
    """Every breach of the rules on tests under a folder."""
    breaches = []
    for path, source in _modules(root):
        breaches += check(outline(path, source), TEST_RULES)
    return breaches


def file_length(module: Module) -> Found:
    count = len(module.source.splitlines())
    if count > FILE_LINES_MAX:
        yield count, f"{count} lines; a file holds one noun in at most {FILE_LINES_MAX}"


def file_name(module: Module) -> Found:
    if module.path.stem in BANNED_FILES:
        yield 1, f"{module.path.stem} names no noun; what has no name has no place yet"


def module_docstring(module: Module) -> Found:
    is_long = len(module.source.splitlines()) > DOCSTRING_FROM_LINES
    if is_long and not ast.get_docstring(module.tree):
        yield 1, "a module says what it is and why it exists"


def function_length(module: Module) -> Found:
    for function in _functions(module):
        count = (function.end_lineno or function.lineno) - function.lineno + 1
        if count > FUNCTION_LINES_MAX:
            yield function.lineno, f"{function.name} has {count} lines, over {FUNCTION_LINES_MAX}"


def parameters(module: Module) -> Found:
    for function in _functions(module):
        count = len(_positional(function)) + len(function.args.kwonlyargs)
        if count > PARAMETERS_MAX:
            yield function.lineno, f"{function.name} takes {count}, over {PARAMETERS_MAX}"


def keyword_only(module: Module) -> Found:
    for function in _functions(module):
        count = len(_positional(function))
        is_dunder = function.name.startswith("__") and function.name != "__init__"
        if count > POSITIONAL_MAX and not is_dunder:
            yield function.lineno, f"{function.name}: keyword-only after {POSITIONAL_MAX}"


def mutable_default(module: Module) -> Found:
    for function in _functions(module):
        for default in [*function.args.defaults, *function.args.kw_defaults]:
            made = isinstance(default, ast.Call) and _dotted(module, default.func) in _CONTAINERS
            if made or isinstance(default, _LITERALS):
                yield function.lineno, f"{function.name} shares one default between its calls"


def swallowed(module: Module) -> Found:
    """Only supervise() may catch whatever comes; elsewhere a broad catch must raise on."""
    for node in module.nodes:
        if isinstance(node, ast.ExceptHandler):
            is_broad = node.type is None or bool(_caught(module, node.type) & _BROAD)
            last = node.body[-1]
            raises_on = isinstance(last, ast.Raise) and last.exc is None
            if is_broad and not raises_on and module.path != _TASKS:
                yield node.lineno, "catch only what you can act on"
            if all(_is_nothing(statement) for statement in node.body) and not _says(module, node):
                yield node.lineno, "an error is dropped without a comment that says why"
        elif isinstance(node, ast.Call) and _dotted(module, node.func) == "contextlib.suppress":
            broad = [argument for argument in node.args if _caught(module, argument) & _BROAD]
            for argument in broad:
                yield argument.lineno, "suppress only what you can name"


def ambient(module: Module) -> Found:
    """Time, chance and environment come as arguments; adapters hold the real ones."""
    is_adapter = module.package == "adapters" or str(module.path) == "kit/clock.py"
    for node in module.nodes:
        if not isinstance(node, ast.Attribute | ast.Name) or not isinstance(node.ctx, ast.Load):
            continue
        name = _dotted(module, node)
        root, _, rest = name.partition(".")
        is_chance = name in CHANCES or (
            root in CHANCE_MODULES and bool(rest) and name not in CHANCE_ARGUMENTS
        )
        if name in CLOCKS and not is_adapter:
            yield node.lineno, f"{name}: take a Clock"
        elif is_chance and not is_adapter:
            yield node.lineno, f"{name}: take chance as an argument"
        elif name in ENVIRONMENTS and str(module.path) != "kit/environment.py":
            yield node.lineno, f"{name}: the environment is read in kit/environment.py"


def bare_task(module: Module) -> Found:
    for node in module.nodes:
        if not isinstance(node, ast.Call) or module.path == _TASKS:
            continue
        name = _dotted(module, node.func)
        owner, _, method = name.rpartition(".")
        is_bare = name in {"asyncio.create_task", "asyncio.ensure_future"}
        is_of_loop = method == "create_task" and owner.rpartition(".")[2].endswith("loop")
        if is_bare or is_of_loop:
            yield node.lineno, f"{name}: start tasks in a TaskGroup or a supervised scope"


def unbounded_queue(module: Module) -> Found:
    kinds = {"asyncio.Queue", "asyncio.LifoQueue", "asyncio.PriorityQueue", "queue.Queue"}
    for node in module.nodes:
        if isinstance(node, ast.Call) and not node.args and not node.keywords:
            name = _dotted(module, node.func)
            if name in kinds:
                yield node.lineno, f"{name} without a bound"


def banned_import(module: Module) -> Found:
    for node in module.nodes:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            continue
        for name in names:
            if name.partition(".")[0] in BANNED_IMPORTS:
                yield node.lineno, f"{name} runs what it reads"


def class_name(module: Module) -> Found:
    for node in module.nodes:
        if isinstance(node, ast.ClassDef) and BANNED_CLASSES.search(node.name):
            yield node.lineno, f"{node.name} says nothing of what it holds"


def banned_word(module: Module) -> Found:
    for number, line in enumerate(module.source.splitlines(), start=1):
        if BANNED_WORDS.search(line):
            yield number, "do it now, or write it in an issue"


def silenced(module: Module) -> Found:
    for number, line in enumerate(module.source.splitlines(), start=1):
        silence = SILENCED.search(line)
        if (
            silence
            and len(SILENCED.sub("", line[silence.start() :]).strip(" #-:")) < REASON_CHARS_MIN
        ):
            yield number, "a silenced check gives its reason on the line"


def pure_law(module: Module) -> Found:
    """In spec: whole numbers only, no async, no global state."""
    if module.package != "spec":
        return
    for node in module.nodes:
        match node:
            case ast.Constant(value=float() | complex()):
                yield node.lineno, "a fraction; the law counts in whole numbers"
            case ast.BinOp(op=ast.Div()) | ast.AugAssign(op=ast.Div()):
                yield node.lineno, "`/` makes a fraction; say // and who gets the rest"
            case ast.Call(func=ast.Name(id="float" | "open" | "print" | "input" as name)):
                yield node.lineno, f"{name}() has no place in the law"
            case ast.AsyncFunctionDef() | ast.Await() | ast.AsyncFor() | ast.AsyncWith():
                yield node.lineno, "the law waits for nothing"
            case ast.Global() | ast.Nonlocal():
                yield node.lineno, "the law remembers nothing"


RULES: dict[str, Rule] = {
    "file-length": file_length,
    "file-name": file_name,
    "module-docstring": module_docstring,
    "function-length": function_length,
    "parameters": parameters,
    "keyword-only": keyword_only,
    "mutable-default": mutable_default,
    "swallowed": swallowed,
    "ambient": ambient,
    "bare-task": bare_task,
    "unbounded-queue": unbounded_queue,
    "banned-import": banned_import,
    "class-name": class_name,
    "banned-word": banned_word,
    "silenced": silenced,
    "pure-law": pure_law,
}

TEST_RULES: dict[str, Rule] = {"file-length": file_length, "file-name": file_name}
"""What holds of tests, too; what else holds of them, ruff and mypy know."""

_TASKS = PurePosixPath("kit/tasks.py")
_BROAD = {"Exception", "BaseException"}
_CONTAINERS = {"list", "dict", "set", "bytearray", "collections.defaultdict", "collections.deque"}
_LITERALS = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)

_Function = ast.FunctionDef | ast.AsyncFunctionDef


def _functions(module: Module) -> Iterator[_Function]:
    for node in module.nodes:
        if isinstance(node, _Function):
            yield node


def _modules(root: Path) -> Iterator[tuple[PurePosixPath, str]]:
    for file in sorted(root.rglob("*.py")):
        yield PurePosixPath(file.relative_to(root).as_posix()), file.read_text()


def _positional(function: _Function) -> list[ast.arg]:
    """Parameters without self and cls."""
    named = [*function.args.posonlyargs, *function.args.args]
    return named[1:] if named and named[0].arg in {"self", "cls"} else named


def _imported(nodes: Iterable[ast.AST]) -> dict[str, str]:
    names = {}
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                short = alias.asname or alias.name.partition(".")[0]
                names[short] = alias.name if alias.asname else short
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return names


def _dotted(module: Module, node: ast.AST) -> str:
    """`clock.time` as a full name, imports resolved; a call in the chain stands for its function."""
    match node:
        case ast.Name(id=name):
            return module.names.get(name, name)
        case ast.Attribute(value=value, attr=attribute):
            return f"{_dotted(module, value)}.{attribute}"
        case ast.Call(func=function):
            return _dotted(module, function)
    return "?"


def _caught(module: Module, node: ast.AST) -> set[str]:
    """The names in `except X` or `except (X, Y)`."""
    parts = node.elts if isinstance(node, ast.Tuple) else [node]
    return {_dotted(module, part).removeprefix("builtins.") for part in parts}


def _says(module: Module, handler: ast.ExceptHandler) -> bool:
    """Whether a comment stands in the handler."""
    end = handler.end_lineno or handler.lineno
    return any("# " in line for line in module.source.splitlines()[handler.lineno - 1 : end])


def _is_nothing(statement: ast.stmt) -> bool:
    is_word = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    return is_word or isinstance(statement, ast.Pass)


def main(arguments: list[str]) -> int:
    """Print every breach; exit status 1 if there is one."""
    root = Path(__file__).parents[1]
    if arguments:
        breaches = check_tree(Path(arguments[0]))
    else:
        breaches = check_tree(root / "src" / "penstock")
        breaches += check_tests(root / "tests")
    for breach in breaches:
        print(breach)
    return 1 if breaches else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
